//! `symbolon operation`: share operations that run and how earlier ones ended; and how far one is, for whoever waits for it.

use std::io::{IsTerminal as _, stderr};
use std::time::Duration;

use clap::Subcommand;
use indicatif::{ProgressBar, ProgressStyle};
use symbolon_client::{Client, Name, now_ms};
use symbolon_protocol::id::Epoch;
use symbolon_protocol::limits;
use symbolon_protocol::state::view::{OperationPhase, OperationView};

use super::context::{Context, DEADLINE, node_names};
use super::out::Done;
use super::{json, parse};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the share operations that run
    List,
    /// Show the share operations of a key: what runs, how earlier ones ended, and who was blamed
    Show {
        /// Name of the key
        #[arg(value_parser = parse::name)]
        key: Name,
    },
}

pub(crate) async fn run(context: &Context, command: Command) -> Done {
    match command {
        Command::List => list(context).await,
        Command::Show { key } => show(context, &key).await,
    }
}

async fn list(context: &Context) -> Done {
    let client = context.client(DEADLINE).await?;
    let (mut operations, mut after) = (Vec::new(), Vec::new());
    loop {
        let page = client.list_operations(&after, limits::PAGE_ITEMS).await?;
        operations.extend(page.operations);
        match page.next {
            Some(next) => after = next,
            None => break,
        }
    }
    if context.out.is_json() {
        let operations = operations.iter().map(|operation| json::Operation::new(&client, operation)).collect();
        return context.out.json(&json::Operations { operations });
    }
    print(context, &client, &operations)
}

async fn show(context: &Context, name: &Name) -> Done {
    let client = context.client(DEADLINE).await?;
    let key = client.peek_key(name).await?;
    let versions = &key.view.versions;
    let running: Vec<OperationView> = versions.iter().filter_map(|version| version.running.clone()).collect();
    let ended: Vec<json::Ended> = versions.iter().flat_map(|version| json::Ended::all(&client, version)).collect();
    if context.out.is_json() {
        return context.out.json(&json::KeyOperations {
            key: key.view.name.to_string(),
            key_id: key.view.id.to_string(),
            running: running.iter().map(|operation| json::Operation::new(&client, operation)).collect(),
            ended,
        });
    }
    print(context, &client, &running)?;
    context.out.line("")?;
    let rows = ended.iter().map(|attempt| {
        vec![
            attempt.version.to_string(),
            attempt.epoch.to_string(),
            attempt.cause.words(),
            format!("{} of {}", attempt.threshold, attempt.roster.join(", ")),
            attempt.ended.clone(),
            attempt.words(),
        ]
    });
    context.out.table(&["VERSION", "EPOCH", "WHY", "NEEDED", "ENDED", "RESULT"], rows.collect())
}

fn print(context: &Context, client: &Client, operations: &[OperationView]) -> Done {
    if operations.is_empty() {
        return context.out.line("no share operation runs");
    }
    let rows = operations.iter().map(|operation| {
        let waiting = node_names(client, &operation.waiting);
        vec![
            operation.key.to_string(),
            operation.version.to_string(),
            json::Cause::new(client, operation.trigger).words(),
            operation.epoch.to_string(),
            operation.attempt.to_string(),
            operation.phase.name().to_owned(),
            if waiting.is_empty() { "-".to_owned() } else { waiting.join(", ") },
            parse::age(now_ms().saturating_sub(operation.begun_ms)),
        ]
    });
    let headings = ["KEY", "VERSION", "WHY", "EPOCH", "ATTEMPT", "PHASE", "WAITS FOR", "AGE"];
    context.out.table(&headings, rows.collect())
}

/// How far an operation is, in words.
pub(super) fn told(client: &Client, operation: &OperationView) -> String {
    let OperationView { epoch, attempt, phase, .. } = operation;
    let waiting = node_names(client, &operation.waiting);
    let waits = if waiting.is_empty() { String::new() } else { format!(", waits for {}", waiting.join(", ")) };
    format!("epoch {epoch}, attempt {attempt}: {}{waits}", phase.name())
}

/// Shows how far an operation is to whoever waits for it: a spinner on a terminal, else a line whenever it gets further.
pub(super) struct Progress<'a> {
    context: &'a Context,
    what: String,
    bar: Option<ProgressBar>,
    last: Option<(Epoch, OperationPhase)>,
}

impl<'a> Progress<'a> {
    pub(super) fn new(context: &'a Context, what: String) -> Self {
        let bar = (!context.out.is_json() && stderr().is_terminal()).then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}, {elapsed}") {
                bar.set_style(style);
            }
            bar.set_message(what.clone());
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Self { context, what, bar, last: None }
    }

    /// Takes what was seen; none while votes for the certificate are collected.
    pub(super) fn show(&mut self, client: &Client, operation: Option<&OperationView>) {
        let now = operation.map(|operation| (operation.epoch, operation.phase));
        let further = now.is_some() && now != self.last;
        let text = operation.map_or_else(|| "collecting votes".to_owned(), |operation| told(client, operation));
        match &self.bar {
            Some(bar) => bar.set_message(format!("{}, {text}", self.what)),
            None if further => self.context.out.note(&format!("{}, {text}", self.what)),
            None => {}
        }
        self.last = now.or(self.last);
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
