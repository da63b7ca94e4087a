//! `symbolon key suspend|resume|revoke|destroy`.

use std::time::Duration;

use symbolon_client::{KeyChange, Name};
use symbolon_protocol::id::KeyVersion;
use symbolon_protocol::lifecycle::KeyState;

use super::context::{Context, DEADLINE};
use super::out::{Done, usage};
use super::{json, parse};

/// A key, or one version of it.
#[derive(Debug, clap::Args)]
pub(crate) struct Target {
    /// Name of the key
    #[arg(value_parser = parse::name)]
    key: Name,
    /// Which version [default: the active one]
    #[arg(long, value_parser = parse::version)]
    version: Option<KeyVersion>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Revoke {
    /// Name of the key
    #[arg(value_parser = parse::name)]
    key: Name,
    /// Why; stays with the key for ever
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Which version [default: all]
    #[arg(long, value_parser = parse::version)]
    version: Option<KeyVersion>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Destroy {
    /// Name of the key
    #[arg(value_parser = parse::name)]
    key: Name,
    /// The name of the key once more
    #[arg(long, value_name = "KEY", value_parser = parse::name, required_unless_present = "cancel")]
    confirm: Option<Name>,
    /// Wait before anything is erased, such as 7d
    #[arg(long = "in", value_name = "TIME", value_parser = parse::duration)]
    wait: Option<Duration>,
    /// Call a destruction off while it waits
    #[arg(long, conflicts_with_all = ["confirm", "wait"])]
    cancel: bool,
    /// Which version [default: all]
    #[arg(long, value_parser = parse::version)]
    version: Option<KeyVersion>,
}

pub(crate) async fn suspend(context: &Context, target: Target) -> Done {
    let change = context.client(DEADLINE).await?.suspend_key(&target.key, target.version).await?;
    told(context, &target.key, &change)
}

pub(crate) async fn resume(context: &Context, target: Target) -> Done {
    let change = context.client(DEADLINE).await?.resume_key(&target.key, target.version).await?;
    told(context, &target.key, &change)
}

pub(crate) async fn revoke(context: &Context, args: Revoke) -> Done {
    let change = context.client(DEADLINE).await?.revoke_key(&args.key, args.version, &args.reason).await?;
    told(context, &args.key, &change)
}

pub(crate) async fn destroy(context: &Context, args: Destroy) -> Done {
    let client = context.client(DEADLINE).await?;
    let change = if args.cancel {
        client.cancel_destroy_key(&args.key, args.version).await?
    } else {
        let Some(confirm) = args.confirm else {
            return usage("the destruction is not confirmed", "type the name of the key with --confirm KEY");
        };
        client.destroy_key(&args.key, args.version, &confirm, args.wait.unwrap_or_default()).await?
    };
    told(context, &args.key, &change)
}

fn told(context: &Context, key: &Name, change: &KeyChange) -> Done {
    if context.out.is_json() {
        let state = |(version, state): &(KeyVersion, KeyState)| json::VersionState {
            version: version.get(),
            state: state.name(),
        };
        return context.out.json(&json::Changed {
            key: key.to_string(),
            key_id: change.key_id.to_string(),
            versions: change.versions.iter().map(state).collect(),
            request_id: change.request_id.to_string(),
            index: change.index,
        });
    }
    for (version, state) in &change.versions {
        context.out.line(&format!("key {key} version {version} is {state}"))?;
    }
    Ok(())
}
