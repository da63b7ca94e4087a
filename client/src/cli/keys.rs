//! `symbolon key`: making and showing keys. Changing them is in `change`, exporting in `export`.

use std::collections::BTreeMap;
use std::future::Future;
use std::io::{IsTerminal as _, stderr};
use std::time::{Duration, Instant};

use clap::Subcommand;
use indicatif::{ProgressBar, ProgressStyle};
use symbolon_client::{Client, Created, Error, KeyPolicy, Name, NewKey, PlanOptions, VerifiedKey, now_ms};
use symbolon_protocol::error::ErrorCode;
use symbolon_protocol::id::KeyVersion;
use symbolon_protocol::lifecycle::KeyState;
use symbolon_protocol::request::RosterPlan;
use symbolon_protocol::state::view::OperationPhase;

use super::context::{Context, DEADLINE, KEY_DEADLINE, node_names, versioned};
use super::out::{Done, Stop, usage};
use super::parse::{self, When};
use super::shares::PolicyOptions;
use super::{change, export, json, operation, shares};

/// Keys on one page: their certificates are what makes it long.
const PAGE: u32 = 100;
/// Pause between two looks at a key that is being made.
const LOOK: Duration = Duration::from_millis(250);

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a key: the nodes generate it together, no machine ever holds it
    Create(Create),
    /// List keys
    List {
        /// Only keys with this tag (name=value); may be repeated
        #[arg(long = "tag", value_name = "NAME=VALUE", value_parser = parse::tag)]
        tags: Vec<(String, String)>,
    },
    /// Show a key with its versions
    Show {
        /// Name of the key
        #[arg(value_parser = parse::name)]
        key: Name,
        /// Only this version [default: all]
        #[arg(long, value_parser = parse::version)]
        version: Option<KeyVersion>,
    },
    /// Make a new version; the one before verifies and no longer signs
    ///
    /// The new version signs at once, also where the key was suspended: a rotation resumes it. The expiry of the version before
    /// is not taken over: without --expires the new one does not expire. A warning says so where either is the case.
    Rotate(Rotate),
    /// Give the holders new shares of the same key
    ///
    /// Old and new shares do not fit together, and holders erase the old ones once every one of them has confirmed its new one. So
    /// whoever stole fewer old shares than the threshold has nothing. The key signs meanwhile. Members that take no part have
    /// no share until the next change of shares, which the cluster begins by itself once they are back.
    Refresh(shares::Refresh),
    /// Move the shares to other holders or another threshold; the public key stays
    ///
    /// Holders of the old shares deal new ones to the new roster, as in a refresh. The key signs meanwhile.
    Reshare(shares::Reshare),
    /// Show or change how a key is kept
    Policy(shares::Policy),
    /// Stop signing until resumed
    Suspend(change::Target),
    /// Sign again
    Resume(change::Target),
    /// Withdraw for good
    Revoke(change::Revoke),
    /// Erase every share of a revoked or expired key
    Destroy(change::Destroy),
    /// Print the public key for other tools
    ExportPublic(export::Args),
}

/// Who holds shares.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Holders {
    /// Holders needed for a signature [default: more than half of the roster]
    #[arg(long, value_name = "T")]
    threshold: Option<usize>,
    /// Holders, in order and without a spare [default: all nodes, at most seven, by rendezvous hash]
    #[arg(long, value_name = "NODE,...", value_delimiter = ',', value_parser = parse::name)]
    roster: Vec<Name>,
}

impl From<Holders> for PlanOptions {
    fn from(holders: Holders) -> Self {
        Self { threshold: holders.threshold, roster: holders.roster }
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct Create {
    /// Name of the key; never used again once it had an active version
    #[arg(value_parser = parse::name)]
    name: Name,
    #[command(flatten)]
    holders: Holders,
    /// When it stops signing: 2027-01-31, 2027-01-31T12:00:00Z or a time span such as 90d
    #[arg(long, value_name = "DATE", value_parser = parse::when)]
    expires: Option<When>,
    /// Tag; may be repeated
    #[arg(long = "tag", value_name = "NAME=VALUE", value_parser = parse::tag)]
    tags: Vec<(String, String)>,
    #[command(flatten)]
    policy: PolicyOptions,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Rotate {
    /// Name of the key
    #[arg(value_parser = parse::name)]
    key: Name,
    /// Holders needed for a signature [default: as before]
    #[arg(long, value_name = "T")]
    threshold: Option<usize>,
    /// Holders, in order and without a spare [default: as before, with the other nodes as spares]
    #[arg(long, value_name = "NODE,...", value_delimiter = ',', value_parser = parse::name)]
    roster: Vec<Name>,
    /// When the new version stops signing: 2027-01-31, 2027-01-31T12:00:00Z or a time span such as 90d [default: never]
    #[arg(long, value_name = "DATE", value_parser = parse::when)]
    expires: Option<When>,
}

pub(crate) async fn run(context: &Context, command: Command) -> Done {
    match command {
        Command::Create(args) => create(context, args).await,
        Command::List { tags } => list(context, tags).await,
        Command::Show { key, version } => show(context, &key, version).await,
        Command::Rotate(args) => rotate(context, args).await,
        Command::Refresh(args) => shares::refresh(context, args).await,
        Command::Reshare(args) => shares::reshare(context, args).await,
        Command::Policy(args) => shares::policy(context, args).await,
        Command::Suspend(target) => change::suspend(context, target).await,
        Command::Resume(target) => change::resume(context, target).await,
        Command::Revoke(args) => change::revoke(context, args).await,
        Command::Destroy(args) => change::destroy(context, args).await,
        Command::ExportPublic(args) => export::run(context, args).await,
    }
}

async fn create(context: &Context, args: Create) -> Done {
    let tags = tag_map(args.tags)?;
    let client = context.client(KEY_DEADLINE).await?;
    let plan = client.plan(&args.name, &args.holders.into()).await?;
    warn_if_fragile(context, &plan);
    let expires_ms = args.expires.map(|when| when.at_ms(now_ms()));
    let policy = args.policy.over(KeyPolicy::default());
    let started = Instant::now();
    let made = client.create_key(&args.name, NewKey { plan, tags, expires_ms, policy });
    let created = watched(context, &client, &args.name, made).await?;
    told(context, &client, &created, started)
}

async fn rotate(context: &Context, args: Rotate) -> Done {
    let client = context.client(KEY_DEADLINE).await?;
    let key = client.peek_key(&args.key).await?;
    let options = PlanOptions { threshold: args.threshold, roster: args.roster };
    let plan = client.plan_rotation(&key, &options).await?;
    warn_if_fragile(context, &plan);
    let expires_ms = args.expires.map(|when| when.at_ms(now_ms()));
    let started = Instant::now();
    let made = client.rotate_key(&args.key, plan, expires_ms);
    let created = watched(context, &client, &args.key, made).await?;
    if let Some(before) = key.view.current.and_then(|current| key.view.version(current)) {
        let before = (before.number, before.state, before.expires_ms);
        for warning in left_behind(&args.key, before, created.version, expires_ms) {
            context.out.warn(&warning);
        }
    }
    told(context, &client, &created, started)?;
    change::enforced(&context.out, &client, created.enforcement.as_ref())
}

/// What the version before had (number, state, expiry) and the new one has not, in words.
fn left_behind(
    key: &Name,
    (before, state, expired_ms): (KeyVersion, KeyState, Option<u64>),
    made: KeyVersion,
    expires_ms: Option<u64>,
) -> Vec<String> {
    let mut said = Vec::new();
    if state == KeyState::Suspended {
        said.push(format!("key `{key}` was suspended and signs again: {} is active", versioned(key, made)));
    }
    if let (Some(ms), None) = (expired_ms, expires_ms) {
        let (old, at) = (versioned(key, before), parse::rfc3339(ms));
        said.push(format!("the expiry of {old} ({at}) is not taken over: version {made} does not expire"));
    }
    said
}

pub(crate) fn tag_map(tags: Vec<(String, String)>) -> Done<BTreeMap<String, String>> {
    let mut map = BTreeMap::new();
    for (name, value) in tags {
        if map.insert(name.clone(), value).is_some() {
            return usage(format!("tag `{name}` is given twice"), "give each tag one value");
        }
    }
    Ok(map)
}

pub(super) fn warn_if_fragile(context: &Context, plan: &RosterPlan) {
    if plan.threshold.get() == plan.roster.len() {
        let n = plan.roster.len();
        context.out.warn(&format!("all {n} of {n} holders are needed: the key is lost with the first of them"));
    }
}

/// Shows on a terminal how far a key is while it is being made.
async fn watched(
    context: &Context,
    client: &Client,
    name: &Name,
    made: impl Future<Output = Result<Created, Error>>,
) -> Result<Created, Error> {
    if context.out.is_json() || !stderr().is_terminal() {
        return made.await;
    }
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{spinner} [{bar:24}] {pos}/{len} shares ready, {elapsed} {msg}") {
        bar.set_style(style);
    }
    bar.set_message(format!("generating `{name}`"));
    bar.enable_steady_tick(Duration::from_millis(100));
    let result = tokio::select! {
        result = made => result,
        never = look(client, name, &bar) => never,
    };
    bar.finish_and_clear();
    result
}

/// Looks at the key again and again; never returns.
async fn look<T>(client: &Client, name: &Name, bar: &ProgressBar) -> T {
    loop {
        tokio::time::sleep(LOOK).await;
        let Ok(key) = client.peek_key(name).await else { continue };
        let Some(version) = key.view.latest() else { continue };
        bar.set_length(u64::try_from(version.roster.len()).unwrap_or(0));
        if let Some(running) = &version.running {
            let staging = running.phase == OperationPhase::Staging;
            let ready = if staging { version.roster.len().saturating_sub(running.waiting.len()) } else { 0 };
            bar.set_position(u64::try_from(ready).unwrap_or(0));
            bar.set_message(operation::told(client, running));
        } else {
            bar.set_position(u64::try_from(version.roster.len()).unwrap_or(0));
            bar.set_message("collecting votes for the certificate");
        }
    }
}

fn told(context: &Context, client: &Client, created: &Created, started: Instant) -> Done {
    let elapsed = started.elapsed();
    let (view, version) = (&created.key.view, created.version);
    let (Some(certified), Some(shown)) = (created.key.certified(version), view.version(version)) else {
        return Err(Stop::from(Error::new(ErrorCode::Internal, "a key was made without a certificate")));
    };
    if context.out.is_json() {
        return context.out.json(&json::Made {
            key: view.name.to_string(),
            key_id: view.id.to_string(),
            version: version.get(),
            state: shown.state.name(),
            algorithm: view.suite.to_string(),
            public_key: certified.public_key.to_string(),
            threshold: shown.threshold.get(),
            holders: node_names(client, &shown.roster),
            epoch: certified.core.epoch.get(),
            request_id: created.request_id.to_string(),
            milliseconds: elapsed.as_secs_f64() * 1000.0,
            enforcement: json::Enforcement::new(client, created.enforcement.as_ref()),
        });
    }
    let holders = node_names(client, &shown.roster).join(", ");
    context.out.line(&format!("key {} version {version} is {} ({})", view.name, shown.state, view.suite))?;
    context.out.line(&format!("public key {}", certified.public_key))?;
    context.out.line(&format!("signs with any {} of {holders}", shown.threshold))?;
    context.out.note(&format!("certified by its holders in {:.0} ms", elapsed.as_secs_f64() * 1000.0));
    Ok(())
}

async fn list(context: &Context, tags: Vec<(String, String)>) -> Done {
    let tags = tag_map(tags)?;
    let client = context.client(DEADLINE).await?;
    let (mut keys, mut after) = (Vec::new(), String::new());
    loop {
        let page = client.list_keys(&after, PAGE, &tags).await?;
        keys.extend(page.keys);
        match page.next {
            Some(next) => after = next,
            None => break,
        }
    }
    if context.out.is_json() {
        return context.out.json(&json::Keys { keys: keys.iter().map(|key| json::Key::new(&client, key)).collect() });
    }
    let rows = keys.iter().filter_map(|key| {
        let view = &key.view;
        let version = view.current.and_then(|current| view.version(current)).or(view.latest())?;
        let tags: Vec<String> = view.tags.iter().map(|(name, value)| format!("{name}={value}")).collect();
        Some(vec![
            view.name.to_string(),
            version.number.to_string(),
            version.state.to_string(),
            format!("{} of {}", version.threshold, version.roster.len()),
            version.expires_ms.map_or_else(|| "-".to_owned(), parse::rfc3339),
            tags.join(" "),
        ])
    });
    context.out.table(&["KEY", "VERSION", "STATE", "NEEDED", "EXPIRES", "TAGS"], rows.collect())
}

async fn show(context: &Context, name: &Name, version: Option<KeyVersion>) -> Done {
    let client = context.client(DEADLINE).await?;
    let mut key = match version {
        Some(version) => client.show_version(name, version).await?,
        // What is being made is shown too, with or without a certificate.
        None => client.peek_key(name).await?,
    };
    if let Some(version) = version {
        key.view.versions.retain(|shown| shown.number == version);
    }
    if context.out.is_json() {
        return context.out.json(&json::Key::new(&client, &key));
    }
    print_key(context, &client, &key)
}

fn print_key(context: &Context, client: &Client, key: &VerifiedKey) -> Done {
    let (out, view) = (&context.out, &key.view);
    let tags: Vec<String> = view.tags.iter().map(|(name, value)| format!("{name}={value}")).collect();
    out.line(&format!(
        "key {} ({}), made {} by {}",
        view.name,
        view.suite,
        parse::rfc3339(view.created_ms),
        view.created_by
    ))?;
    out.line(&format!("id {}", view.id))?;
    if !tags.is_empty() {
        out.line(&format!("tags {}", tags.join(" ")))?;
    }
    out.line(&shares::kept(view.policy))?;
    for version in &view.versions {
        out.line("")?;
        let reason = version.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        out.line(&format!("version {} is {}{reason}", version.number, version.state))?;
        match key.public_key(version.number) {
            Some(public) => out.line(&format!("  public key {public}"))?,
            None => out.line("  not certified")?,
        }
        let holders = node_names(client, &version.roster).join(", ");
        out.line(&format!("  any {} of {holders}", version.threshold))?;
        if let Some(ms) = version.expires_ms {
            out.line(&format!("  expires {}", parse::rfc3339(ms)))?;
        }
        shares::print(out, client, version, key.time_ms)?;
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_rotation_says_what_it_leaves_behind() {
        let (key, first, second) = (Name::new("release").unwrap(), KeyVersion::FIRST, KeyVersion::new(2).unwrap());
        let said = |state, before, now| left_behind(&key, (first, state, before), second, now);
        assert!(said(KeyState::Active, None, None).is_empty());
        assert!(said(KeyState::Active, Some(5), Some(9)).is_empty());
        let expiry = "the expiry of version 1 of key `release` (1970-01-01T00:00:05Z) is not taken over: \
                      version 2 does not expire";
        assert_eq!(said(KeyState::Active, Some(5_000), None), [expiry]);
        let resumed = "key `release` was suspended and signs again: version 2 of key `release` is active";
        assert_eq!(said(KeyState::Suspended, None, None), [resumed]);
        assert_eq!(said(KeyState::Suspended, Some(5_000), None), [resumed, expiry]);
    }
}
