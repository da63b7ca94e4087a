//! `symbolon bench keygen`.

use std::time::{Duration, Instant};

use rand_core::{OsRng, RngCore as _};
use serde::Serialize;
use symbolon_client::{Client, Error, Name, NewKey, PlanOptions};

use super::super::context::{Context, KEY_DEADLINE};
use super::super::out::Done;
use super::Keygen;
use super::figures::{Times, rounded};

/// What was measured.
#[derive(Debug, Serialize)]
struct Report {
    /// Keys that were made.
    count: usize,
    /// From the request to the checked certificate.
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
    errors: u32,
    threshold: usize,
    /// Size of the roster.
    holders: usize,
    /// As measured, plans included.
    seconds: f64,
    /// What all keys begin with.
    prefix: String,
    /// Whether they are still there.
    kept: bool,
    release: &'static str,
}

pub(crate) async fn run(context: &Context, args: Keygen) -> Done {
    let client = context.client(KEY_DEADLINE).await?;
    let options = PlanOptions::from(args.holders);
    let prefix = format!("bench-{:08x}", OsRng.next_u32());
    let (mut times, mut made) = (Vec::new(), Vec::new());
    let (mut errors, mut last_error, mut shape) = (0, None, (0, 0));
    let started = Instant::now();
    for number in 1..=args.count {
        match make(&client, &format!("{prefix}-{number}"), &options).await {
            Ok((name, time, plan)) => {
                times.push(time);
                made.push(name);
                shape = plan;
            }
            Err(error) => {
                context.out.note(&format!("key {number}: {error}"));
                errors += 1;
                last_error = Some(error);
            }
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    if !args.keep {
        clean_up(context, &client, &made).await;
    }
    if let (true, Some(error)) = (made.is_empty(), last_error) {
        return Err(error.into());
    }
    let sorted = Times::new(times);
    let report = Report {
        count: made.len(),
        p50_ms: sorted.percentile_ms(50),
        p99_ms: sorted.percentile_ms(99),
        max_ms: sorted.max_ms(),
        errors,
        threshold: shape.0,
        holders: shape.1,
        seconds: rounded(seconds),
        prefix,
        kept: args.keep,
        release: env!("CARGO_PKG_VERSION"),
    };
    if context.out.is_json() {
        return context.out.json(&report);
    }
    let Report { count, p50_ms, p99_ms, max_ms, .. } = &report;
    context.out.line(&format!("{count} keys, {} of {}, {errors} errors", report.threshold, report.holders))?;
    context.out.line(&format!("p50 {p50_ms:.1} ms, p99 {p99_ms:.1} ms, max {max_ms:.1} ms"))
}

/// Makes one key; its time, and threshold and size of its roster.
pub(super) async fn make(
    client: &Client,
    name: &str,
    options: &PlanOptions,
) -> Result<(Name, Duration, (usize, usize)), Error> {
    let name = Name::new(name).map_err(symbolon_protocol::error::Refusal::from)?;
    // Who is reachable is asked before the clock starts: it is not part of the generation.
    let plan = client.plan(&name, options).await?;
    let shape = (plan.threshold.get(), plan.roster.len());
    let started = Instant::now();
    client.create_key(&name, NewKey::new(plan)).await?;
    Ok((name, started.elapsed(), shape))
}

/// Takes the keys out of the way; what fails is told and left.
pub(super) async fn clean_up(context: &Context, client: &Client, made: &[Name]) {
    for name in made {
        let revoked = client.revoke_key(name, None, "benchmark is over").await;
        let result = match revoked {
            Ok(_) => client.destroy_key(name, None, name, Duration::ZERO).await,
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            context.out.warn(&format!("key {name} is left behind: {error}"));
        }
    }
}
