//! `symbolon verify`: the cluster is asked for the certified public keys only; the rest is arithmetic.

use std::path::{Path, PathBuf};

use symbolon_client::format::{ParsedSignature, parse_signature};
use symbolon_client::verify::{Signer, names_signer, signed_bytes, signer};
use symbolon_client::{Error, Name, VerifiedKey};
use symbolon_protocol::error::ErrorCode;
use symbolon_protocol::identity::{PublicKey, Signature};
use symbolon_protocol::limits;

use super::clients::public_key;
use super::context::{Context, DEADLINE, versioned};
use super::out::{Done, fail, usage};
use super::sign::NAMESPACE;
use super::{files, json, parse};

/// Digits of a signature in base64 and in hexadecimal.
const SIGNATURE_DIGITS: [usize; 2] = [88, 128];

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name of the key
    #[arg(value_parser = parse::name)]
    key: Name,
    /// File that was signed; - for standard input
    file: PathBuf,
    /// Signature: a file (raw, base64, hexadecimal or an SSH signature), - for standard input, or the text itself
    signature: String,
    /// Take signatures of a version that was revoked or destroyed
    #[arg(long)]
    allow_revoked: bool,
    /// What an SSH signature has to be for [default: file]
    #[arg(long, value_name = "NS")]
    namespace: Option<String>,
    /// Verify under this public key and ask no node: 64 hexadecimal digits, or a file with it
    #[arg(long, value_name = "KEY|FILE", conflicts_with = "allow_revoked")]
    public_key: Option<String>,
}

pub(crate) async fn run(context: &Context, args: Args) -> Done {
    check_input(&args)?;
    let parsed = signature(&args.signature)?;
    check_namespace(&parsed, args.namespace.as_deref())?;
    let message = message(&parsed, &args.file)?;
    let bytes = Signature::from_bytes(*parsed.bytes());
    if let Some(text) = &args.public_key {
        let key = public_key(text)?;
        check_named(&parsed, &key)?;
        if !key.verifies_raw(&message, &bytes) {
            return no_match(&args, "the given public key");
        }
        return told(context, &args, &parsed, &key, None);
    }
    let key = context.client(DEADLINE).await?.show_key(&args.key).await?;
    let Some(signer) = signer(&key, &message, &bytes) else {
        return no_match(&args, &format!("any certified version of key `{}`", args.key));
    };
    check_named(&parsed, &signer.public_key)?;
    if !signer.counts() && !args.allow_revoked {
        return withdrawn(&args.key, &signer);
    }
    told(context, &args, &parsed, &signer.public_key, Some((&key, &signer)))
}

fn no_match(args: &Args, under: &str) -> Done {
    let message = format!("the signature over {} does not verify under {under}", args.file.display());
    fail(ErrorCode::VerificationFailed, message)
}

fn withdrawn(key: &Name, signer: &Signer) -> Done {
    let reason = signer.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
    let what = versioned(key, signer.version);
    let message = format!("the signature verifies, but {what} is {}{reason}", signer.state);
    let hint = "do not trust it, unless you know that it was made before: --allow-revoked";
    Err(Error::new(ErrorCode::WrongState, message).with_hint(hint).into())
}

/// Standard input can be read once.
fn check_input(args: &Args) -> Done {
    let is_input = |text: &str| text == "-";
    let named = [
        ("FILE", args.file.to_str().is_some_and(is_input)),
        ("SIGNATURE", is_input(&args.signature)),
        ("--public-key", args.public_key.as_deref().is_some_and(is_input)),
    ];
    let both: Vec<&str> = named.iter().filter(|(_, is_input)| *is_input).map(|(name, _)| *name).collect();
    if both.len() < 2 {
        return Ok(());
    }
    let message = format!("standard input (-) can be read once, and {} name it", both.join(" and "));
    usage(message, "give all but one of them as files")
}

/// Reads the signature from a file, or takes the text for it.
fn signature(text: &str) -> Done<ParsedSignature> {
    let path = Path::new(text);
    let is_text = SIGNATURE_DIGITS.contains(&text.trim().len());
    let bytes = if path.exists() || !is_text { files::read_small(path)? } else { text.as_bytes().to_vec() };
    match parse_signature(&bytes) {
        Ok(parsed) => Ok(parsed),
        Err(error) => fail(ErrorCode::VerificationFailed, error.to_string()),
    }
}

/// A signature for another purpose is none for this one.
fn check_namespace(parsed: &ParsedSignature, namespace: Option<&str>) -> Done {
    let expected = namespace.unwrap_or(NAMESPACE);
    match parsed {
        ParsedSignature::Plain(_) if namespace.is_some() => {
            fail(ErrorCode::VerificationFailed, "the signature is no SSH signature: it has no namespace")
        }
        ParsedSignature::Sshsig(sshsig) if sshsig.namespace != expected => {
            let message = format!("the SSH signature is for `{}`, not for `{expected}`", sshsig.namespace);
            let hint = "name what it has to be for with --namespace";
            Err(Error::new(ErrorCode::VerificationFailed, message).with_hint(hint).into())
        }
        ParsedSignature::Plain(_) | ParsedSignature::Sshsig(_) => Ok(()),
    }
}

fn check_named(parsed: &ParsedSignature, key: &PublicKey) -> Done {
    match parsed {
        ParsedSignature::Sshsig(sshsig) if !names_signer(sshsig, key) => {
            fail(ErrorCode::VerificationFailed, "the SSH signature names another key than the one that verifies it")
        }
        ParsedSignature::Plain(_) | ParsedSignature::Sshsig(_) => Ok(()),
    }
}

/// What the signature has to be over.
fn message(parsed: &ParsedSignature, file: &Path) -> Done<Vec<u8>> {
    let read = signed_bytes(parsed, files::open(file)?, limits::MESSAGE_BYTES);
    match read.map_err(|error| files::unreadable(file, &error))? {
        Ok(Some(message)) => Ok(message),
        Ok(None) => {
            let message = format!("the file has more than {} bytes", limits::MESSAGE_BYTES);
            fail(ErrorCode::VerificationFailed, format!("{message}: only an SSH signature can be over it"))
        }
        Err(error) => fail(ErrorCode::VerificationFailed, error.to_string()),
    }
}

fn told(
    context: &Context,
    args: &Args,
    parsed: &ParsedSignature,
    public_key: &PublicKey,
    signer: Option<(&VerifiedKey, &Signer)>,
) -> Done {
    if context.out.is_json() {
        let (format, namespace) = match parsed {
            ParsedSignature::Plain(_) => ("plain", None),
            ParsedSignature::Sshsig(sshsig) => ("sshsig", Some(sshsig.namespace.clone())),
        };
        return context.out.json(&json::Verified {
            valid: true,
            key: args.key.to_string(),
            key_id: signer.map(|(key, _)| key.view.id.to_string()),
            version: signer.map(|(_, signer)| signer.version.get()),
            state: signer.map(|(_, signer)| signer.state.to_string()),
            reason: signer.and_then(|(_, signer)| signer.reason.clone()),
            public_key: public_key.to_string(),
            format,
            namespace,
        });
    }
    match signer {
        Some((_, signer)) => {
            let what = versioned(&args.key, signer.version);
            context.out.line(&format!("good signature by {what} ({})", signer.state))
        }
        None => context.out.line(&format!("good signature by {public_key}")),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use symbolon_client::format::sshsig;

    use super::super::out::Stop;
    use super::*;

    fn code<T>(result: Done<T>) -> Option<ErrorCode> {
        match result {
            Err(Stop::Error(error)) => Some(error.code()),
            _ => None,
        }
    }

    #[test]
    fn signatures_are_files_or_text() {
        let hex = "ab".repeat(64);
        assert!(matches!(signature(&hex), Ok(ParsedSignature::Plain(_))));
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("signature");
        std::fs::write(&path, &hex).unwrap();
        assert!(matches!(signature(path.to_str().unwrap()), Ok(ParsedSignature::Plain(_))));
        std::fs::write(&path, "something else").unwrap();
        assert_eq!(code(signature(path.to_str().unwrap())), Some(ErrorCode::VerificationFailed));
        assert_eq!(code(signature("no-such-file.sig")), Some(ErrorCode::LocalFile));
        assert_eq!(code(signature(&"g".repeat(128))), Some(ErrorCode::VerificationFailed));
    }

    #[test]
    fn standard_input_is_read_once() {
        let args = |file: &str, signature: &str, public_key: Option<&str>| Args {
            key: Name::new("release").unwrap(),
            file: file.into(),
            signature: signature.to_owned(),
            allow_revoked: false,
            namespace: None,
            public_key: public_key.map(str::to_owned),
        };
        for once in [args("-", "s", None), args("f", "-", Some("k")), args("f", "s", Some("-"))] {
            assert!(check_input(&once).is_ok());
        }
        for twice in [args("-", "-", None), args("-", "s", Some("-")), args("f", "-", Some("-"))] {
            assert_eq!(code(check_input(&twice)), Some(ErrorCode::InvalidArgument));
        }
    }

    #[test]
    fn a_namespace_has_to_be_the_expected_one() {
        let parsed = parse_signature(sshsig::encode(&[1; 32], "git", &[2; 64]).as_bytes()).unwrap();
        assert!(check_namespace(&parsed, Some("git")).is_ok());
        assert_eq!(code(check_namespace(&parsed, None)), Some(ErrorCode::VerificationFailed));
        let plain = ParsedSignature::Plain([0; 64]);
        assert!(check_namespace(&plain, None).is_ok());
        assert_eq!(code(check_namespace(&plain, Some("file"))), Some(ErrorCode::VerificationFailed));
    }
}
