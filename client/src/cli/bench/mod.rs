//! `symbolon bench`: what the cluster does, beside what the machine could do.

mod arithmetic;
mod figures;
mod keygen;
mod limit;
mod load;
mod refresh;

use std::num::NonZeroUsize;

use clap::Subcommand;
use symbolon_client::Name;
use symbolon_protocol::limits;

use super::context::Context;
use super::keys::Holders;
use super::out::Done;
use super::{no_runtime, parse};

/// Most clients of one run: each is a task with a request on the way.
const CLIENTS: i64 = 4096;
/// Longest run, seconds.
const SECONDS: i64 = 3600;
/// Most keys of one run.
const KEYS: i64 = 10_000;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Sign with many clients at once, and compare with the cryptography alone on this machine
    Sign(Sign),
    /// Make keys one after the other; they are revoked and destroyed at the end
    Keygen(Keygen),
    /// Refresh the shares of many keys while clients sign with them, and compare with signing undisturbed
    Refresh(Refresh),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Sign {
    /// Name of the key
    #[arg(long, value_parser = parse::name)]
    key: Name,
    /// Clients that sign at the same time
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=CLIENTS))]
    clients: u32,
    /// How long they sign
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=SECONDS))]
    seconds: u32,
    /// Messages in each request
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=limits::MESSAGES_PER_REQUEST as i64))]
    messages: u32,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Keygen {
    /// How many keys
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=KEYS))]
    count: u32,
    #[command(flatten)]
    holders: Holders,
    /// Leave the keys as they are
    #[arg(long)]
    keep: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Refresh {
    /// How many keys; each is refreshed once
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=KEYS))]
    keys: u32,
    /// Refreshes that run at the same time
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=limits::REDISTRIBUTIONS_AT_ONCE as i64))]
    parallel: u32,
    /// Clients that sign meanwhile
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=CLIENTS))]
    clients: u32,
    /// How long they sign before the refreshes begin
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=SECONDS))]
    seconds: u32,
    /// Take active keys whose names begin with this, and make none
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["threshold", "roster", "keep"])]
    prefix: Option<String>,
    #[command(flatten)]
    holders: Holders,
    /// Leave the keys as they are
    #[arg(long)]
    keep: bool,
}

/// Runs on all cores.
pub(crate) fn run(context: &Context, command: Command) -> Done {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| no_runtime(&error))?;
    runtime.block_on(async {
        match command {
            Command::Sign(args) => load::run(context, args).await,
            Command::Keygen(args) => keygen::run(context, args).await,
            Command::Refresh(args) => refresh::run(context, args).await,
        }
    })
}

/// Cores that this process may use.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}
