//! The main job, as scripts/demo.sh shows it: a key that exists nowhere signs real files, also when nodes die.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use symbolon_tests::{Cluster, PATIENCE, assert_signs, binary, public_key, run, wait_until, workspace};

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// OpenSSL's verdict on a raw Ed25519 signature.
fn openssl_accepts(pem: &Path, file: &Path, signature: &Path) -> bool {
    let mut command = Command::new("openssl");
    command.args(["pkeyutl", "-verify", "-pubin", "-inkey"]).arg(pem);
    command.args(["-rawin", "-in"]).arg(file).arg("-sigfile").arg(signature);
    run(&mut command, b"", PATIENCE).code == 0
}

/// OpenSSH's verdict on an SSHSIG.
fn ssh_keygen_accepts(allowed: &Path, namespace: &str, file: &[u8], signature: &Path) -> bool {
    let mut command = Command::new("ssh-keygen");
    command.args(["-Y", "verify", "-I", "release", "-n", namespace, "-f"]).arg(allowed).arg("-s").arg(signature);
    run(&mut command, file, PATIENCE).code == 0
}

#[test]
fn five_nodes_sign_real_files_and_survive_two_deaths() {
    let mut cluster = Cluster::start(5);
    let cli = cluster.cli().clone();
    let status = cli.json(&["status"]);
    assert_eq!(status["nodes"].as_array().unwrap().len(), 5, "{status}");
    assert_eq!(status["cluster_id"], cluster.genesis().cluster_id().to_string(), "{status}");

    cli.ok(&["key", "create", "release", "--threshold", "3"]);
    let public = public_key(&cli, "release", None);

    // Cargo.lock as a raw signature, which OpenSSL verifies.
    let lock = workspace().join("Cargo.lock");
    let (pem, signature) = (cluster.scratch("release.pem"), cluster.scratch("Cargo.lock.sig"));
    fs::write(&pem, cli.ok(&["key", "export-public", "release", "--format", "pem"]).stdout).unwrap();
    cli.ok(&["sign", "release", path(&lock), "--format", "raw", "--out", path(&signature)]);
    assert_eq!(fs::read(&signature).unwrap().len(), 64);
    assert!(openssl_accepts(&pem, &lock, &signature));
    let changed = cluster.scratch("changed");
    fs::write(&changed, [fs::read(&lock).unwrap().as_slice(), b"x"].concat()).unwrap();
    assert!(!openssl_accepts(&pem, &changed, &signature), "a changed file");

    // The program itself as an SSHSIG, which OpenSSH verifies: larger than any raw message, so it is hashed first.
    let program = binary("symbolon");
    let content = fs::read(&program).unwrap();
    assert!(content.len() > 1 << 20);
    let (allowed, armored) = (cluster.scratch("allowed_signers"), cluster.scratch("symbolon.sig"));
    let ssh = cli.ok(&["key", "export-public", "release", "--format", "ssh"]).text();
    fs::write(&allowed, format!("release {ssh}\n")).unwrap();
    let arguments =
        ["sign", "release", path(&program), "--format", "sshsig", "--namespace", "file", "--out", path(&armored)];
    cli.ok(&arguments);
    assert!(ssh_keygen_accepts(&allowed, "file", &content, &armored));
    assert!(!ssh_keygen_accepts(&allowed, "other", &content, &armored), "another namespace");
    assert!(!ssh_keygen_accepts(&allowed, "file", b"something else", &armored), "another file");
    // `verify` reads what `sign` writes.
    cli.ok(&["verify", "release", path(&lock), path(&signature)]);
    cli.ok(&["verify", "release", path(&program), path(&armored)]);
    cli.refused(6, "verification_failed", &["verify", "release", path(&changed), path(&signature)]);

    // Three of five sign; which two die is not chosen kindly: the leader is one of them.
    let leader = cluster.leader();
    let mut order: Vec<usize> = std::iter::once(leader).chain((1..=5).filter(|node| *node != leader)).collect();
    order.truncate(3);
    cluster.kill(order[0]);
    cluster.kill(order[1]);
    let answer = assert_signs(&cli, "release", &public, b"two are dead");
    let holders = answer["holders"].as_array().unwrap();
    assert_eq!(holders.len(), 3, "{answer}");
    for dead in &order[..2] {
        assert!(!holders.iter().any(|holder| *holder == *format!("node{dead}")), "{answer}");
    }
    cli.ok(&["sign", "release", path(&lock), "--format", "raw", "--out", path(&cluster.scratch("second.sig"))]);
    assert!(openssl_accepts(&pem, &lock, &cluster.scratch("second.sig")));

    // Two of five do not, and the answer says why, soon.
    cluster.kill(order[2]);
    let refused = cli.refused(4, "below_threshold", &["sign", "release", path(&lock)]);
    assert!(refused.stdout.is_empty(), "{refused}");
    assert!(refused.took < Duration::from_secs(5), "{refused}");
    let error = refused.error();
    assert_eq!(error["details"]["reachable"], 2, "{error}");
    assert_eq!(error["details"]["needed"], 3, "{error}");
    let unreachable = error["details"]["unreachable"].as_array().unwrap();
    for dead in &order {
        assert!(unreachable.iter().any(|name| *name == *format!("node{dead}")), "{error}");
    }
    assert_eq!(error["retryable"], true, "{error}");
    assert!(!error["hint"].as_str().unwrap().is_empty(), "{error}");

    // They come back, and so do the signatures.
    for node in order {
        cluster.start_node(node);
    }
    cluster.wait_ready();
    wait_until("the cluster to sign again", PATIENCE, || cli.sign("release", b"again").code == 0);
    assert_signs(&cli, "release", &public, b"all are back");
}
