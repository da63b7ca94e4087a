//! Everything that is printed: results on standard output, everything else on standard error.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;
use symbolon_client::Error;
use symbolon_protocol::error::{ErrorCode, Refusal};

use super::json;

/// Form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Style {
    /// For people
    Table,
    /// For programs: one JSON document on standard output, errors as JSON on standard error
    Json,
}

/// How a command ends when it does not end well.
#[derive(Debug)]
pub(crate) enum Stop {
    /// With an error that is told.
    Error(Box<Error>),
    /// Silently: whoever read the output has gone.
    Gone,
    /// With an exit code: what was printed says why.
    Told(u8),
}

/// What commands return.
pub(crate) type Done<T = ()> = Result<T, Stop>;

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Error(Box::new(error))
    }
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Error::from(refusal).into()
    }
}

/// An error that only this program can make.
pub(crate) fn fail<T>(code: ErrorCode, message: impl Into<String>) -> Done<T> {
    Err(Error::new(code, message).into())
}

/// An argument that makes no sense.
pub(crate) fn usage<T>(message: impl Into<String>, hint: &str) -> Done<T> {
    Err(Error::new(ErrorCode::InvalidArgument, message).with_hint(hint).into())
}

/// The two streams.
#[derive(Debug)]
pub(crate) struct Out {
    style: Style,
    /// In JSON warnings wait for the end, so that an error is one document.
    warnings: Mutex<Vec<String>>,
}

impl Out {
    pub(crate) fn new(style: Style) -> Self {
        Self { style, warnings: Mutex::default() }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.style == Style::Json
    }

    /// Prints bytes as they are.
    pub(crate) fn raw(&self, bytes: &[u8]) -> Done {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => Stop::Gone,
            _ => Error::new(ErrorCode::LocalFile, format!("cannot write to standard output: {error}")).into(),
        })
    }

    /// Prints a line.
    pub(crate) fn line(&self, text: &str) -> Done {
        self.raw(format!("{}\n", clean(text)).as_bytes())
    }

    /// Prints a document.
    pub(crate) fn json(&self, document: &impl Serialize) -> Done {
        let mut text = to_json(document);
        text.push('\n');
        self.raw(text.as_bytes())
    }

    /// Prints columns under their headings.
    pub(crate) fn table(&self, headings: &[&str], rows: Vec<Vec<String>>) -> Done {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(headings.iter().copied());
        for row in rows {
            table.add_row(row.iter().map(|cell| clean(cell)).collect::<Vec<_>>());
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        self.line(&table.trim_fmt())
    }

    /// Says something beside the result; only to people.
    pub(crate) fn note(&self, text: &str) {
        if !self.is_json() {
            say(&clean(text));
        }
    }

    /// Says what somebody should know, though the command goes on.
    pub(crate) fn warn(&self, text: &str) {
        if self.is_json() {
            self.waiting().push(text.to_owned());
        } else {
            say(&format!("warning: {}", clean(text)));
        }
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells how the command ended, and gives the exit code for it.
    pub(crate) fn finish(&self, stop: Option<Stop>) -> ExitCode {
        let warnings = std::mem::take(&mut *self.waiting());
        match stop {
            None => {
                say_warnings(warnings);
                ExitCode::SUCCESS
            }
            Some(Stop::Told(exit)) => {
                say_warnings(warnings);
                ExitCode::from(exit)
            }
            Some(Stop::Gone) => ExitCode::FAILURE,
            Some(Stop::Error(error)) => {
                if self.is_json() {
                    say(&to_json(&json::ErrorDocument::new(&error, warnings)));
                } else {
                    say(&clean(&format!("error: {}\nhint: {}", error.message(), error.hint())));
                }
                ExitCode::from(error.code().row().exit)
            }
        }
    }
}

/// Whether a person looks at standard output.
pub(crate) fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// A line on standard error; nobody is left to tell when that fails.
fn say(text: &str) {
    let mut stderr = io::stderr().lock();
    let _ = writeln!(stderr, "{text}");
}

/// Warnings that waited for the end, beside a document.
fn say_warnings(warnings: Vec<String>) {
    for warning in warnings {
        say(&to_json(&BTreeMap::from([("warning", warning)])));
    }
}

fn to_json(document: &impl Serialize) -> String {
    // Documents are structs of texts, numbers and lists: serialisation cannot fail.
    serde_json::to_string(document).unwrap_or_default()
}

/// Text of other people, such as reasons of revocations, must not steer a terminal.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_do_not_reach_a_terminal() {
        assert_eq!(clean("a\u{1b}[31mb\r\n\tc\u{7}"), "a\u{fffd}[31mb\u{fffd}\n\tc\u{fffd}");
    }
}
