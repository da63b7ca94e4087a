//! `symbolon key suspend|resume|revoke|destroy`.

use std::time::Duration;

use symbolon_client::{Client, Enforcement, Error, KeyChange, Name};
use symbolon_protocol::error::{Detail, ErrorCode, Refusal};
use symbolon_protocol::fresh::Enforced;
use symbolon_protocol::id::KeyVersion;
use symbolon_protocol::lifecycle::KeyState;

use super::context::{Context, DEADLINE, node_names};
use super::out::{Done, Out, usage};
use super::{json, parse};

/// Deadline where a right is taken away, unless the user set one: its end is waited for.
pub(crate) const BARRIER_DEADLINE: Duration = Duration::from_secs(30);

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
    let client = context.client(BARRIER_DEADLINE).await?;
    let change = client.suspend_key(&target.key, target.version).await?;
    told(context, &client, &target.key, &change)
}

pub(crate) async fn resume(context: &Context, target: Target) -> Done {
    let client = context.client(DEADLINE).await?;
    let change = client.resume_key(&target.key, target.version).await?;
    told(context, &client, &target.key, &change)
}

pub(crate) async fn revoke(context: &Context, args: Revoke) -> Done {
    let client = context.client(BARRIER_DEADLINE).await?;
    let change = client.revoke_key(&args.key, args.version, &args.reason).await?;
    told(context, &client, &args.key, &change)
}

pub(crate) async fn destroy(context: &Context, args: Destroy) -> Done {
    let client = context.client(BARRIER_DEADLINE).await?;
    let change = if args.cancel {
        client.cancel_destroy_key(&args.key, args.version).await?
    } else {
        let Some(confirm) = args.confirm else {
            return usage("the destruction is not confirmed", "type the name of the key with --confirm KEY");
        };
        client.destroy_key(&args.key, args.version, &confirm, args.wait.unwrap_or_default()).await?
    };
    told(context, &client, &args.key, &change)
}

fn told(context: &Context, client: &Client, key: &Name, change: &KeyChange) -> Done {
    let enforcement = change.enforcement.as_ref();
    if context.out.is_json() {
        let state = |(version, state): &(KeyVersion, KeyState)| json::VersionState {
            version: version.get(),
            state: state.name(),
        };
        context.out.json(&json::Changed {
            key: key.to_string(),
            key_id: change.key_id.to_string(),
            versions: change.versions.iter().map(state).collect(),
            request_id: change.request_id.to_string(),
            index: change.index,
            enforcement: json::Enforcement::new(client, enforcement),
        })?;
    } else {
        for (version, state) in &change.versions {
            context.out.line(&format!("key {key} version {version} is {state}"))?;
        }
    }
    enforced(&context.out, client, enforcement)
}

/// Says how far a right is gone, and ends with an error when it is not: the change stands all the same.
pub(crate) fn enforced(out: &Out, client: &Client, enforcement: Option<&Enforcement>) -> Done {
    let Some(Enforcement { enforced, missing, .. }) = enforcement else { return Ok(()) };
    let names = node_names(client, missing).join(", ");
    let without = if names.is_empty() { String::new() } else { format!(", without {names}") };
    if !out.is_json() {
        out.line(&format!("enforced: {}{without}", enforced.name()))?;
    }
    if *enforced != Enforced::No {
        return Ok(());
    }
    let message =
        format!("the change is ordered and stays, and nodes that have not heard of it may still act{without}");
    let hint =
        "bring the named nodes back, or give it more time with --timeout; any later change that is enforced covers it";
    let refusal = Refusal::new(ErrorCode::NoQuorum, message).with("missing", Detail::List(node_names(client, missing)));
    Err(Error::from(refusal).with_hint(hint).into())
}
