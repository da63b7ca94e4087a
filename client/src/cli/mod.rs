//! The command line: arguments here, one file per group of verbs.

mod bench;
mod change;
mod clients;
mod cluster;
mod context;
mod docs;
mod doctor;
mod explain;
mod export;
mod files;
mod identity;
mod json;
mod keys;
mod member;
mod operation;
mod out;
mod parse;
mod shares;
mod sign;
mod status;
mod verify;

use std::future::Future;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Parser, Subcommand};
use symbolon_client::Error;
use symbolon_protocol::error::{Detail, ErrorCode, Refusal};

use context::Context;
use out::{Done, Out, Stop, Style};

/// Signs with keys that exist nowhere, and manages them.
///
/// Every command asks the nodes of a cluster (SYMBOLON_ENDPOINTS, or those of the genesis file) with the identity in
/// SYMBOLON_IDENTITY. Exit codes: 0 ok, 1 other failure, 2 usage, 3 denied, 4 unavailable, 5 wrong state, 6 verification failed;
/// `symbolon help errors` prints them all.
#[derive(Debug, Parser)]
#[command(name = "symbolon", version, disable_help_subcommand = true, arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes. Flags go before environment variables.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Global {
    /// Genesis file of the cluster
    #[arg(long, global = true, env = "SYMBOLON_GENESIS", value_name = "FILE", help_heading = "Common options")]
    pub(crate) genesis: Option<PathBuf>,
    /// File of the identity that asks
    #[arg(long, global = true, env = "SYMBOLON_IDENTITY", value_name = "FILE", help_heading = "Common options")]
    pub(crate) identity: Option<PathBuf>,
    /// Endpoints in the order in which they are asked [default: those in the genesis file]
    #[arg(
        long,
        global = true,
        env = "SYMBOLON_ENDPOINTS",
        value_name = "HOST:PORT,...",
        value_delimiter = ',',
        help_heading = "Common options"
    )]
    pub(crate) endpoints: Vec<String>,
    /// Deadline of each call in seconds [default: 10, or 60 where a key is made or shares are moved]
    #[arg(long, global = true, value_name = "SECONDS", value_parser = parse::seconds, help_heading = "Common options")]
    pub(crate) timeout: Option<Duration>,
    /// Form of the output
    #[arg(
        short = 'o',
        long = "output",
        global = true,
        value_enum,
        default_value_t = Style::Table,
        value_name = "FORM",
        help_heading = "Common options"
    )]
    pub(crate) output: Style,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make or show the identity of this client
    #[command(subcommand)]
    Identity(identity::Command),
    /// Register, list and remove clients
    #[command(subcommand)]
    Client(clients::Command),
    /// Add, remove, replace and list the nodes of the cluster
    #[command(subcommand)]
    Member(member::Command),
    /// Change the rules by which the whole cluster goes
    #[command(subcommand)]
    Cluster(cluster::Command),
    /// Show nodes, leader and keys as a node sees them
    Status,
    /// Have every node examine itself; exit 0 when nothing failed, 4 otherwise
    Doctor,
    /// Make, show and manage keys
    #[command(subcommand)]
    Key(keys::Command),
    /// Show share operations: keys that are made, refreshed or moved
    #[command(subcommand)]
    Operation(operation::Command),
    /// Sign a file
    Sign(sign::Args),
    /// Verify a signature
    Verify(verify::Args),
    /// Ask the nodes about a request
    #[command(subcommand)]
    Request(explain::Command),
    /// Measure the cluster
    #[command(subcommand)]
    Bench(bench::Command),
    /// Print completions for a shell
    Completions(docs::Completions),
    /// Print the manual page, or write all of them
    Man(docs::Man),
    /// Print help: of the program, a command, or `errors`
    Help(docs::Help),
}

/// Parses the arguments, runs the command and tells what went wrong.
pub(crate) fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => return refused(&error),
    };
    let context = Context::new(args.global);
    let result = run(&context, args.command);
    context.out.finish(result.err())
}

/// What clap has to say: help and versions are no errors.
fn refused(error: &clap::Error) -> ExitCode {
    if error.use_stderr() && wants_json(std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned())) {
        return Out::new(Style::Json).finish(Some(Stop::from(usage_error(error))));
    }
    // Nobody left to tell when this fails.
    let _ = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

/// What clap has to say as an error of ours: on one line, with the arguments that it is about.
fn usage_error(error: &clap::Error) -> Error {
    let named = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(name)) => vec![name.clone()],
        Some(ContextValue::Strings(names)) => names.clone(),
        _ => Vec::new(),
    };
    let message = match error.kind() {
        // What clap would print is the help.
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => "a command is missing".to_owned(),
        _ => first_paragraph(&error.render().to_string()),
    };
    let mut refusal = Refusal::new(ErrorCode::InvalidArgument, message);
    if !named.is_empty() {
        refusal = refusal.with("arguments", Detail::List(named));
    }
    Error::from(refusal).with_hint("see `symbolon help`")
}

/// What went wrong and with which arguments; tips and usage stand in further paragraphs.
fn first_paragraph(text: &str) -> String {
    let text = text.strip_prefix("error: ").unwrap_or(text);
    let mut lines = text.lines().map(str::trim).take_while(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default();
    let rest = lines.collect::<Vec<_>>().join(", ");
    format!("{first} {rest}").trim_end().to_owned()
}

/// Whether arguments that do not parse ask for JSON.
fn wants_json(args: impl Iterator<Item = String>) -> bool {
    let mut before = String::new();
    for arg in args {
        if matches!(arg.as_str(), "-ojson" | "-o=json" | "--output=json") {
            return true;
        }
        if arg == "json" && matches!(before.as_str(), "-o" | "--output") {
            return true;
        }
        before = arg;
    }
    false
}

fn run(context: &Context, command: Command) -> Done {
    match command {
        Command::Identity(command) => identity::run(context, command),
        Command::Client(command) => block_on(clients::run(context, command)),
        Command::Member(command) => block_on(member::run(context, command)),
        Command::Cluster(command) => block_on(cluster::run(context, command)),
        Command::Status => block_on(status::run(context)),
        Command::Doctor => block_on(doctor::run(context)),
        Command::Key(command) => block_on(keys::run(context, command)),
        Command::Operation(command) => block_on(operation::run(context, command)),
        Command::Sign(args) => block_on(sign::run(context, args)),
        Command::Verify(args) => block_on(verify::run(context, args)),
        Command::Request(command) => block_on(explain::run(context, command)),
        Command::Bench(command) => bench::run(context, command),
        Command::Completions(args) => docs::completions(context, &args),
        Command::Man(args) => docs::man(context, &args),
        Command::Help(args) => docs::help(context, &args),
    }
}

/// One thread is enough for one command.
fn block_on(command: impl Future<Output = Done>) -> Done {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| no_runtime(&error))?.block_on(command)
}

fn no_runtime(error: &std::io::Error) -> Stop {
    Error::new(ErrorCode::Internal, format!("the runtime does not start: {error}")).into()
}

#[cfg(test)]
mod tests;
