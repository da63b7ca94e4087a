//! What an operator looks at: `symbolon doctor`, and the metrics of a node.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use serde_json::Value;
use symbolon_tests::{Cluster, PATIENCE, assert_signs, eventually, public_key, wait_until};

/// What every node looks at; scripts rely on the names.
const CHECKS: [&str; 18] = [
    "applied",
    "clock",
    "core_files",
    "debuggers",
    "disk_space",
    "disk_sync",
    "freshness",
    "keys",
    "leader",
    "members",
    "memory_lock",
    "open_files",
    "peers",
    "releases",
    "shares",
    "slot_file",
    "state_time",
    "usage_log",
];

/// What a node says of itself in the answer of `doctor -o json`.
fn examined<'a>(answer: &'a Value, node: &str) -> &'a Value {
    let nodes = answer["nodes"].as_array().unwrap_or_else(|| panic!("no nodes in {answer}"));
    nodes.iter().find(|one| one["node"] == *node).unwrap_or_else(|| panic!("{node} is not in {answer}"))
}

fn check<'a>(answer: &'a Value, node: &str, name: &str) -> &'a Value {
    let checks = examined(answer, node)["checks"].as_array().unwrap_or_else(|| panic!("no checks in {answer}"));
    checks.iter().find(|one| one["name"] == *name).unwrap_or_else(|| panic!("{node} has no check {name}: {answer}"))
}

#[test]
fn doctor_names_what_is_wrong() {
    let mut cluster = Cluster::start(3);
    let cli = cluster.cli().clone();
    cli.ok(&["key", "create", "release", "--threshold", "2"]);

    // A node may hear another one a moment later than the node that `status` asks.
    wait_until("every node to find nothing wrong", PATIENCE, || cli.call(&["doctor"]).code == 0);
    let well = cli.json(&["doctor"]);
    assert_eq!((&well["healthy"], &well["failures"]), (&Value::from(true), &Value::from(0)), "{well}");
    assert_eq!(well["nodes"].as_array().unwrap().len(), 3, "{well}");
    for node in ["node1", "node2", "node3"] {
        let said = examined(&well, node);
        assert!(said["error"].is_null(), "{said}");
        let checks = said["checks"].as_array().unwrap();
        let names: Vec<&str> = checks.iter().map(|check| check["name"].as_str().unwrap()).collect();
        assert_eq!(names.iter().copied().collect::<BTreeSet<_>>(), BTreeSet::from(CHECKS), "{said}");
        assert_eq!(names.len(), CHECKS.len(), "a check twice: {said}");
        for check in checks {
            let wrong = check["level"] != "ok";
            assert!(["ok", "warning"].contains(&check["level"].as_str().unwrap()), "{check}");
            assert!(wrong || check["advice"].is_null(), "advice where nothing is to be done: {check}");
        }
        assert!(check(&well, node, "shares")["detail"].as_str().unwrap().starts_with("1 can be opened"), "{said}");
        assert!(
            check(&well, node, "keys")["detail"].as_str().unwrap().starts_with("1 sign or are suspended"),
            "{said}"
        );
    }
    let table = cli.ok(&["doctor"]).text();
    for word in ["node1", "node2", "node3", "CHECK", "LEVEL", "disk_sync", "3 nodes asked: 0 failures"] {
        assert!(table.contains(word), "`doctor` does not print {word}:\n{table}");
    }
    who_may_ask(&cluster);

    cluster.kill(3);
    let unwell = cli.call(&["doctor", "-o", "json"]).exits(4).json();
    assert_eq!(unwell["healthy"], false, "{unwell}");
    assert_eq!(examined(&unwell, "node3")["error"]["code"], "unreachable", "{unwell}");
    let table = cli.call(&["doctor"]).exits(4).text();
    assert!(table.contains("node3") && table.contains("failure"), "{table}");

    // The others find it out by themselves: asked alone, one of them names the node, and the key without a holder to spare.
    let alone = cluster.cli_at(1);
    let told = eventually("a node to miss its peer", PATIENCE, || {
        let told = alone.call(&["doctor", "-o", "json"]);
        let told = (told.code == 4).then(|| told.json())?;
        (check(&told, "node1", "peers")["level"] == "failure").then_some(told)
    });
    assert!(check(&told, "node1", "peers")["detail"].as_str().unwrap().contains("unreachable: node3"), "{told}");
    let keys = check(&told, "node1", "keys");
    assert!(keys["level"] == "warning" && keys["detail"].as_str().unwrap().contains("release"), "{keys}");

    // Without a majority it still answers: that is when it is needed most.
    cluster.kill(2);
    let told = eventually("a node to miss its majority", PATIENCE, || {
        let told = alone.call(&["doctor", "-o", "json"]).exits(4).json();
        (check(&told, "node1", "leader")["level"] == "failure").then_some(told)
    });
    assert_eq!(check(&told, "node1", "keys")["level"], "failure", "{told}");

    cluster.start_node(2);
    cluster.start_node(3);
    cluster.wait_ready();
    wait_until("every node to find nothing wrong again", PATIENCE, || cli.call(&["doctor"]).code == 0);
}

#[test]
fn an_upgrade_names_who_does_not_know_the_next_rules() {
    let cluster = Cluster::start(3);
    let cli = cluster.cli();
    let is_at = |version: u64| assert_eq!(cli.json(&["status"])["state_version"], version);
    is_at(1);
    // Asked before every member has said what it knows, it names those that have not, and after that the same ones.
    for wait in [None, Some("1s")] {
        let command = ["cluster", "upgrade", "--to", "2"];
        let waiting = wait.map(|time| ["--wait", time]);
        let arguments: Vec<&str> = command.into_iter().chain(waiting.into_iter().flatten()).collect();
        let (exit, code) = if wait.is_some() { (4, "deadline_exceeded") } else { (4, "version_unknown") };
        let refused = cli.refused(exit, code, &arguments);
        let told = refused.error();
        let message = told["message"].as_str().unwrap();
        for node in ["node1", "node2", "node3"] {
            assert!(message.contains(node) && message.contains("state version 2"), "{refused}");
        }
        if wait.is_none() {
            assert_eq!(told["details"]["lacking"], serde_json::json!(["node1", "node2", "node3"]), "{refused}");
            assert!(told["hint"].as_str().unwrap().contains("one node at a time"), "{refused}");
        }
    }
    cli.refused(5, "wrong_state", &["cluster", "upgrade", "--to", "3"]);
    cli.refused(2, "invalid_argument", &["cluster", "upgrade", "--to", "0"]);

    let there = cli.json(&["cluster", "upgrade", "--to", "1"]);
    assert_eq!((&there["state_version"], &there["changed"]), (&Value::from(1), &Value::from(false)), "{there}");
    assert_eq!(cli.ok(&["cluster", "upgrade", "--to", "1"]).text(), "the cluster is at state version 1 already");
    is_at(1);

    let (manager, _) = cluster.new_client("manager", "key-admin", "*");
    let refused = eventually("every node to know the client", PATIENCE, || {
        let output = manager.call(&["cluster", "upgrade", "--to", "1", "-o", "json"]);
        (output.error_code() != "unknown_client").then_some(output)
    });
    assert_eq!(refused.exits(3).error_code(), "permission_denied");
}

/// Only who may see everything.
fn who_may_ask(cluster: &Cluster) {
    for (client, role, keys, allowed) in [
        ("reader-of-all", "auditor", "*", true),
        ("reader-of-one", "auditor", "release", false),
        ("signer-of-all", "signer", "*", false),
    ] {
        let (cli, _) = cluster.new_client(client, role, keys);
        // Until every node has heard of the client some do not know it.
        wait_until(client, PATIENCE, || {
            let output = cli.call(&["doctor", "-o", "json"]);
            if allowed { output.code == 0 } else { output.code == 3 && output.error_code() == "permission_denied" }
        });
    }
}

/// Turns the metrics of a node on, before it starts, and gives their address.
fn serve_metrics(cluster: &Cluster, node: usize, key_series: usize) -> String {
    let port: u16 = cluster.endpoint(node).rsplit_once(':').unwrap().1.parse().unwrap();
    // `dev init` leaves the ports above those of a node alone.
    let free = (port + 1..port + 8).map(|port| format!("127.0.0.1:{port}"));
    let address = free.into_iter().find(|address| TcpListener::bind(address).is_ok()).unwrap();
    let config = cluster.config(node);
    let text = fs::read_to_string(&config).unwrap();
    let table = format!("\n[metrics]\nlisten = \"{address}\"\nkey_series = {key_series}\n");
    fs::write(&config, text + &table).unwrap();
    address
}

/// One request over plain TCP: status line, head, body.
fn ask(address: &str, method: &str, path: &str) -> (String, String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no HTTP: {answer}"));
    let (status, head) = head.split_once("\r\n").unwrap_or((head, ""));
    (status.to_owned(), head.to_lowercase(), body.to_owned())
}

type Series = BTreeMap<String, f64>;

fn scrape(address: &str) -> Series {
    let (status, head, body) = ask(address, "GET", "/metrics");
    assert_eq!(status, "HTTP/1.1 200 OK");
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    parse(&body)
}

/// A family of series: its name, its kind, and the text of each of its lines.
fn families(text: &str) -> Vec<(String, String, Vec<String>)> {
    assert!(text.ends_with('\n'), "the last line has no end");
    let mut families: Vec<(String, String, Vec<String>)> = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, words) = help.split_once(' ').unwrap();
            assert!(!words.trim().is_empty(), "{line}");
            let kind = lines.next().and_then(|line| line.strip_prefix("# TYPE ")).unwrap_or_else(|| panic!("{line}"));
            let kind = kind.strip_prefix(name).map(str::trim).unwrap_or_else(|| panic!("the type of another: {kind}"));
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{name} is a {kind}");
            assert!(families.iter().all(|(other, _, _)| other != name), "{name} is there twice");
            families.push((name.to_owned(), kind.to_owned(), Vec::new()));
        } else {
            families.last_mut().unwrap_or_else(|| panic!("no family before {line}")).2.push(line.to_owned());
        }
    }
    families
}

/// Reads the exposition format as strictly as it is written down, and gives the value of each series.
fn parse(text: &str) -> Series {
    let mut series = Series::new();
    for (family, kind, lines) in families(text) {
        assert!((kind == "counter") == family.ends_with("_total"), "{family} is a {kind}");
        let mut below = 0.0;
        for line in lines {
            let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value: {line}"));
            let base = name.split('{').next().unwrap();
            let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_';
            assert!(base.chars().all(allowed) && !base.starts_with(|c: char| c.is_ascii_digit()), "{line}");
            match base.strip_prefix(family.as_str()) {
                Some("") => assert!(kind != "histogram", "{line}"),
                Some("_bucket" | "_sum" | "_count") => assert!(kind == "histogram", "{line}"),
                _ => panic!("{line} in the family {family}"),
            }
            labels(name.strip_prefix(base).unwrap());
            let value: f64 = value.parse().unwrap_or_else(|error| panic!("{line}: {error}"));
            assert!(kind == "gauge" || value >= 0.0, "{line}");
            if base.ends_with("_bucket") {
                assert!(value >= below, "a bucket holds less than the one before: {line}");
                below = value;
            }
            if base.ends_with("_count") && kind == "histogram" {
                assert!(value == below, "{line}, and {below} in all buckets");
            }
            assert!(series.insert(name.to_owned(), value).is_none(), "{name} is there twice");
        }
    }
    series
}

/// Checks `{name="text",...}`; nothing at all is well too.
fn labels(text: &str) {
    if text.is_empty() {
        return;
    }
    let inside = text.strip_prefix('{').and_then(|text| text.strip_suffix('}'));
    let mut rest = inside.unwrap_or_else(|| panic!("no labels: {text}"));
    let mut names = BTreeSet::new();
    loop {
        let (name, value) = rest.split_once("=\"").unwrap_or_else(|| panic!("no label: {rest}"));
        assert!(names.insert(name) && name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{text}");
        // Names of keys, nodes and codes hold nothing that is escaped.
        let (value, behind) = value.split_once('"').unwrap_or_else(|| panic!("no end: {text}"));
        assert!(!value.contains('\\'), "{text}");
        match behind.strip_prefix(',') {
            Some(next) => rest = next,
            None => return assert!(behind.is_empty(), "{text}"),
        }
    }
}

#[track_caller]
fn value(series: &Series, name: &str) -> f64 {
    *series.get(name).unwrap_or_else(|| panic!("no series {name} in {series:#?}"))
}

/// How much a series grew; one that was not there was zero.
#[track_caller]
fn grown(before: &Series, after: &Series, name: &str) -> f64 {
    value(after, name) - before.get(name).copied().unwrap_or(0.0)
}

fn with_prefix<'a>(series: &'a Series, prefix: &str) -> Vec<(&'a String, f64)> {
    series.iter().filter(|(name, _)| name.starts_with(prefix)).map(|(name, value)| (name, *value)).collect()
}

#[test]
fn metrics_count_what_happens() {
    const SHOWN: usize = 2;
    let mut cluster = Cluster::made(3);
    let address = serve_metrics(&cluster, 1, SHOWN);
    for node in 1..=3 {
        cluster.start_node(node);
    }
    cluster.wait_ready();
    let before = scrape(&address);
    assert_eq!(value(&before, "symbolon_keys"), 0.0);

    let cli = cluster.cli_at(1);
    let (quiet, _) = cluster.new_client("quiet-client", "signer", "*");
    for key in ["a", "b", "c", "d"] {
        cli.ok(&["key", "create", key, "--threshold", "2"]);
    }
    let public = public_key(&cli, "a", None);
    for message in [&b"one"[..], b"two", b"three"] {
        assert_signs(&quiet.endpoints(&[cluster.endpoint(1)]), "a", &public, message);
    }
    cli.refused(5, "not_found", &["key", "show", "nothing"]);

    let after = scrape(&address);
    for (name, count) in [
        ("symbolon_requests_total{call=\"sign\",code=\"ok\"}", 3.0),
        ("symbolon_sign_seconds_count", 3.0),
        ("symbolon_sign_sessions_count", 3.0),
        ("symbolon_share_attempts_ended_total{end=\"committed\"}", 4.0),
    ] {
        assert_eq!(grown(&before, &after, name), count, "{name}");
    }
    for name in [
        "symbolon_requests_total{call=\"show key\",code=\"not_found\"}",
        "symbolon_requests_total{call=\"order\",code=\"ok\"}",
        "symbolon_share_answers_total{code=\"ok\"}",
        "symbolon_sign_seconds_sum",
        "symbolon_applied_index",
        "symbolon_usage_log_bytes",
    ] {
        assert!(grown(&before, &after, name) > 0.0, "{name} did not grow: {after:#?}");
    }
    let roles = with_prefix(&after, "symbolon_raft_role{");
    assert_eq!(roles.iter().map(|(_, value)| value).sum::<f64>(), 1.0, "{roles:?}");
    assert_eq!(value(&after, &format!("symbolon_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"))), 1.0);
    assert_eq!(value(&after, "process_start_time_seconds"), value(&before, "process_start_time_seconds"));
    assert_eq!(value(&after, "symbolon_blame_total{node=\"node2\"}"), 0.0);

    // Few keys have a series, all are counted.
    let shown = with_prefix(&after, "symbolon_key_margin{");
    assert_eq!(shown.len(), SHOWN, "{shown:?}");
    assert_eq!(value(&after, "symbolon_keys"), 4.0);
    wait_until("every key to have a holder to spare", PATIENCE, || {
        with_prefix(&scrape(&address), "symbolon_key_margin{").iter().all(|(_, margin)| *margin == 1.0)
    });

    cluster.kill(3);
    let without = eventually("the node to miss its peer", PATIENCE, || {
        let series = scrape(&address);
        (value(&series, "symbolon_peer_reachable{node=\"node3\"}") == 0.0).then_some(series)
    });
    assert_eq!(value(&without, "symbolon_peer_reachable{node=\"node2\"}"), 1.0);
    assert_eq!(value(&without, "symbolon_keys_at_threshold"), 4.0);
    assert_eq!(value(&without, "symbolon_keys_below_threshold"), 0.0);
    let shown = with_prefix(&without, "symbolon_key_margin{");
    assert!(shown.len() == SHOWN && shown.iter().all(|(_, margin)| *margin == 0.0), "{shown:?}");

    what_is_not_served(&cluster, &address);
}

fn what_is_not_served(cluster: &Cluster, address: &str) {
    for path in ["/", "/metrics/", "/metrics.txt", "/health"] {
        assert_eq!(ask(address, "GET", path).0, "HTTP/1.1 404 Not Found", "{path}");
    }
    for method in ["POST", "PUT", "DELETE", "HEAD"] {
        let (status, head, _) = ask(address, method, "/metrics");
        assert!(status.starts_with("HTTP/1.1 405") && head.contains("allow: get"), "{method}: {status}");
    }
    let (_, _, text) = ask(address, "GET", "/metrics");
    assert!(!text.contains("quiet-client"), "a client's name is in the metrics");
    // On loopback there is nothing to warn of; where nobody asked for it nothing is served.
    let served = "metrics are served";
    let log = cluster.log(1);
    assert!(log.contains(served) && !log.contains("metrics are served in the clear"), "{log}");
    assert!(!cluster.log(2).contains(served));
}
