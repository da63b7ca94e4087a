//! `symbolon`, the command line of a Symbolon cluster.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
