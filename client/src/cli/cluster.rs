//! `symbolon cluster`.

use std::time::Duration;

use clap::Subcommand;
use symbolon_client::{Client, Error, Upgrade};
use symbolon_protocol::error::{Detail, ErrorCode};
use symbolon_protocol::state::LACKING;

use super::context::{Context, DEADLINE};
use super::member::Limit;
use super::out::Done;
use super::{json, parse};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Go over to the next state version, for good, once every member runs a release that knows it
    Upgrade(Args),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The next state version; `status` shows the present one
    #[arg(long, value_name = "VERSION", value_parser = clap::value_parser!(u32).range(1..))]
    to: u32,
    /// How long to wait for members that do not know it yet, such as 30m [default: not at all]
    #[arg(long, value_name = "TIME", value_parser = parse::duration)]
    wait: Option<Duration>,
}

pub(crate) async fn run(context: &Context, command: Command) -> Done {
    let Command::Upgrade(args) = command;
    let client = context.client(DEADLINE).await?;
    let upgrade = upgrade(context, &client, &args).await?;
    if context.out.is_json() {
        return context.out.json(&json::Upgraded::from(&upgrade));
    }
    let now = if upgrade.changed { "is now at" } else { "is at" };
    let already = if upgrade.changed { "" } else { " already" };
    context.out.line(&format!("the cluster {now} state version {}{already}", upgrade.state_version))
}

/// Asks until every member knows the version, as long as somebody wants to wait for it.
async fn upgrade(context: &Context, client: &Client, args: &Args) -> Done<Upgrade> {
    let limit = args.wait.map(Limit::new);
    let mut told = String::new();
    loop {
        let error = match client.upgrade_cluster(args.to).await {
            Ok(upgrade) => return Ok(upgrade),
            Err(error) => error,
        };
        let (Some(limit), Some(lacking)) = (&limit, lacking(&error)) else {
            return Err(explained(error).into());
        };
        if lacking != told {
            context.out.note(&format!("waiting for a release that knows it on {lacking}"));
            told = lacking;
        }
        limit.pause(&format!("a release that knows state version {} on {told}", args.to)).await?;
    }
}

/// Who does not know the version, when that is why it was refused.
fn lacking(error: &Error) -> Option<String> {
    match error.details().get(LACKING) {
        Some(Detail::List(names)) if error.code() == ErrorCode::VersionUnknown => Some(names.join(", ")),
        _ => None,
    }
}

fn explained(error: Error) -> Error {
    match lacking(&error) {
        Some(names) => {
            let hint =
                format!("install a release that knows it on {names}, one node at a time; then repeat the upgrade");
            error.with_hint(hint)
        }
        None => error,
    }
}
