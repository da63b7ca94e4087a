//! `symbolon completions`, `man` and `help`.

use std::path::PathBuf;

use clap::{Command, CommandFactory as _};
use clap_complete::Shell;
use symbolon_client::Error;
use symbolon_protocol::error::{Fault, TABLE};

use super::context::Context;
use super::json::ErrorRow;
use super::out::{Done, usage};

#[derive(Debug, clap::Args)]
pub(crate) struct Completions {
    /// Shell
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Man {
    /// Write a page for every command into this directory
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Help {
    /// A command such as `key create`, or `errors` for all error codes
    topic: Vec<String>,
}

pub(crate) fn completions(context: &Context, args: &Completions) -> Done {
    // Into memory first: clap panics when writing fails.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::Args::command(), "symbolon", &mut script);
    context.out.raw(&script)
}

pub(crate) fn man(context: &Context, args: &Man) -> Done {
    let command = super::Args::command();
    let Some(directory) = &args.dir else {
        let mut page = Vec::new();
        let rendered = clap_mangen::Man::new(command).render(&mut page);
        rendered.map_err(|error| Error::file("make", "the manual page".as_ref(), &error))?;
        return context.out.raw(&page);
    };
    let written = std::fs::create_dir_all(directory).and_then(|()| clap_mangen::generate_to(command, directory));
    written.map_err(|error| Error::file("write manual pages into", directory, &error))?;
    context.out.note(&format!("manual pages are in {}", directory.display()));
    Ok(())
}

pub(crate) fn help(context: &Context, args: &Help) -> Done {
    if args.topic.first().is_some_and(|topic| topic == "errors") {
        return errors(context);
    }
    let mut command = super::Args::command();
    command.build();
    let mut found = &mut command;
    for name in &args.topic {
        found = match found.find_subcommand_mut(name) {
            Some(inner) => inner,
            None => return usage(format!("there is no help on `{}`", args.topic.join(" ")), "see `symbolon help`"),
        };
    }
    let text = Command::render_long_help(found).to_string();
    context.out.line(text.trim_end())
}

/// The whole error table.
fn errors(context: &Context) -> Done {
    let fault = |fault: Fault| match fault {
        Fault::Caller => "caller",
        Fault::Peer => "peer",
        Fault::Environment => "environment",
        Fault::Bug => "bug",
    };
    let rows: Vec<ErrorRow> = TABLE
        .iter()
        .map(|row| ErrorRow {
            code: row.name,
            exit: row.exit,
            grpc: row.grpc,
            fault: fault(row.fault),
            retryable: row.retryable,
            hint: row.hint,
        })
        .collect();
    if context.out.is_json() {
        return context.out.json(&rows);
    }
    let yes_no = |yes: bool| String::from(if yes { "yes" } else { "no" });
    let cells = rows.iter().map(|row| {
        let (exit, grpc) = (row.exit.to_string(), row.grpc.to_string());
        vec![row.code.to_owned(), exit, grpc, row.fault.to_owned(), yes_no(row.retryable), row.hint.to_owned()]
    });
    context.out.table(&["CODE", "EXIT", "GRPC", "FAULT", "RETRY", "WHAT TO DO"], cells.collect())
}
