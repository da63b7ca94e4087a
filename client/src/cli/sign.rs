//! `symbolon sign`.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::ValueEnum as _;
use symbolon_client::format::sshsig::{self, SshsigHasher};
use symbolon_client::format::{FormatError, SignatureFormat};
use symbolon_client::{Client, Error, Name, SignOutcome};
use symbolon_protocol::error::ErrorCode;
use symbolon_protocol::identity::Signature;
use symbolon_protocol::limits;

use super::context::{Context, DEADLINE, node_names};
use super::out::{Done, Stop, fail, is_terminal, usage};
use super::{files, json, parse};

/// Namespace of SSH signatures over files, as ssh-keygen's manual has it.
pub(crate) const NAMESPACE: &str = "file";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name of the key
    #[arg(value_parser = parse::name)]
    key: Name,
    /// File to sign; - for standard input. More than 1 MiB only as sshsig
    file: PathBuf,
    /// Form of the signature: over the bytes of the file (base64, raw), or as ssh-keygen makes it (sshsig)
    #[arg(long, value_enum, default_value_t = SignatureFormat::Base64)]
    format: SignatureFormat,
    /// What an SSH signature is for, such as file or git [default: file]
    #[arg(long, value_name = "NS")]
    namespace: Option<String>,
    /// Write the signature to a file
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(crate) async fn run(context: &Context, args: Args) -> Done {
    let is_sshsig = args.format == SignatureFormat::Sshsig;
    if args.namespace.is_some() && !is_sshsig {
        return usage("only SSH signatures have a namespace", "add --format sshsig, or leave --namespace out");
    }
    // Asked before a signature is made that nobody could keep.
    if let Some(parent) = args.out.as_deref().and_then(std::path::Path::parent)
        && !parent.as_os_str().is_empty()
        && !parent.is_dir()
    {
        return usage(format!("--out: there is no directory {}", parent.display()), "make it, or name another file");
    }
    let bare = args.out.is_none() && !context.out.is_json();
    if args.format == SignatureFormat::Raw && bare && is_terminal() {
        let hint = "write it to a file with --out FILE, or use --format base64";
        return usage("a raw signature is not for a terminal", hint);
    }
    let namespace = args.namespace.as_deref().unwrap_or(NAMESPACE);
    let message = if is_sshsig { hashed(&args.file, namespace)? } else { whole(&args.file)? };
    let client = context.client(DEADLINE).await?;
    let signed = client.sign_many(&args.key, vec![message]).await?;
    let Some(signature) = signed.signatures.first() else {
        return fail(ErrorCode::Internal, "a signature was made and is missing");
    };
    let bytes = encode(&args, namespace, &signed, signature);
    if let Some(path) = &args.out {
        files::write(path, &bytes)?;
    }
    if context.out.is_json() {
        return context.out.json(&document(&client, &args, &signed, signature, &bytes));
    }
    if bare {
        context.out.raw(&bytes)?;
    }
    context.out.note(&receipt(&client, &args.key, &signed));
    Ok(())
}

/// The bytes of a file that is signed as it is.
fn whole(file: &Path) -> Done<Vec<u8>> {
    files::read(file, limits::MESSAGE_BYTES)?.ok_or_else(|| {
        let message = format!("{} has more than {} bytes", file.display(), limits::MESSAGE_BYTES);
        Error::new(ErrorCode::TooLarge, message).into()
    })
}

/// What is signed for an SSH signature: a hash of the file, which may be of any size.
fn hashed(file: &Path, namespace: &str) -> Done<Vec<u8>> {
    let hash = SshsigHasher::hash_reader(files::open(file)?).map_err(|error| files::unreadable(file, &error))?;
    sshsig::signed_data(namespace, &hash).map_err(|error| malformed(&error))
}

/// A format that the user asked for and that cannot be.
fn malformed(error: &FormatError) -> Stop {
    Error::new(ErrorCode::InvalidArgument, error.to_string()).into()
}

fn encode(args: &Args, namespace: &str, signed: &SignOutcome, signature: &Signature) -> Vec<u8> {
    match args.format {
        SignatureFormat::Raw => signature.as_bytes().to_vec(),
        SignatureFormat::Base64 => format!("{}\n", STANDARD.encode(signature.as_bytes())).into_bytes(),
        SignatureFormat::Sshsig => {
            sshsig::encode(signed.public_key.as_bytes(), namespace, signature.as_bytes()).into_bytes()
        }
    }
}

fn document(client: &Client, args: &Args, signed: &SignOutcome, signature: &Signature, bytes: &[u8]) -> json::Signed {
    let text = match args.format {
        SignatureFormat::Sshsig => String::from_utf8_lossy(bytes).into_owned(),
        SignatureFormat::Base64 | SignatureFormat::Raw => STANDARD.encode(signature.as_bytes()),
    };
    json::Signed {
        key: args.key.to_string(),
        key_id: signed.key_id.to_string(),
        version: signed.version.get(),
        algorithm: "ed25519".to_owned(),
        format: args.format.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default(),
        signature: text,
        request_id: signed.request_id.to_string(),
        epoch: signed.epoch.get(),
        coordinator: signed.coordinator.map(|node| client.node_name(node)),
        holders: node_names(client, &signed.holders),
        attempts: signed.attempts,
    }
}

fn receipt(client: &Client, key: &Name, signed: &SignOutcome) -> String {
    let holders = node_names(client, &signed.holders).join(", ");
    let by = signed.coordinator.map(|node| format!(", coordinated by {}", client.node_name(node))).unwrap_or_default();
    let tries = if signed.attempts > 1 { format!(", attempt {}", signed.attempts) } else { String::new() };
    let (version, epoch, request) = (signed.version, signed.epoch, signed.request_id);
    format!("signed with key {key} version {version} epoch {epoch} by {holders}{by}{tries}; request {request}")
}
