//! `symbolon identity`.

use std::path::PathBuf;

use clap::Subcommand;
use rand_core::OsRng;
use symbolon_client::keyfile;
use symbolon_protocol::identity::Identity;

use super::context::Context;
use super::json;
use super::out::Done;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a new identity: FILE, for you alone, and FILE.pub, for the administrator
    New(File),
    /// Print the public key of an identity
    Show(File),
}

#[derive(Debug, clap::Args)]
pub(crate) struct File {
    /// File of the identity [default: what --identity or SYMBOLON_IDENTITY names, else ~/.config/symbolon/identity]
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

pub(crate) fn run(context: &Context, command: Command) -> Done {
    let (file, is_new) = match command {
        Command::New(args) => (args.file, true),
        Command::Show(args) => (args.file, false),
    };
    let file = file.map_or_else(|| context.identity_path(), Ok)?;
    let public = if is_new {
        let identity = Identity::generate(&mut OsRng);
        keyfile::create(&file, &identity)?;
        identity.public()
    } else {
        keyfile::load(&file)?.public()
    };
    if context.out.is_json() {
        let document = json::Identity { file: file.display().to_string(), public_key: public.to_string() };
        return context.out.json(&document);
    }
    if is_new {
        context.out.note(&format!("made {} and {}", file.display(), keyfile::public_path(&file).display()));
    }
    context.out.line(&public.to_string())
}
