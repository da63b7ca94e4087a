//! `symbolon bench sign`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand_core::{OsRng, RngCore as _};
use serde::Serialize;
use symbolon_client::{Client, Error, Name};
use symbolon_protocol::error::ErrorCode;

use super::super::context::{Context, DEADLINE, node_names};
use super::super::out::{Done, fail};
use super::figures::{Times, rounded};
use super::{Sign, arithmetic, cores, limit};

/// Bytes of each message.
const MESSAGE_BYTES: usize = 32;
/// Pause of a client after an error, so that a cluster that refuses is not asked in a tight loop.
pub(super) const AFTER_ERROR: Duration = Duration::from_millis(50);

/// What was measured.
#[derive(Debug, Serialize)]
struct Report {
    /// Verified signatures, by wall clock.
    signatures_per_second: f64,
    /// Of requests that succeeded, from the call to the verified signatures.
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
    /// Requests that failed.
    errors: u64,
    /// The same by code.
    error_codes: BTreeMap<&'static str, u64>,
    /// What the frost crate reaches.
    #[serde(flatten)]
    limit: Limit,
    /// What arithmetic leaves room for, in its fastest form.
    arithmetic: Limit,
    key: String,
    clients: u32,
    /// As measured.
    seconds: f64,
    threshold: usize,
    holders: Vec<String>,
    messages_per_request: u32,
    signatures: u64,
    cores: usize,
    release: &'static str,
}

/// What this machine reaches without a cluster, everybody's work counted.
#[derive(Debug, Serialize)]
struct Limit {
    limit_per_second: f64,
    limit_method: &'static str,
    /// `signatures_per_second` by `limit_per_second`.
    ratio: f64,
}

impl Limit {
    fn new(limit_method: &'static str, per_second: f64, rate: f64) -> Self {
        Self { limit_per_second: rounded(per_second), limit_method, ratio: rounded(rate / per_second) }
    }
}

/// What one client did.
#[derive(Default)]
struct Tally {
    times: Vec<Duration>,
    signatures: u64,
    errors: BTreeMap<&'static str, u64>,
    last_error: Option<Error>,
}

pub(crate) async fn run(context: &Context, args: Sign) -> Done {
    let client = context.client(DEADLINE).await?;
    let key = client.show_key(&args.key).await?;
    let Some(core) = key.current().map(|certified| certified.core.clone()) else {
        return fail(ErrorCode::WrongState, format!("key `{}` has no active version", args.key));
    };
    let (t, n) = (u16::try_from(core.threshold.get()), u16::try_from(core.roster.len()));
    let (Ok(t), Ok(n)) = (t, n) else { return fail(ErrorCode::Internal, "a roster is larger than it can be") };
    let methods = (limit::METHOD, arithmetic::METHOD);
    context.out.note(&format!("measuring the limits ({}, {}; {t} of {n}, {} cores)", methods.0, methods.1, cores()));
    let limit = measured(move || limit::per_second(t, n).map_err(|error| error.to_string())).await?;
    let arithmetic = measured(move || arithmetic::per_second(t, n).map_err(|error| error.to_string())).await?;
    context.out.note(&format!("signing with {} clients for {} s", args.clients, args.seconds));
    let (tally, seconds) = load(&client, &args).await?;
    if let (0, Some(error)) = (tally.signatures, tally.last_error) {
        return Err(error.into());
    }
    let times = Times::new(tally.times);
    let rate = tally.signatures as f64 / seconds;
    let report = Report {
        signatures_per_second: rounded(rate),
        p50_ms: times.percentile_ms(50),
        p99_ms: times.percentile_ms(99),
        max_ms: times.max_ms(),
        errors: tally.errors.values().sum(),
        error_codes: tally.errors,
        limit: Limit::new(limit::METHOD, limit, rate),
        arithmetic: Limit::new(arithmetic::METHOD, arithmetic, rate),
        key: args.key.to_string(),
        clients: args.clients,
        seconds: rounded(seconds),
        threshold: core.threshold.get(),
        holders: node_names(&client, &core.roster),
        messages_per_request: args.messages,
        signatures: tally.signatures,
        cores: cores(),
        release: env!("CARGO_PKG_VERSION"),
    };
    print(context, &report)
}

async fn measured(limit: impl FnOnce() -> Result<f64, String> + Send + 'static) -> Done<f64> {
    let why = match tokio::task::spawn_blocking(limit).await {
        Ok(Ok(limit)) => return Ok(limit),
        Ok(Err(error)) => error,
        Err(error) => error.to_string(),
    };
    fail(ErrorCode::Internal, format!("the limit cannot be measured: {why}"))
}

/// Runs all clients; each begins at another node, over the same connections.
async fn load(client: &Client, args: &Sign) -> Done<(Tally, f64)> {
    // Connections and certificates first: they are not what is measured.
    for node in 0..client.trust().membership().members.len() {
        client.starting_at(node).sign(&args.key, &random_message()).await?;
    }
    let started = Instant::now();
    let end = started + Duration::from_secs(u64::from(args.seconds));
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..args.clients {
        let client = client.starting_at(usize::try_from(number).unwrap_or(0));
        tasks.spawn(one_client(client, args.key.clone(), args.messages, end));
    }
    let mut all = Tally::default();
    while let Some(done) = tasks.join_next().await {
        let Ok(tally) = done else { return fail(ErrorCode::Internal, "a client of the benchmark stopped") };
        all.times.extend(tally.times);
        all.signatures += tally.signatures;
        all.last_error = tally.last_error.or(all.last_error);
        for (code, count) in tally.errors {
            *all.errors.entry(code).or_default() += count;
        }
    }
    Ok((all, started.elapsed().as_secs_f64()))
}

async fn one_client(client: Client, key: Name, messages: u32, end: Instant) -> Tally {
    let mut tally = Tally::default();
    while Instant::now() < end {
        let batch = (0..messages).map(|_| random_message()).collect();
        let asked = Instant::now();
        match client.sign_many(&key, batch).await {
            Ok(signed) => {
                tally.times.push(asked.elapsed());
                tally.signatures += u64::try_from(signed.signatures.len()).unwrap_or(0);
            }
            Err(error) => {
                *tally.errors.entry(error.code().row().name).or_default() += 1;
                tally.last_error = Some(error);
                tokio::time::sleep(AFTER_ERROR).await;
            }
        }
    }
    tally
}

pub(super) fn random_message() -> Vec<u8> {
    let mut message = vec![0; MESSAGE_BYTES];
    OsRng.fill_bytes(&mut message);
    message
}

fn print(context: &Context, report: &Report) -> Done {
    let out = &context.out;
    if out.is_json() {
        return out.json(report);
    }
    let Report { signatures_per_second, p50_ms, p99_ms, max_ms, errors, .. } = report;
    out.line(&format!("{signatures_per_second:.0} signatures per second with {} clients", report.clients))?;
    out.line(&format!("p50 {p50_ms:.2} ms, p99 {p99_ms:.2} ms, max {max_ms:.2} ms, {errors} errors"))?;
    let n = report.holders.len();
    for Limit { limit_per_second, limit_method, ratio } in [&report.limit, &report.arithmetic] {
        out.line(&format!(
            "limit of this machine {limit_per_second:.0} ({limit_method}, {} of {n}, {} cores): {:.0} % of it",
            report.threshold,
            report.cores,
            ratio * 100.0
        ))?;
    }
    for (code, count) in &report.error_codes {
        out.line(&format!("  {count} times {code}"))?;
    }
    Ok(())
}
