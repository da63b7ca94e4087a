//! `symbolon key export-public`.

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::ValueEnum as _;
use symbolon_client::format::PublicFormat;
use symbolon_client::{Client, Name, VerifiedKey};
use symbolon_protocol::error::ErrorCode;
use symbolon_protocol::id::KeyVersion;
use symbolon_protocol::lifecycle::{Event, Verdict, decide};

use super::context::{Context, DEADLINE, versioned};
use super::out::{Done, fail, is_terminal, usage};
use super::{files, json, parse};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name of the key
    #[arg(value_parser = parse::name)]
    key: Name,
    /// Form of the public key
    #[arg(long, value_enum, default_value_t = PublicFormat::Pem)]
    format: PublicFormat,
    /// Which version [default: the one that signs, else the newest that is certified]
    #[arg(long, value_parser = parse::version)]
    version: Option<KeyVersion>,
    /// Write to a file
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(crate) async fn run(context: &Context, args: Args) -> Done {
    let binary = matches!(args.format, PublicFormat::Der | PublicFormat::Raw);
    if binary && args.out.is_none() && !context.out.is_json() && is_terminal() {
        return usage("binary output is not for a terminal", "write it to a file with --out FILE");
    }
    let client = context.client(DEADLINE).await?;
    let (key, version) = certified(&client, &args.key, args.version).await?;
    let view = &key.view;
    let found = (view.version(version), key.certified(version));
    let (Some(shown), Some(certified)) = found else {
        return fail(ErrorCode::WrongState, format!("{} has no public key", versioned(&args.key, version)));
    };
    if decide(shown.state, Event::Verify) == Verdict::No {
        let what = versioned(&args.key, version);
        context.out.warn(&format!("{what} is {}: its signatures no longer count", shown.state));
    }
    let bytes = args.format.encode(certified.public_key.as_bytes(), &format!("{}/{version}", view.name));
    if let Some(path) = &args.out {
        files::write(path, &bytes)?;
    }
    if context.out.is_json() {
        let text = if binary { STANDARD.encode(&bytes) } else { String::from_utf8_lossy(&bytes).into_owned() };
        return context.out.json(&json::Exported {
            key: view.name.to_string(),
            key_id: view.id.to_string(),
            version: version.get(),
            state: shown.state.name(),
            algorithm: view.suite.to_string(),
            format: args.format.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default(),
            public_key: text,
            hex: certified.public_key.to_string(),
        });
    }
    if args.out.is_some() { Ok(()) } else { context.out.raw(&bytes) }
}

/// The key with the version that is meant, certified.
async fn certified(client: &Client, name: &Name, version: Option<KeyVersion>) -> Done<(VerifiedKey, KeyVersion)> {
    if let Some(version) = version {
        return Ok((client.show_version(name, version).await?, version));
    }
    let key = client.show_key(name).await?;
    let newest = || key.view.versions.iter().rev().map(|version| version.number).find(|v| key.certified(*v).is_some());
    match key.view.current.or_else(newest) {
        Some(version) => Ok((key, version)),
        None => fail(ErrorCode::WrongState, format!("key `{name}` has no public key yet")),
    }
}
