//! `symbolon client`.

use std::path::Path;

use clap::Subcommand;
use symbolon_client::format::parse_public;
use symbolon_client::{Error, Name};
use symbolon_protocol::error::ErrorCode;
use symbolon_protocol::identity::PublicKey;
use symbolon_protocol::limits;
use symbolon_protocol::request::{Grant, Role};

use super::change::{BARRIER_DEADLINE, enforced};
use super::context::{Context, DEADLINE};
use super::out::{Done, Stop, usage};
use super::{files, json, parse};

/// So many hexadecimal digits are a key, or what is left of one, and no name of a file.
const DIGITS: usize = 40;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Register a client, or give one another role
    Add(Add),
    /// List clients with their roles
    List,
    /// Remove a client with all of its roles
    Remove {
        /// Name of the client
        #[arg(value_parser = parse::name)]
        name: Name,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct Add {
    /// Name of the client
    #[arg(value_parser = parse::name)]
    name: Name,
    /// Its public key: 64 hexadecimal digits, or a file with it (hexadecimal, PEM, DER or OpenSSH)
    #[arg(long, value_name = "KEY|FILE")]
    public_key: String,
    /// What it may do: admin (everything), key-admin (create and manage keys), signer (sign) or auditor (read)
    #[arg(long, value_parser = parse::role)]
    role: Role,
    /// On which keys: a name, or a pattern in which * stands for anything; admins have all
    #[arg(long = "key", value_name = "PATTERN")]
    keys: Option<String>,
}

pub(crate) async fn run(context: &Context, command: Command) -> Done {
    match command {
        Command::Add(args) => add(context, args).await,
        Command::List => list(context).await,
        Command::Remove { name } => {
            let client = context.client(BARRIER_DEADLINE).await?;
            let (request, enforcement) = client.remove_client(&name).await?;
            let enforcement = enforcement.as_ref();
            let shown = json::Enforcement::new(&client, enforcement);
            changed(context, &name, &request.to_string(), "is removed", shown)?;
            enforced(&context.out, &client, enforcement)
        }
    }
}

async fn add(context: &Context, args: Add) -> Done {
    let key = public_key(&args.public_key)?;
    let keys = match (args.role, args.keys) {
        (_, Some(keys)) => keys,
        (Role::Admin, None) => "*".to_owned(),
        // A role on everything is given on purpose only.
        (role, None) => {
            return usage(format!("role `{role}` on which keys?"), "name them with --key NAME or --key 'PATTERN*'");
        }
    };
    let grant = Grant { role: args.role, keys };
    let text = format!("has role {} on {}", grant.role, grant.keys);
    let client = context.client(DEADLINE).await?;
    let request = client.add_client(&args.name, key, grant).await?;
    changed(context, &args.name, &request.to_string(), &text, json::Enforcement::new(&client, None))
}

fn changed(context: &Context, name: &Name, request_id: &str, text: &str, enforcement: json::Enforcement) -> Done {
    if context.out.is_json() {
        let document = json::ClientChanged { client: name.to_string(), request_id: request_id.to_owned(), enforcement };
        return context.out.json(&document);
    }
    context.out.line(&format!("client {name} {text}"))
}

async fn list(context: &Context) -> Done {
    let client = context.client(DEADLINE).await?;
    let mut clients = Vec::new();
    let mut after = String::new();
    loop {
        let page = client.list_clients(&after, limits::PAGE_ITEMS).await?;
        clients.extend(page.clients);
        match page.next {
            Some(next) => after = next,
            None => break,
        }
    }
    if context.out.is_json() {
        return context.out.json(&json::Clients { clients: clients.iter().map(Into::into).collect() });
    }
    let rows = clients.iter().map(|client| {
        let grants: Vec<String> =
            client.grants.iter().map(|grant| format!("{} on {}", grant.role, grant.keys)).collect();
        vec![client.name.to_string(), client.key.to_string(), grants.join(", ")]
    });
    context.out.table(&["NAME", "PUBLIC KEY", "ROLES"], rows.collect())
}

/// A public key that was given as text or in a file.
pub(crate) fn public_key(text: &str) -> Done<PublicKey> {
    const HINT: &str = "give 64 hexadecimal digits or the path of a public key";
    let path = Path::new(text);
    let bytes = if path.exists() || !is_key_text(text) {
        files::read_small(path).map_err(|stop| match stop {
            Stop::Error(error) => Stop::from(error.with_hint(HINT)),
            other => other,
        })?
    } else {
        text.as_bytes().to_vec()
    };
    let wrong = |error: String| {
        let message = format!("`{}` is no public key: {error}", text.chars().take(80).collect::<String>());
        Error::new(ErrorCode::InvalidArgument, message).with_hint(HINT)
    };
    let key = parse_public(&bytes).map_err(|error| wrong(error.to_string()))?;
    Ok(PublicKey::from_bytes(&key).map_err(|error| wrong(error.to_string()))?)
}

/// Whether a text is meant as a key; everything else is the name of a file, which may be missing.
fn is_key_text(text: &str) -> bool {
    let text = text.trim();
    let is_hexadecimal = text.len() >= DIGITS && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let kind = text.split_once(' ').map(|(kind, _)| kind);
    let is_line = kind.is_some_and(|kind| ["ssh-", "ecdsa-", "sk-"].iter().any(|start| kind.starts_with(start)));
    is_hexadecimal || is_line || text.starts_with("-----BEGIN")
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use symbolon_client::format::PublicFormat;
    use symbolon_protocol::identity::Identity;

    use super::*;

    #[test]
    fn public_keys_are_read_from_text_and_files() {
        let key = Identity::from_seed(&[1; 32]).public();
        assert_eq!(public_key(&key.to_string()).unwrap(), key);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        for format in [PublicFormat::Pem, PublicFormat::Der, PublicFormat::Ssh, PublicFormat::Raw] {
            std::fs::write(&path, format.encode(key.as_bytes(), "comment")).unwrap();
            assert_eq!(public_key(path.to_str().unwrap()).unwrap(), key, "{format:?}");
        }
        // The neutral element: every signature of a certain form would verify under it.
        assert!(public_key(&format!("01{}", "00".repeat(31))).is_err());
    }
    #[test]
    fn a_missing_file_is_told_from_a_bad_key() {
        let told = |text: &str| match public_key(text) {
            Err(Stop::Error(error)) => (error.code(), error.message().to_owned()),
            _ => (ErrorCode::Internal, String::new()),
        };
        let directory = tempfile::tempdir().unwrap();
        for name in ["bob.pub", "release", "abcd", "ssh-keys/bob.pub", "my key.pub"] {
            let path = directory.path().join(name);
            let (code, message) = told(path.to_str().unwrap());
            assert_eq!(code, ErrorCode::LocalFile, "{message}");
            assert!(message.contains(name) && message.contains("No such file"), "{message}");
        }
        assert_eq!(told("no-such-file.pub").0, ErrorCode::LocalFile);
        assert_eq!(told(directory.path().to_str().unwrap()).0, ErrorCode::LocalFile);
        let (short, line) = ("ab".repeat(31), format!("ssh-rsa {}", "A".repeat(80)));
        for text in [short.as_str(), &"0".repeat(DIGITS), &line, "-----BEGIN CERTIFICATE-----"] {
            let (code, message) = told(text);
            assert_eq!(code, ErrorCode::InvalidArgument, "{message}");
            assert!(message.contains("no public key"), "{message}");
        }
    }
}
