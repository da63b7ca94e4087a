//! The program itself, as it is built for these tests; what it does with a cluster is tested end to end.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::process::Command;

#[test]
fn the_program_says_its_release() {
    let said = Command::new(env!("CARGO_BIN_EXE_symbolon")).arg("--version").output().unwrap();
    assert!(said.status.success(), "{said:?}");
    let said = String::from_utf8(said.stdout).unwrap();
    assert!(said.starts_with("symbolon ") && said.contains(env!("CARGO_PKG_VERSION")), "{said}");
}
