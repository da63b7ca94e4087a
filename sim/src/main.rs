//! `sim`: replays one seed exactly, or looks for seeds that break an invariant.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::{ArgGroup, Parser, ValueEnum};
use sim::bugs::{BUGS, Bug};
use sim::level_b::scenario::{SCENARIOS, SEEDS, Scenario};
use sim::matrix;
use sim::options::Options;
use sim::shrink::shrink;
use sim::sweep::{Sweep, each, replay};
use sim::{Report, level_b, run_with};

/// Exit code when something good did not happen.
const LIVENESS: u8 = 128;
/// Exit code when something bad happened.
const SAFETY: u8 = 129;
/// Exit code when a level-B run failed or the output is gone.
const OTHER: u8 = 1;

/// Deterministic simulation of Symbolon.
///
/// Exit codes: 0 nothing was broken, 129 a safety invariant was broken, 128 a liveness invariant was, 1 level B failed, 2 usage.
#[derive(Parser)]
#[command(name = "sim", group(ArgGroup::new("what").required(true).args(["seed", "options", "minutes", "seeds", "matrix"])))]
struct Arguments {
    /// Replays one run exactly.
    #[arg(long)]
    seed: Option<u64>,
    /// Replays one run exactly, whose options are given in one line.
    #[arg(long, value_name = "LINE", value_parser = Options::parse)]
    options: Option<Options>,
    /// Makes a run that fails smaller, and prints how the smaller one is replayed.
    #[arg(long, conflicts_with_all = ["minutes", "seeds", "matrix"])]
    shrink: bool,
    /// Looks for failing seeds for so many minutes.
    #[arg(long)]
    minutes: Option<u64>,
    /// Runs so many seeds.
    #[arg(long)]
    seeds: Option<u64>,
    /// Prints each promise of the threat model, its check, and how long its planted bug takes to be found.
    #[arg(long)]
    matrix: bool,
    /// The first seed of many; for --minutes one that was not run before, unless it is given.
    #[arg(long, requires = "what")]
    from: Option<u64>,
    /// Plants a bug: the simulator must find it.
    #[arg(long, value_parser = bug)]
    bug: Option<Bug>,
    /// Prints every event of the run.
    #[arg(long, conflicts_with_all = ["minutes", "seeds", "matrix"])]
    trace: bool,
    /// a: floor 0 alone; b: the node core with Raft. With b, --seeds and --from count in each scenario.
    #[arg(long, value_enum, default_value = "a")]
    level: Level,
    /// Plays seeds of one scenario of level b only.
    #[arg(long, value_parser = scenario, requires = "seeds")]
    scenario: Option<Scenario>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Level {
    A,
    B,
}

fn bug(name: &str) -> Result<Bug, String> {
    Bug::named(name).ok_or_else(|| {
        let names: Vec<&str> = BUGS.iter().map(|bug| bug.name()).collect();
        format!("bugs that can be planted: {}", names.join(", "))
    })
}

fn scenario(name: &str) -> Result<Scenario, String> {
    Scenario::named(name).ok_or_else(|| {
        let names: Vec<&str> = SCENARIOS.iter().map(|scenario| scenario.name()).collect();
        format!("scenarios: {}", names.join(", "))
    })
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut out = io::stdout().lock();
    let drawn = || arguments.seed.map(Options::draw);
    let done = match (arguments.level, arguments.seed) {
        _ if arguments.matrix => print_matrix(&mut out),
        (Level::B, Some(seed)) => replay_b(&mut out, seed),
        (Level::B, None) => play_b(&mut out, &arguments),
        (Level::A, _) => match arguments.options.clone().or_else(drawn) {
            Some(options) if arguments.shrink => shrink_a(&mut out, &options, arguments.bug),
            Some(options) => replay_a(&mut out, options, &arguments),
            None => search(&mut out, &arguments),
        },
    };
    // A reader that went away is no reason for noise.
    ExitCode::from(done.unwrap_or(OTHER))
}

fn print_matrix(out: &mut impl Write) -> io::Result<u8> {
    let rows = matrix::rows();
    write!(out, "{}", matrix::table(&rows))?;
    Ok(if rows.iter().all(matrix::Row::holds) { 0 } else { OTHER })
}

fn replay_b(out: &mut impl Write, seed: u64) -> io::Result<u8> {
    match level_b::run(seed) {
        Ok(hash) => writeln!(out, "{hash}").map(|()| 0),
        Err(why) => writeln!(io::stderr(), "{why}").map(|()| OTHER),
    }
}

fn play_b(out: &mut impl Write, arguments: &Arguments) -> io::Result<u8> {
    let Some(count) = arguments.seeds else {
        return writeln!(io::stderr(), "level b runs --seed N, or --seeds N of each scenario").map(|()| 2);
    };
    let from = arguments.from.unwrap_or(0);
    let scenarios = match arguments.scenario {
        Some(one) => vec![one],
        None => SCENARIOS.into_iter().filter(|scenario| !scenario.is_planted()).collect(),
    };
    let numbers = from..from.saturating_add(count.min(SEEDS));
    let seeds: Vec<u64> =
        numbers.flat_map(|number| scenarios.iter().map(move |scenario| scenario.seed(number))).collect();
    let (begun, mut failed) = (Instant::now(), 0);
    level_b::many::play(&seeds, |seed, played| {
        let Err(why) = played else { return Ok(()) };
        failed += 1;
        writeln!(out, "seed {seed} FAILED: {why}")?;
        // One that ended without a word cannot say it.
        if why.contains("replay:") { Ok(()) } else { writeln!(out, "  replay: {}", level_b::replay(seed)) }
    })?;
    let seconds = begun.elapsed().as_secs();
    writeln!(out, "{} seeds of level b, {failed} failed; {seconds} s on the clock", seeds.len())?;
    Ok(if failed == 0 { 0 } else { OTHER })
}

fn code(report: &Report) -> u8 {
    match &report.violation {
        None => 0,
        Some(violation) if violation.liveness => LIVENESS,
        Some(_) => SAFETY,
    }
}

fn shrink_a(out: &mut impl Write, options: &Options, bug: Option<Bug>) -> io::Result<u8> {
    let Some((smaller, violation)) = shrink(options, bug) else {
        return writeln!(out, "nothing is broken: there is nothing to make smaller").map(|()| 0);
    };
    writeln!(out, "{smaller}\nstill broken: {violation}\n  replay: {}", replay(&smaller, bug))?;
    Ok(if violation.liveness { LIVENESS } else { SAFETY })
}

fn replay_a(out: &mut impl Write, options: Options, arguments: &Arguments) -> io::Result<u8> {
    writeln!(out, "{options}")?;
    let seed = options.seed;
    let report = run_with(options, arguments.bug, arguments.trace);
    for line in &report.lines {
        writeln!(out, "{line}")?;
    }
    let count = &report.count;
    writeln!(
        out,
        "{} events, {} virtual ms, {} key versions, {} signatures, {} faults",
        report.steps,
        report.virtual_ms,
        count.keys,
        count.signatures,
        count.all_faults()
    )?;
    match &report.violation {
        None => writeln!(out, "result: ok")?,
        Some(violation) => writeln!(out, "result: seed {seed} broke {violation}")?,
    }
    writeln!(out, "trace: {}", report.hash)?;
    Ok(code(&report))
}

fn search(out: &mut impl Write, arguments: &Arguments) -> io::Result<u8> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let unheard_of = if arguments.seeds.is_some() { 1 } else { since.saturating_mul(100_000) };
    let first = arguments.from.unwrap_or(unheard_of);
    let end = arguments.seeds.map(|seeds| first.saturating_add(seeds));
    let time = arguments.minutes.map(|minutes| Duration::from_secs(minutes.saturating_mul(60)));
    writeln!(out, "from seed {first}")?;
    let begun = Instant::now();
    let seeds = (first..end.unwrap_or(u64::MAX)).take_while(|_| time.is_none_or(|time| begun.elapsed() < time));
    let mut sweep = Sweep::default();
    let mut told = Ok(());
    each(seeds.map(Options::draw), arguments.bug, |report| {
        sweep.add(&report);
        if let Some(violation) = &report.violation {
            let seed = report.options.seed;
            let command = replay(&report.options, arguments.bug);
            told = writeln!(out, "seed {seed} FAILED: {violation}\n  replay: {command}");
        }
        told.is_ok()
    });
    told?;
    let seconds = begun.elapsed().as_secs();
    writeln!(out, "{sweep}; {seconds} s on the clock")?;
    Ok(match (sweep.failures.is_empty(), sweep.unsafe_seed) {
        (true, _) => 0,
        (false, true) => SAFETY,
        (false, false) => LIVENESS,
    })
}
