//! The life of a key over the command line: every verb, the states that it leads to, and the exit codes on the way.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use symbolon_tests::{Cli, Cluster, PATIENCE, assert_signs, date_in, public_key, wait_until};

/// A file and a signature over it, for `symbolon verify`.
struct Signed {
    file: PathBuf,
    signature: PathBuf,
}

impl Signed {
    fn new(cluster: &Cluster, key: &str, text: &str) -> Self {
        let (file, signature) = (cluster.scratch(text), cluster.scratch(&format!("{text}.sig")));
        fs::write(&file, text).unwrap();
        cluster.cli().ok(&["sign", key, file.to_str().unwrap(), "--out", signature.to_str().unwrap()]);
        Self { file, signature }
    }
    /// Exit code of `verify`, with more arguments.
    #[track_caller]
    fn verify(&self, cli: &Cli, key: &str, more: &[&str]) -> i32 {
        let arguments = ["verify", key, self.file.to_str().unwrap(), self.signature.to_str().unwrap()];
        cli.call(&[&arguments[..], more].concat()).code
    }
}

#[test]
fn a_key_lives_and_ends() {
    let cluster = Cluster::start(3);
    rotation(&cluster);
    suspension(&cluster);
    revocation_and_destruction(&cluster);
    expiry(&cluster);
    destruction_can_be_called_off(&cluster);
}

fn rotation(cluster: &Cluster) {
    let cli = cluster.cli();
    cli.ok(&["key", "create", "turning"]);
    let first = public_key(cli, "turning", None);
    let old = Signed::new(cluster, "turning", "signed by version 1");
    cli.ok(&["key", "rotate", "turning"]);
    assert_eq!((cli.state("turning", 1).as_str(), cli.state("turning", 2).as_str()), ("rotated", "active"));

    let second = public_key(cli, "turning", None);
    assert_ne!(first, second, "a new version is a new key");
    assert_eq!(public_key(cli, "turning", Some(1)), first);
    assert_eq!(public_key(cli, "turning", Some(2)), second);
    let answer = assert_signs(cli, "turning", &second, b"after the rotation");
    assert_eq!(answer["version"], 2, "{answer}");
    assert_eq!(answer["algorithm"], "ed25519", "{answer}");
    // What the old version signed is still good.
    assert_eq!(old.verify(cli, "turning", &[]), 0);
    assert_eq!(Signed::new(cluster, "turning", "signed by version 2").verify(cli, "turning", &[]), 0);
}

fn suspension(cluster: &Cluster) {
    let cli = cluster.cli();
    cli.ok(&["key", "create", "pausing"]);
    let signed = Signed::new(cluster, "pausing", "signed before the pause");
    let file = signed.file.to_str().unwrap();
    cli.refused(5, "wrong_state", &["key", "resume", "pausing"]);
    cli.ok(&["key", "suspend", "pausing"]);
    assert_eq!(cli.state("pausing", 1), "suspended");
    cli.refused(5, "wrong_state", &["sign", "pausing", file]);
    cli.refused(5, "wrong_state", &["key", "suspend", "pausing"]);
    assert_eq!(signed.verify(cli, "pausing", &[]), 0);
    cli.ok(&["key", "resume", "pausing"]);
    cli.ok(&["sign", "pausing", file]);
}

fn revocation_and_destruction(cluster: &Cluster) {
    let cli = cluster.cli();
    cli.ok(&["key", "create", "ending"]);
    cli.ok(&["key", "rotate", "ending"]);
    let signed = Signed::new(cluster, "ending", "signed before the end");
    let file = signed.file.to_str().unwrap();

    // An active key cannot be destroyed, and nothing is destroyed by accident.
    cli.refused(5, "wrong_state", &["key", "destroy", "ending", "--confirm", "ending"]);
    cli.call(&["key", "revoke", "ending"]).exits(2);
    cli.ok(&["key", "revoke", "ending", "--reason", "the laptop was stolen"]);
    let shown = cli.json(&["key", "show", "ending"]);
    assert!(shown.to_string().contains("the laptop was stolen"), "{shown}");
    assert_eq!(
        (cli.state("ending", 1).as_str(), cli.state("ending", 2).as_str()),
        ("revoked", "revoked"),
        "all versions"
    );
    cli.refused(5, "wrong_state", &["sign", "ending", file]);
    cli.refused(5, "wrong_state", &["key", "resume", "ending"]);
    cli.refused(5, "wrong_state", &["key", "rotate", "ending"]);
    assert_eq!(signed.verify(cli, "ending", &[]), 5, "verification says that the version is revoked");
    assert_eq!(signed.verify(cli, "ending", &["--allow-revoked"]), 0);

    cli.call(&["key", "destroy", "ending"]).exits(2);
    let wrong = cli.call(&["key", "destroy", "ending", "--confirm", "endnig"]);
    assert!(wrong.code == 2, "{wrong}");
    cli.ok(&["key", "destroy", "ending", "--confirm", "ending"]);
    wait_until("the key to be destroyed", PATIENCE, || {
        (cli.state("ending", 1).as_str(), cli.state("ending", 2).as_str()) == ("destroyed", "destroyed")
    });
    cli.refused(5, "wrong_state", &["sign", "ending", file]);
    // Its name and its history stay.
    cli.refused(5, "already_exists", &["key", "create", "ending"]);
}

fn expiry(cluster: &Cluster) {
    let cli = cluster.cli();
    let yesterday = "2020-01-01T00:00:00Z";
    let past = cli.call(&["key", "create", "stale", "--expires", yesterday]);
    assert!(past.code == 2 || past.code == 5, "{past}");

    cli.ok(&["key", "create", "passing", "--expires", &date_in(Duration::from_secs(12))]);
    let signed = Signed::new(cluster, "passing", "signed in time");
    let file = signed.file.to_str().unwrap();
    wait_until("the key to expire", PATIENCE, || {
        let output = cli.call(&["sign", "passing", file, "-o", "json"]);
        assert!(output.code == 0 || (output.code == 5 && output.error_code() == "wrong_state"), "{output}");
        output.code == 5
    });
    assert_eq!(cli.state("passing", 1), "expired");
    assert_eq!(signed.verify(cli, "passing", &[]), 0, "an expired version verifies");
    // An expired key can go on with a new version, and an expired version can be destroyed.
    cli.ok(&["key", "rotate", "passing"]);
    cli.ok(&["sign", "passing", file]);
    cli.ok(&["key", "destroy", "passing", "--version", "1", "--confirm", "passing"]);
    wait_until("version 1 to be destroyed", PATIENCE, || cli.state("passing", 1) == "destroyed");
    assert_eq!(cli.state("passing", 2), "active");
}

fn destruction_can_be_called_off(cluster: &Cluster) {
    let cli = cluster.cli();
    cli.ok(&["key", "create", "waiting"]);
    cli.ok(&["key", "revoke", "waiting", "--reason", "a mistake"]);
    cli.ok(&["key", "destroy", "waiting", "--confirm", "waiting", "--in", "7d"]);
    assert_eq!(cli.state("waiting", 1), "destroying");
    cli.ok(&["key", "destroy", "waiting", "--cancel"]);
    assert_eq!(cli.state("waiting", 1), "revoked");
    cli.refused(5, "wrong_state", &["key", "destroy", "waiting", "--cancel"]);
    cli.ok(&["key", "destroy", "waiting", "--confirm", "waiting"]);
    wait_until("the key to be destroyed", PATIENCE, || cli.state("waiting", 1) == "destroyed");
    cli.refused(5, "wrong_state", &["key", "destroy", "waiting", "--cancel"]);
}
