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

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::collections::BTreeSet;

    use clap::Parser as _;

    use super::*;

    fn names(command: &Command, name: String, all: &mut BTreeSet<String>) {
        for inner in command.get_subcommands() {
            names(inner, format!("{name}-{}", inner.get_name()), all);
        }
        all.insert(format!("{name}.1"));
    }

    #[test]
    fn every_command_has_a_manual_page() {
        let global = super::super::Args::try_parse_from(["symbolon", "status", "-o", "json"]).unwrap().global;
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("man1");
        assert!(man(&Context::new(global), &Man { dir: Some(directory.clone()) }).is_ok());
        let mut expected = BTreeSet::new();
        names(&super::super::Args::command(), "symbolon".to_owned(), &mut expected);
        assert!(expected.contains("symbolon.1") && expected.contains("symbolon-key-rotate.1"));
        let made = std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(made.map(|name| name.into_string().unwrap()).collect::<BTreeSet<_>>(), expected);
        let page = std::fs::read_to_string(directory.join("symbolon-key-rotate.1")).unwrap();
        assert!(page.contains("expires") && page.contains("not taken over"), "{page}");
    }
}
