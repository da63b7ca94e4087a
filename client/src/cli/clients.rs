//! `symbolon client`.

use std::path::Path;

use clap::Subcommand;
use symbolon_client::format::parse_public;
use symbolon_client::{Error, Name};
use symbolon_protocol::error::ErrorCode;
use symbolon_protocol::identity::PublicKey;
use symbolon_protocol::limits;
use symbolon_protocol::request::{Grant, Role};

use super::context::{Context, DEADLINE};
use super::out::{Done, usage};
use super::{files, json, parse};

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
            let request = context.client(DEADLINE).await?.remove_client(&name).await?;
            changed(context, &name, &request.to_string(), "is removed")
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
    let request = context.client(DEADLINE).await?.add_client(&args.name, key, grant).await?;
    changed(context, &args.name, &request.to_string(), &text)
}

fn changed(context: &Context, name: &Name, request_id: &str, text: &str) -> Done {
    if context.out.is_json() {
        let document = json::ClientChanged { client: name.to_string(), request_id: request_id.to_owned() };
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
    let path = Path::new(text);
    let bytes = if path.is_file() { files::read_small(path)? } else { text.as_bytes().to_vec() };
    let wrong = |error: String| {
        let message = format!("`{}` is no public key: {error}", text.chars().take(80).collect::<String>());
        Error::new(ErrorCode::InvalidArgument, message)
            .with_hint("give 64 hexadecimal digits or the path of a public key")
    };
    let key = parse_public(&bytes).map_err(|error| wrong(error.to_string()))?;
    Ok(PublicKey::from_bytes(&key).map_err(|error| wrong(error.to_string()))?)
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
        assert!(public_key("release").is_err());
        // The neutral element: every signature of a certain form would verify under it.
        assert!(public_key(&format!("01{}", "00".repeat(31))).is_err());
    }
}
