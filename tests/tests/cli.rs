//! What scripts and people rely on: exit codes, JSON shapes, help, and errors that say what to do next.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use symbolon_protocol::error::TABLE;
use symbolon_tests::{Cluster, Output, PATIENCE, assert_signs, binary, public_key, run, say};

fn symbolond(arguments: &[&str]) -> Output {
    run(Command::new(binary("symbolond")).args(arguments), b"", PATIENCE)
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[track_caller]
fn has(value: &Value, fields: &[&str]) {
    for field in fields {
        assert!(value.get(field).is_some(), "no field `{field}` in {value}");
    }
}

#[test]
fn scripts_get_what_they_rely_on() {
    let cluster = Cluster::start(3);
    shapes(&cluster);
    formats(&cluster);
    names_of_clients(&cluster);
    errors(&cluster);
    errors_name_what_is_wrong(&cluster);
    a_rotation_says_what_it_leaves_behind(&cluster);
    explanations(&cluster);
    raw_bytes_stay_off_the_terminal(&cluster);
    a_bench_says_how_it_measured(&cluster);
}

fn shapes(cluster: &Cluster) {
    let cli = cluster.cli();
    cli.ok(&["key", "create", "release", "--threshold", "2", "--tag", "team=core"]);

    let status = cli.json(&["status"]);
    has(&status, &["cluster_id", "leader", "state_version", "nodes", "keys"]);
    for node in status["nodes"].as_array().unwrap() {
        has(node, &["name", "reachable", "role", "applied_index", "version"]);
    }
    let key = &status["keys"][0];
    has(key, &["name", "version", "state", "threshold", "holders", "usable", "margin"]);
    assert_eq!((&key["name"], &key["state"]), (&Value::from("release"), &Value::from("active")), "{key}");
    assert_eq!(key["version"], 1, "{key}");
    assert_eq!(key["threshold"], 2, "{key}");
    assert_eq!(key["margin"], 1, "{key}");
    assert_eq!((&key["holders"], &key["usable"]), (&3.into(), &3.into()), "{key}");
    for names in ["holder_names", "usable_names"] {
        assert_eq!(key[names].as_array().unwrap().len(), 3, "{key}");
    }

    let public = public_key(cli, "release", None);
    let signed = assert_signs(cli, "release", &public, b"a message");
    let fields = [
        "key",
        "key_id",
        "version",
        "algorithm",
        "format",
        "signature",
        "request_id",
        "epoch",
        "coordinator",
        "holders",
        "attempts",
    ];
    has(&signed, &fields);
    assert_eq!((&signed["key"], &signed["format"]), (&Value::from("release"), &Value::from("base64")), "{signed}");
    assert_eq!(signed["holders"].as_array().unwrap().len(), 2, "{signed}");
    assert_eq!(signed["attempts"], 1, "{signed}");

    assert!(cli.json(&["key", "list"]).to_string().contains("release"));
    let shown = cli.json(&["key", "show", "release"]);
    assert!(shown.to_string().contains("core"), "{shown}");
    // The table is for people: the same facts, and no JSON.
    let table = cli.ok(&["key", "list", "-o", "table"]).text();
    assert!(table.contains("release") && table.contains("active") && !table.contains('{'), "{table}");

    // By default: the signature on standard output, the receipt on standard error, nothing else.
    let file = cluster.scratch("message");
    fs::write(&file, "a message").unwrap();
    let plain = cli.ok(&["sign", "release", path(&file)]);
    assert_eq!(plain.stdout.iter().filter(|byte| **byte == b'\n').count(), 1, "{plain}");
    assert_eq!(plain.text().len(), 88, "{plain}");
    assert!(!plain.stderr.is_empty(), "{plain}");
}

fn formats(cluster: &Cluster) {
    let cli = cluster.cli();
    let export = |format| cli.ok(&["key", "export-public", "release", "--format", format]);
    assert!(export("pem").text().starts_with("-----BEGIN PUBLIC KEY-----"));
    assert_eq!(export("der").stdout.len(), 44);
    assert_eq!(export("raw").stdout.len(), 32);
    assert!(export("ssh").text().starts_with("ssh-ed25519 AAAA"));
    let jwk = export("jwk").json();
    assert_eq!((&jwk["kty"], &jwk["crv"]), (&Value::from("OKP"), &Value::from("Ed25519")), "{jwk}");
    has(&jwk, &["x"]);
    let other = cli.call(&["key", "export-public", "release", "--format", "pgp"]).exits(2);
    assert!(other.stderr.contains("pem"), "the error names what there is\n{other}");
}

fn names_of_clients(cluster: &Cluster) {
    let cli = cluster.cli();
    let file = cluster.scratch("made/identity");
    cli.ok(&["identity", "new", "--file", path(&file)]);
    let shown = cli.identity(&file).ok(&["identity", "show"]).text();
    let secret = fs::read_to_string(&file).unwrap();
    let digits = secret.lines().nth(1).unwrap();
    assert!(!shown.contains(digits), "the secret is shown");
    let made = cli.call(&["identity", "new", "--file", path(&file)]).exits(1);
    assert!(made.stderr.contains("exists"), "{made}");

    let public = fs::read_to_string(cluster.scratch("made/identity.pub")).unwrap();
    assert!(shown.contains(public.trim()), "{shown}");
    cli.ok(&["client", "add", "made", "--public-key", public.trim(), "--role", "signer", "--key", "release*"]);
    let listed = cli.json(&["client", "list"]).to_string();
    assert!(listed.contains("made") && listed.contains("release*") && listed.contains("signer"), "{listed}");
    let made = cli.identity(&file);
    made.feed(b"x", &["sign", "release", "-"]).exits(0);

    // The last administrator stays.
    let admin = cluster.genesis().administrators.keys().next().unwrap().to_string();
    cli.refused(5, "last_administrator", &["client", "remove", &admin]);
}

fn errors(cluster: &Cluster) {
    let cli = cluster.cli();
    let refused = cli.refused(5, "not_found", &["key", "show", "nothing"]);
    let error = refused.error();
    has(&error, &["code", "message", "hint", "request_id", "retryable", "details"]);
    assert!(error["message"].as_str().unwrap().contains("nothing"), "{error}");
    assert!(error["details"].is_object(), "{error}");
    assert!(refused.stdout.is_empty(), "{refused}");
    // For people: the same in words, and what to do next.
    let words = cli.call(&["key", "show", "nothing"]).exits(5);
    assert!(words.stderr.contains("nothing") && !words.stderr.contains("{\"error\""), "{words}");

    // Usage.
    for arguments in
        [&["sign"][..], &["frobnicate"], &["key", "create"], &["sign", "release", "x", "--format", "morse"]]
    {
        cli.call(arguments).exits(2);
    }
    // Local files.
    cli.refused(1, "local_file", &["sign", "release", "/nonexistent/file"]);
    cli.with("SYMBOLON_IDENTITY", "/nonexistent/identity").refused(1, "local_file", &["status"]);
    cli.with("SYMBOLON_GENESIS", "/nonexistent/genesis").refused(1, "local_file", &["status"]);
    // Nobody there; soon.
    let alone = cli.with("SYMBOLON_ENDPOINTS", "127.0.0.1:1").call(&["status", "-o", "json"]).exits(4);
    assert_eq!(alone.error_code(), "unreachable", "{alone}");
    // A flag overrides the environment.
    let endpoint = cluster.endpoint(2);
    cli.with("SYMBOLON_ENDPOINTS", "127.0.0.1:1").ok(&["status", "--endpoints", &endpoint]);

    let table = cli.ok(&["help", "errors"]).text();
    for row in TABLE {
        assert!(table.contains(row.name), "`help errors` does not name {}", row.name);
    }
    assert!(cli.ok(&["--help"]).text().contains("sign"));
    assert!(cli.ok(&["--version"]).text().contains(env!("CARGO_PKG_VERSION")));
    for shell in ["bash", "zsh", "fish"] {
        assert!(cli.ok(&["completions", shell]).text().contains("symbolon"), "{shell}");
    }
    let manual = cli.ok(&["man"]).text();
    assert!(manual.contains(".TH symbolon"), "{manual}");
    let pages = cluster.scratch("pages");
    cli.ok(&["man", "--dir", path(&pages)]);
    for page in ["symbolon.1", "symbolon-sign.1", "symbolon-key-rotate.1", "symbolon-bench-keygen.1"] {
        assert!(fs::read_to_string(pages.join(page)).unwrap().contains("SYNOPSIS"), "{page}");
    }
}

fn errors_name_what_is_wrong(cluster: &Cluster) {
    let cli = cluster.cli();
    // Arguments that are missing, by name, for programs too.
    let error = cli.refused(2, "invalid_argument", &["client", "add", "bob"]).error();
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("--public-key") && message.contains("--role"), "{error}");
    assert_eq!(error["details"]["arguments"].as_array().unwrap().len(), 2, "{error}");
    // A file that is not there, and not a key that is none.
    let missing = path(&cluster.scratch("bob.pub")).to_owned();
    let add = ["client", "add", "bob", "--public-key", &missing, "--role", "admin"];
    let signature = "00".repeat(64);
    let verify = ["verify", "release", "/dev/null", &signature, "--public-key", &missing];
    for arguments in [&add[..], &verify[..]] {
        let error = cli.refused(1, "local_file", arguments).error();
        assert!(error["message"].as_str().unwrap().contains(&missing), "{error}");
    }
    // There is one standard input.
    let twice = cli.feed(b"x", &["verify", "release", "-", "-", "-o", "json"]).exits(2);
    let error = twice.error();
    assert!(error["message"].as_str().unwrap().contains("FILE and SIGNATURE"), "{error}");
}

fn a_rotation_says_what_it_leaves_behind(cluster: &Cluster) {
    let cli = cluster.cli();
    cli.ok(&["key", "create", "dated", "--threshold", "2", "--expires", "365d"]);
    cli.ok(&["key", "suspend", "dated"]);
    let rotated = cli.ok(&["key", "rotate", "dated"]).stderr;
    assert!(rotated.contains("warning: key `dated` was suspended and signs again"), "{rotated}");
    assert!(rotated.contains("warning: the expiry of version 1 of key `dated`"), "{rotated}");
    // With an expiry of its own nothing is left behind; the one after that leaves it, and says so in JSON.
    let rotated = cli.ok(&["key", "rotate", "dated", "--expires", "365d"]).stderr;
    assert!(!rotated.contains("warning"), "{rotated}");
    let rotated = cli.ok(&["key", "rotate", "dated", "-o", "json"]);
    let warning: Value = serde_json::from_str(rotated.stderr.trim()).unwrap();
    assert!(warning["warning"].as_str().unwrap().contains("version 3 of key `dated`"), "{rotated}");
    assert_eq!(rotated.json()["version"], 4, "{rotated}");
}

fn explanations(cluster: &Cluster) {
    let cli = cluster.cli();
    let signed = cli.sign("release", b"explain this").exits(0).json();
    let id = signed["request_id"].as_str().unwrap();
    let explained = cli.ok(&["request", "explain", id]).text();
    assert!(explained.contains("node"), "{explained}");
    let missing = cli.call(&["request", "explain", "00000000000000000000000000000000"]);
    assert!(missing.code == 0 || missing.code == 5, "{missing}");
    cli.call(&["request", "explain", "not-an-id"]).exits(2);
}

/// `script` gives a command a terminal.
fn raw_bytes_stay_off_the_terminal(cluster: &Cluster) {
    let file = cluster.scratch("message");
    let inner = cluster.cli().command(&["sign", "release", path(&file), "--format", "raw"]);
    let words = std::iter::once(inner.get_program())
        .chain(inner.get_args())
        .map(|word| format!("'{}'", word.to_string_lossy()));
    let line = words.collect::<Vec<_>>().join(" ");
    let mut command = Command::new("script");
    command.args(["-q", "-e", "-c", &line, "/dev/null"]);
    for (name, value) in inner.get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    if Command::new("script").arg("--version").output().is_err() {
        say("SKIPPED: raw signature to a terminal: the program `script` is not installed");
        return;
    }
    let output = run(&mut command, b"", PATIENCE);
    assert!(output.code == 2, "{output}");
    // Into a pipe they go.
    assert_eq!(cluster.cli().ok(&["sign", "release", path(&file), "--format", "raw"]).stdout.len(), 64);
}

fn a_bench_says_how_it_measured(cluster: &Cluster) {
    let figures = cluster.cli().json(&["bench", "sign", "--key", "release", "--clients", "2", "--seconds", "1"]);
    has(
        &figures,
        &["signatures_per_second", "p50_ms", "p99_ms", "max_ms", "errors", "limit_per_second", "limit_method", "ratio"],
    );
    assert_eq!(figures["limit_method"], "frost-crate-loop-v1", "{figures}");
    assert_eq!(figures["arithmetic"]["limit_method"], "arithmetic-v2", "{figures}");
    assert_eq!(figures["errors"], 0, "{figures}");
    assert!(figures["signatures_per_second"].as_f64().unwrap() > 0.0, "{figures}");
}

#[test]
fn configuration_is_checked_before_it_is_used() {
    let mut cluster = Cluster::made(3);
    let config = cluster.config(1);
    symbolond(&["check", "--config", path(&config)]).exits(0);
    let sound = fs::read_to_string(&config).unwrap();

    // An unknown key is refused by name, wherever it is used.
    fs::write(&config, format!("wobble = 1\n{sound}")).unwrap();
    for verb in ["check", "run"] {
        let output = symbolond(&[verb, "--config", path(&config)]);
        assert!(output.code != 0 && output.stderr.contains("wobble"), "{output}");
    }
    fs::write(&config, "this is no TOML").unwrap();
    assert!(symbolond(&["check", "--config", path(&config)]).code != 0);
    fs::write(&config, &sound).unwrap();

    // What would fail is said: a genesis of nobody, a seal key that is not there.
    for file in ["genesis", "seal.key", "identity"] {
        let (there, away) = (cluster.node_directory(1).join(file), cluster.scratch("away"));
        fs::rename(&there, &away).unwrap();
        let output = symbolond(&["check", "--config", path(&config)]);
        assert!(output.code != 0 && output.stderr.contains(file), "{output}");
        fs::rename(&away, &there).unwrap();
    }
    // The identity of somebody who is no member.
    let mine = cluster.node_directory(1).join("identity");
    let kept = fs::read(&mine).unwrap();
    fs::write(&mine, fs::read(cluster.new_identity("nobody").0).unwrap()).unwrap();
    let output = symbolond(&["check", "--config", path(&config)]);
    assert!(output.code != 0 && output.stderr.contains("member"), "{output}");
    fs::write(&mine, kept).unwrap();

    // Not running is not healthy; a running node's ports are taken.
    assert!(symbolond(&["health", "--config", path(&config)]).code != 0);
    for node in 1..=3 {
        cluster.start_node(node);
    }
    cluster.wait_ready();
    symbolond(&["health", "--config", path(&config)]).exits(0);
    let busy = symbolond(&["check", "--config", path(&config)]);
    assert!(busy.code != 0, "{busy}");
    // Started twice: the second one ends and harms nothing.
    let second = symbolond(&["run", "--config", path(&config)]);
    assert!(second.code != 0, "{second}");
    assert!(cluster.is_healthy(1));

    for arguments in [&["frobnicate"][..], &["run"], &["run", "--config", "/nonexistent/symbolond.toml"]] {
        assert!(symbolond(arguments).code != 0, "{arguments:?}");
    }
    assert!(symbolond(&["--version"]).exits(0).text().contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_cluster_can_be_made_by_hand() {
    let cluster = Cluster::made(3);
    let mut enrolments = Vec::new();
    for node in 1..=3 {
        let directory = cluster.scratch(&format!("hand{node}"));
        let (peer, client) = (format!("127.0.0.1:{}", 7_400 + node), format!("127.0.0.1:{}", 7_500 + node));
        let name = format!("hand{node}");
        let arguments = [
            "init",
            "--dir",
            path(&directory),
            "--name",
            &name,
            "--peer",
            &peer,
            "--client",
            &client,
            "--zone",
            "rack1",
        ];
        let output = symbolond(&arguments).exits(0);
        let line = output.text().lines().last().unwrap().to_owned();
        let enrolment = symbolon_protocol::genesis::Enrolment::parse(&line).unwrap();
        assert_eq!((enrolment.member.peer_address, enrolment.member.zone), (peer.clone(), "rack1".to_owned()));
        enrolments.push(line);
        // A second time would be another identity.
        assert!(symbolond(&arguments).code != 0, "init twice");
    }
    let (admin, second) = (cluster.new_identity("ann").1.public(), cluster.new_identity("bob").1.public());
    let (ann, bob) = (format!("ann={admin}"), format!("bob={second}"));
    let out = cluster.scratch("hand-genesis");
    let mut arguments = vec!["genesis", "--name", "by-hand", "--out", path(&out), "--admin", &ann, "--admin", &bob];
    for line in &enrolments {
        arguments.extend(["--enrolment", line]);
    }
    symbolond(&arguments).exits(0);
    let genesis = symbolon_protocol::genesis::Genesis::parse_file(&fs::read_to_string(&out).unwrap()).unwrap();
    assert_eq!((genesis.members.len(), genesis.administrators.len()), (3, 2));

    // One administrator is one too few to lose: a warning, not a refusal.
    let alone = cluster.scratch("lonely-genesis");
    let warned = symbolond(&[
        "genesis",
        "--name",
        "lonely",
        "--out",
        path(&alone),
        "--admin",
        &ann,
        "--enrolment",
        &enrolments[0],
    ])
    .exits(0);
    assert!(warned.stderr.contains("administrator"), "{warned}");
    // A line that was changed is refused.
    let forged = enrolments[0].replace("symbolon-node:0", "symbolon-node:1");
    let output = symbolond(&[
        "genesis",
        "--name",
        "forged",
        "--out",
        path(&cluster.scratch("x")),
        "--admin",
        &ann,
        "--enrolment",
        &forged,
    ]);
    assert!(output.code != 0, "{output}");
    // Nothing is written over.
    assert!(symbolond(&arguments).code != 0, "genesis twice into one file");
}
