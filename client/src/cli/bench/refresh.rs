//! `symbolon bench refresh`: how many share refreshes a second, and what they cost those who sign meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rand_core::{OsRng, RngCore as _};
use serde::Serialize;
use symbolon_client::{Client, Error, Name, PlanOptions};
use symbolon_protocol::error::ErrorCode;
use symbolon_protocol::lifecycle::KeyState;
use tokio::task::JoinSet;

use super::super::context::{Context, DEADLINE, KEY_DEADLINE};
use super::super::out::{Done, fail};
use super::Refresh;
use super::figures::{Times, rounded};
use super::keygen::{clean_up, make};
use super::load::{AFTER_ERROR, random_message};

/// Keys on one page of a list.
const PAGE: u32 = 100;

/// What was measured.
#[derive(Debug, Serialize)]
struct Report {
    /// Keys that were signed with, and refreshed once each.
    keys: usize,
    /// Refreshes that ran at the same time.
    parallel: u32,
    refreshes: usize,
    refreshes_per_second: f64,
    /// From the request to the checked certificate.
    refresh_p50_ms: f64,
    refresh_p99_ms: f64,
    refresh_errors: BTreeMap<&'static str, u64>,
    /// Signing before the refreshes.
    without: Signing,
    /// Signing during them.
    with: Signing,
    /// Clients that signed.
    clients: u32,
    threshold: usize,
    /// Size of the roster.
    holders: usize,
    prefix: String,
    /// Whether the keys are still there.
    kept: bool,
    release: &'static str,
}

/// What those saw who signed.
#[derive(Debug, Serialize)]
struct Signing {
    signatures: usize,
    signatures_per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
    /// Requests that failed, by code.
    errors: BTreeMap<&'static str, u64>,
    seconds: f64,
}

/// Times of calls that succeeded, and how often the others failed.
#[derive(Default)]
struct Tally {
    times: Vec<Duration>,
    errors: BTreeMap<&'static str, u64>,
    last_error: Option<Error>,
}

impl Tally {
    fn note(&mut self, asked: Instant, result: Result<(), Error>) {
        match result {
            Ok(()) => self.times.push(asked.elapsed()),
            Err(error) => {
                *self.errors.entry(error.code().row().name).or_default() += 1;
                self.last_error = Some(error);
            }
        }
    }
    fn add(&mut self, other: Self) {
        self.times.extend(other.times);
        for (code, count) in other.errors {
            *self.errors.entry(code).or_default() += count;
        }
        self.last_error = other.last_error.or(self.last_error.take());
    }
}

pub(crate) async fn run(context: &Context, args: Refresh) -> Done {
    let client = context.client(KEY_DEADLINE).await?;
    let wanted = usize::try_from(args.keys).unwrap_or(usize::MAX);
    let prefix = args.prefix.clone().unwrap_or_else(|| format!("bench-{:08x}", OsRng.next_u32()));
    let made = if args.prefix.is_some() {
        existing(&client, &prefix, wanted).await?
    } else {
        context.out.note(&format!("making {wanted} keys"));
        new_keys(&client, &prefix, &args, wanted).await?
    };
    let report = measure(context, &client, &args, made.clone(), prefix).await;
    if args.prefix.is_none() && !args.keep {
        clean_up(context, &client, &made).await;
    }
    print(context, &report?)
}

async fn measure(context: &Context, client: &Client, args: &Refresh, made: Vec<Name>, prefix: String) -> Done<Report> {
    let shape = shape(client, &made).await?;
    let keys = Arc::new(made);
    context.out.note(&format!("signing with {} clients for {} s, without refreshes", args.clients, args.seconds));
    // Connections and certificates first: they are not what is measured.
    let once = keys.len().max(client.trust().membership().members.len());
    for (node, key) in keys.iter().cycle().take(once).enumerate() {
        client.starting_at(node).sign(key, &random_message()).await?;
    }
    let started = Signers::start(client, &keys, args.clients);
    tokio::time::sleep(Duration::from_secs(args.seconds.into())).await;
    let without = started.stop().await?;

    context.out.note(&format!("the same, with {} refreshes at a time", args.parallel));
    let started = Signers::start(client, &keys, args.clients);
    let begin = Instant::now();
    let mut refreshed = refresh_all(client, &keys, args.parallel).await?;
    let seconds = begin.elapsed().as_secs_f64();
    let with = started.stop().await?;
    if let (true, Some(error)) = (refreshed.times.is_empty(), refreshed.last_error.take()) {
        return Err(error.into());
    }
    let refreshes = refreshed.times.len();
    let times = Times::new(refreshed.times);
    Ok(Report {
        keys: keys.len(),
        parallel: args.parallel,
        refreshes,
        refreshes_per_second: rounded(refreshes as f64 / seconds),
        refresh_p50_ms: times.percentile_ms(50),
        refresh_p99_ms: times.percentile_ms(99),
        refresh_errors: refreshed.errors,
        without,
        with,
        clients: args.clients,
        threshold: shape.0,
        holders: shape.1,
        prefix,
        kept: args.prefix.is_some() || args.keep,
        release: env!("CARGO_PKG_VERSION"),
    })
}

/// Active keys whose names begin with a prefix, by name.
async fn existing(client: &Client, prefix: &str, most: usize) -> Done<Vec<Name>> {
    let (mut found, mut after) = (Vec::new(), String::new());
    loop {
        let page = client.list_keys(&after, PAGE, &BTreeMap::new()).await?;
        for key in page.keys {
            let state = key.view.current.and_then(|current| key.view.version(current)).map(|version| version.state);
            if key.view.name.as_str().starts_with(prefix) && state == Some(KeyState::Active) && found.len() < most {
                found.push(key.view.name);
            }
        }
        match page.next {
            Some(next) if found.len() < most => after = next,
            _ => break,
        }
    }
    if found.is_empty() {
        return fail(ErrorCode::NotFound, format!("there is no active key whose name begins with `{prefix}`"));
    }
    Ok(found)
}

async fn new_keys(client: &Client, prefix: &str, args: &Refresh, count: usize) -> Done<Vec<Name>> {
    let options = PlanOptions::from(args.holders.clone());
    let mut made = Vec::new();
    for number in 1..=count {
        made.push(make(client, &format!("{prefix}-{number}"), &options).await?.0);
    }
    Ok(made)
}

/// Threshold and size of the roster of the first key.
async fn shape(client: &Client, made: &[Name]) -> Done<(usize, usize)> {
    let Some(first) = made.first() else { return fail(ErrorCode::InvalidArgument, "there is no key to refresh") };
    let key = client.show_key(first).await?;
    Ok(key.current().map_or((0, 0), |certified| (certified.core.threshold.get(), certified.core.roster.len())))
}

/// Clients that sign until they are stopped, with one key after the other.
struct Signers {
    tasks: JoinSet<Tally>,
    stop: Arc<AtomicBool>,
    started: Instant,
}

impl Signers {
    fn start(client: &Client, keys: &Arc<Vec<Name>>, clients: u32) -> Self {
        let (mut tasks, stop) = (JoinSet::new(), Arc::new(AtomicBool::new(false)));
        for number in 0..usize::try_from(clients).unwrap_or(usize::MAX) {
            let client = client.starting_at(number).with_deadline(client.deadline().min(DEADLINE));
            let (keys, stop) = (Arc::clone(keys), Arc::clone(&stop));
            tasks.spawn(async move {
                let mut tally = Tally::default();
                for key in keys.iter().cycle().skip(number) {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let asked = Instant::now();
                    let signed = client.sign(key, &random_message()).await.map(drop);
                    let failed = signed.is_err();
                    tally.note(asked, signed);
                    if failed {
                        tokio::time::sleep(AFTER_ERROR).await;
                    }
                }
                tally
            });
        }
        Self { tasks, stop, started: Instant::now() }
    }

    async fn stop(mut self) -> Done<Signing> {
        let seconds = self.started.elapsed().as_secs_f64();
        self.stop.store(true, Ordering::Relaxed);
        let mut tally = Tally::default();
        while let Some(done) = self.tasks.join_next().await {
            let Ok(one) = done else { return fail(ErrorCode::Internal, "a client of the benchmark stopped") };
            tally.add(one);
        }
        if let (true, Some(error)) = (tally.times.is_empty(), tally.last_error) {
            return Err(error.into());
        }
        let signatures = tally.times.len();
        let times = Times::new(tally.times);
        Ok(Signing {
            signatures,
            signatures_per_second: rounded(signatures as f64 / seconds),
            p50_ms: times.percentile_ms(50),
            p99_ms: times.percentile_ms(99),
            max_ms: times.max_ms(),
            errors: tally.errors,
            seconds: rounded(seconds),
        })
    }
}

/// Refreshes every key once, so many at a time.
async fn refresh_all(client: &Client, keys: &Arc<Vec<Name>>, parallel: u32) -> Done<Tally> {
    let (mut tasks, next) = (JoinSet::new(), Arc::new(AtomicUsize::new(0)));
    for number in 0..usize::try_from(parallel).unwrap_or(usize::MAX).min(keys.len()) {
        let (client, keys, next) = (client.starting_at(number), Arc::clone(keys), Arc::clone(&next));
        tasks.spawn(async move {
            let mut tally = Tally::default();
            while let Some(key) = keys.get(next.fetch_add(1, Ordering::Relaxed)) {
                let asked = Instant::now();
                let refreshed = refresh(&client, key).await;
                tally.note(asked, refreshed);
            }
            tally
        });
    }
    let mut all = Tally::default();
    while let Some(done) = tasks.join_next().await {
        let Ok(one) = done else { return fail(ErrorCode::Internal, "a client of the benchmark stopped") };
        all.add(one);
    }
    Ok(all)
}

/// Everybody takes part: a member that is down ends up in the errors, not in the figures.
async fn refresh(client: &Client, key: &Name) -> Result<(), Error> {
    let begun = client.refresh_key(key, None, Some(&[])).await?;
    client.await_shares(&begun, |_| {}).await.map(drop)
}

fn print(context: &Context, report: &Report) -> Done {
    let out = &context.out;
    if out.is_json() {
        return out.json(report);
    }
    let Report { refreshes, parallel, refreshes_per_second, without, with, .. } = report;
    out.line(&format!(
        "{refreshes_per_second:.1} refreshes per second, {parallel} at a time: {refreshes} keys, {} of {}",
        report.threshold, report.holders
    ))?;
    let (p50, p99) = (report.refresh_p50_ms, report.refresh_p99_ms);
    out.line(&format!("one refresh: p50 {p50:.1} ms, p99 {p99:.1} ms"))?;
    for (what, Signing { p50_ms, p99_ms, max_ms, signatures_per_second, .. }) in
        [("without refreshes", without), ("with refreshes", with)]
    {
        let rate = format!("{signatures_per_second:.0} signatures per second with {} clients", report.clients);
        out.line(&format!("signing {what}: p50 {p50_ms:.2} ms, p99 {p99_ms:.2} ms, max {max_ms:.2} ms, {rate}"))?;
    }
    let failed = [("refresh", &report.refresh_errors), ("sign", &without.errors), ("sign", &with.errors)];
    for (what, errors) in failed {
        for (code, count) in errors {
            out.line(&format!("  {what}: {count} times {code}"))?;
        }
    }
    Ok(())
}
