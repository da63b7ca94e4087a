//! `symbolon key refresh|reshare|policy`, and what `key show` says of shares.

use std::time::{Duration, Instant};

use symbolon_client::{Client, KeyPolicy, Name, NewShares, PlanOptions, ShareMove, roster};
use symbolon_protocol::id::{KeyVersion, NodeId};
use symbolon_protocol::state::view::VersionView;

use super::context::{Context, DEADLINE, KEY_DEADLINE, node_names};
use super::operation::{self, Progress};
use super::out::{Done, Out};
use super::parse::{self, Every};
use super::{json, keys};

/// What both ways to move shares take.
#[derive(Debug, clap::Args)]
pub(crate) struct Move {
    /// Which version [default: the active one]
    #[arg(long, value_parser = parse::version)]
    version: Option<KeyVersion>,
    /// Members that take no part [default: those that cannot be reached]
    #[arg(long, value_name = "NODE,...", value_delimiter = ',', value_parser = parse::name)]
    absent: Vec<Name>,
    /// Return as soon as it has begun
    #[arg(long)]
    no_wait: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Refresh {
    /// Name of the key
    #[arg(value_parser = parse::name)]
    key: Name,
    #[command(flatten)]
    how: Move,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Reshare {
    /// Name of the key
    #[arg(value_parser = parse::name)]
    key: Name,
    /// New holders by name or number, in order [default: as before]
    #[arg(
        long,
        value_name = "NODE,...",
        value_delimiter = ',',
        value_parser = parse::name,
        required_unless_present = "threshold"
    )]
    roster: Vec<Name>,
    /// Holders needed for a signature [default: as before for as many holders, else more than half]
    #[arg(long, value_name = "T")]
    threshold: Option<usize>,
    #[command(flatten)]
    how: Move,
}

/// How a key is kept.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct PolicyOptions {
    /// Renew the shares by schedule, such as 24h, at most every 10s; or never
    #[arg(long, value_name = "TIME", value_parser = parse::every)]
    refresh_every: Option<Every>,
    /// How long a holder that hears of no majority of the nodes goes on signing: 300ms to 5m, 1s unless set. Longer: the key
    /// signs for longer without a majority. Shorter: a revocation takes hold sooner at a node that is cut off. A shorter time
    /// takes hold fully only after the old one has passed
    #[arg(long, value_name = "TIME", value_parser = parse::duration)]
    max_staleness: Option<Duration>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Policy {
    /// Name of the key
    #[arg(value_parser = parse::name)]
    key: Name,
    #[command(flatten)]
    change: PolicyOptions,
}

impl PolicyOptions {
    /// A policy with what the options say in the place of what it said.
    pub(super) fn over(self, before: KeyPolicy) -> KeyPolicy {
        let staleness = self.max_staleness.map(|time| u32::try_from(time.as_millis()).unwrap_or(u32::MAX));
        KeyPolicy {
            max_staleness_ms: staleness.unwrap_or(before.max_staleness_ms),
            refresh_every_ms: self.refresh_every.map_or(before.refresh_every_ms, Every::milliseconds),
        }
    }
    const fn is_empty(self) -> bool {
        self.refresh_every.is_none() && self.max_staleness.is_none()
    }
}

pub(crate) async fn refresh(context: &Context, args: Refresh) -> Done {
    let client = context.client(KEY_DEADLINE).await?;
    let absent = absent(&client, &args.how)?;
    let started = Instant::now();
    let begun = client.refresh_key(&args.key, args.how.version, absent.as_deref()).await?;
    finish(context, &client, &begun, started, args.how.no_wait).await
}

pub(crate) async fn reshare(context: &Context, args: Reshare) -> Done {
    let client = context.client(KEY_DEADLINE).await?;
    let absent = absent(&client, &args.how)?;
    let options = PlanOptions { threshold: args.threshold, roster: args.roster };
    let plan = client.plan_reshare(&args.key, args.how.version, &options).await?;
    keys::warn_if_fragile(context, &plan);
    let started = Instant::now();
    let begun = client.reshare_key(&args.key, args.how.version, plan, absent.as_deref()).await?;
    finish(context, &client, &begun, started, args.how.no_wait).await
}

/// Who was named as absent; none to leave it to the cluster's status.
fn absent(client: &Client, how: &Move) -> Done<Option<Vec<NodeId>>> {
    if how.absent.is_empty() {
        return Ok(None);
    }
    Ok(Some(roster::named(&client.trust().membership().members, &how.absent)?))
}

/// Waits for the new shares, unless nobody wants to, and tells of them.
async fn finish(context: &Context, client: &Client, begun: &ShareMove, started: Instant, no_wait: bool) -> Done {
    if !begun.absent.is_empty() {
        let names = node_names(client, &begun.absent).join(", ");
        context.out.note(&format!("taking no part: {names}"));
    }
    let ShareMove { key, version, epoch, .. } = begun;
    if no_wait {
        if context.out.is_json() {
            return context.out.json(&moved(client, begun, None));
        }
        return context.out.line(&format!("shares of key {key} version {version} are being moved: epoch {epoch}"));
    }
    let mut progress = Progress::new(context, format!("moving shares of `{key}`"));
    let shares = client.await_shares(begun, |operation| progress.show(client, operation)).await;
    drop(progress);
    let (shares, milliseconds) = (shares?, started.elapsed().as_secs_f64() * 1000.0);
    if context.out.is_json() {
        return context.out.json(&moved(client, begun, Some((&shares, milliseconds))));
    }
    let core = &shares.certified.core;
    context.out.line(&format!("key {key} version {version} has new shares: epoch {}", core.epoch))?;
    context.out.line(&format!("any {} of {}", core.threshold, node_names(client, &core.roster).join(", ")))?;
    if !shares.stale.is_empty() {
        context.out.line(&format!("without a share: {}", node_names(client, &shares.stale).join(", ")))?;
    }
    context.out.note(&format!("certified by its holders in {milliseconds:.0} ms; the public key stays"));
    Ok(())
}

fn moved(client: &Client, begun: &ShareMove, shares: Option<(&NewShares, f64)>) -> json::SharesMoved {
    json::SharesMoved {
        key: begun.key.to_string(),
        key_id: begun.key_id.to_string(),
        version: begun.version.get(),
        epoch: shares.map_or(begun.epoch, |(shares, _)| shares.certified.core.epoch).get(),
        absent: node_names(client, &begun.absent),
        request_id: begun.request_id.to_string(),
        shares: shares.map(|(shares, milliseconds)| json::NewShares {
            public_key: shares.certified.public_key.to_string(),
            threshold: shares.certified.core.threshold.get(),
            roster: node_names(client, &shares.certified.core.roster),
            holders: node_names(client, &shares.certified.core.holders),
            stale: node_names(client, &shares.stale),
            milliseconds,
        }),
    }
}

pub(crate) async fn policy(context: &Context, args: Policy) -> Done {
    let client = context.client(DEADLINE).await?;
    let key = client.peek_key(&args.key).await?;
    let before = key.view.policy;
    let policy = args.change.over(before);
    let request = if args.change.is_empty() { None } else { Some(client.set_key_policy(&args.key, policy).await?) };
    if context.out.is_json() {
        return context.out.json(&json::KeptBy {
            key: key.view.name.to_string(),
            key_id: key.view.id.to_string(),
            policy: policy.into(),
            request_id: request.map(|id| id.to_string()),
        });
    }
    context.out.line(&format!("key {}: {}", args.key, kept(policy)))?;
    if policy.max_staleness_ms < before.max_staleness_ms {
        let old = parse::span(before.max_staleness_ms.into());
        context.out.note(&format!("the shorter time takes hold fully once {old}, the old one, has passed"));
    }
    Ok(())
}

/// A policy in words.
pub(super) fn kept(policy: KeyPolicy) -> String {
    let refreshed = match policy.refresh_every_ms {
        Some(every) => format!("shares are renewed every {}", parse::span(every)),
        None => "shares are never renewed by schedule".to_owned(),
    };
    format!("{refreshed}, holders sign on for {} without a majority", parse::span(policy.max_staleness_ms.into()))
}

/// What `key show` says of the shares of a version: who has them, what is left of earlier ones, what runs, how it came to this.
pub(super) fn print(out: &Out, client: &Client, version: &VersionView, now_ms: u64) -> Done {
    let names = |nodes: &[NodeId]| node_names(client, nodes).join(", ");
    if let Some(shares) = &version.shares {
        let age = parse::age(now_ms.saturating_sub(shares.committed_ms));
        out.line(&format!("  shares of epoch {}, {age} old", shares.epoch))?;
        if !shares.stale.is_empty() {
            out.line(&format!("  without a share: {}", names(&shares.stale)))?;
        }
        if let Some(due) = shares.refresh_ms {
            out.line(&format!("  next refresh due {}", parse::rfc3339(due)))?;
        }
    }
    if let Some(ms) = version.destroy_ms {
        out.line(&format!("  shares are erased from {} on", parse::rfc3339(ms)))?;
    }
    let sets = version.shares.iter().flat_map(|shares| shares.out.iter().map(move |set| (shares, set)));
    for (shares, set) in sets {
        if shares.epoch == set.epoch && version.destroy_ms.is_none() {
            continue;
        }
        let erased: Vec<NodeId> = set.erased.iter().copied().collect();
        let owing = set.owing();
        let done = if erased.is_empty() { "nobody".to_owned() } else { names(&erased) };
        let (leaked, owing): (Vec<NodeId>, Vec<NodeId>) =
            owing.into_iter().partition(|node| shares.left.contains(node));
        let owed = if owing.is_empty() { String::new() } else { format!(", owed by {}", names(&owing)) };
        let leaked = if leaked.is_empty() { String::new() } else { format!(", leaked with {}", names(&leaked)) };
        let open = if shares.is_closed(set) { "closed" } else { "open" };
        out.line(&format!("  epoch {} is {open}: erased by {done}{owed}{leaked}", set.epoch))?;
    }
    if let Some(running) = &version.running {
        let why = json::Cause::new(client, running.trigger).words();
        out.line(&format!("  {why} runs: {}", operation::told(client, running)))?;
    }
    for attempt in json::Ended::all(client, version) {
        let (epoch, why, ended) = (attempt.epoch, attempt.cause.words(), &attempt.ended);
        out.line(&format!("  epoch {epoch}, {why}: {}, {ended}", attempt.words()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_change_what_they_name() {
        let before = KeyPolicy { max_staleness_ms: 5_000, refresh_every_ms: Some(60_000) };
        let none = PolicyOptions { refresh_every: None, max_staleness: None };
        assert!(none.is_empty());
        assert_eq!(none.over(before), before);
        let never = PolicyOptions { refresh_every: parse::every("never").ok(), ..none };
        assert_eq!(never.over(before), KeyPolicy { refresh_every_ms: None, ..before });
        let daily = PolicyOptions { refresh_every: parse::every("1d").ok(), ..none };
        assert_eq!(daily.over(before), KeyPolicy { refresh_every_ms: Some(86_400_000), ..before });
        let short = PolicyOptions { max_staleness: Some(Duration::from_millis(300)), ..none };
        assert_eq!(short.over(before), KeyPolicy { max_staleness_ms: 300, ..before });
        let endless = PolicyOptions { max_staleness: Some(Duration::MAX), ..none };
        assert!(endless.over(before).check().is_err(), "and is refused, not cut");
    }

    #[test]
    fn a_policy_in_words() {
        let text = kept(KeyPolicy { max_staleness_ms: 300, refresh_every_ms: Some(129_600_000) });
        assert_eq!(text, "shares are renewed every 1d12h, holders sign on for 300ms without a majority");
        assert!(kept(KeyPolicy::default()).starts_with("shares are never renewed by schedule"));
    }
}
