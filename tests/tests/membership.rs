//! Nodes join, leave and are replaced, and nothing follows but what administrators and a majority of the voters signed.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::scope;
use std::time::{Duration, Instant};

use serde_json::Value;
use symbolon_protocol::genesis::Enrolment;
use symbolon_tests::{Cli, Cluster, PATIENCE, assert_signs, binary, public_key, run, say, wait_until};

/// How long something is watched that must not happen.
const MOMENT: Duration = Duration::from_secs(5);

/// A node that is no member in genesis. It ends when it is dropped.
struct Newcomer {
    name: String,
    directory: PathBuf,
    client_address: String,
    line: String,
    child: Option<Child>,
}

impl Newcomer {
    /// Sets the files of a node up; nothing runs.
    fn init(cluster: &Cluster, name: &str) -> Self {
        let directory = cluster.root().join(name);
        // Held both at once, and let go only now.
        let held: Vec<TcpListener> = (0..2).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let addresses: Vec<String> = held.iter().map(|listener| listener.local_addr().unwrap().to_string()).collect();
        drop(held);
        let mut command = Command::new(binary("symbolond"));
        command.args(["init", "--name", name, "--peer", &addresses[0], "--client", &addresses[1]]);
        command.args(["--peer-bind", &addresses[0], "--client-bind", &addresses[1], "--zone", name, "--dir"]);
        let output = run(command.arg(&directory), b"", PATIENCE).exits(0);
        fs::copy(cluster.cli().path("SYMBOLON_GENESIS"), directory.join("genesis")).unwrap();
        let line = output.text().trim().to_owned();
        let client_address = addresses[1].clone();
        Self { name: name.to_owned(), directory, client_address, line, child: None }
    }

    fn ticket(&self) -> PathBuf {
        self.directory.join("given-ticket")
    }

    fn config(&self) -> PathBuf {
        self.directory.join("symbolond.toml")
    }

    /// Starts it; with the ticket, or with what it kept.
    fn start(&mut self, ticket: Option<&Path>) {
        let log = File::options().create(true).append(true).open(self.directory.join("log")).unwrap();
        let mut command = Command::new(binary("symbolond"));
        command.arg("run").arg("--config").arg(self.config()).stdin(Stdio::null());
        if let Some(ticket) = ticket {
            command.arg("--ticket").arg(ticket);
        }
        command.stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(command.spawn().unwrap());
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    fn is_healthy(&self) -> bool {
        let mut command = Command::new(binary("symbolond"));
        command.arg("health").arg("--config").arg(self.config());
        run(&mut command, b"", PATIENCE).code == 0
    }
}

impl Drop for Newcomer {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let end = lines.iter().skip(lines.len().saturating_sub(40)).copied().collect::<Vec<_>>().join("\n");
            say(&format!("--- the end of the log of {}\n{end}", self.name));
        }
    }
}

fn members(cli: &Cli) -> Value {
    cli.json(&["member", "list"])
}

/// A node in `member list`.
fn member(cli: &Cli, name: &str) -> Option<Value> {
    members(cli)["members"].as_array().unwrap().iter().find(|one| one["name"] == name).cloned()
}

/// Waits until a node is a member that answers, and Raft has the voters that it is to have.
#[track_caller]
fn wait_member(cli: &Cli, name: &str) {
    wait_until("the new node to be there and Raft to have moved", PATIENCE, || {
        let view = members(cli);
        let there =
            view["members"].as_array().unwrap().iter().any(|one| one["name"] == name && one["reachable"] == true);
        there && view["settled"] == true
    });
}

/// Adds a node as a voter and starts it.
fn join(cluster: &Cluster, node: &mut Newcomer, id: &str) {
    let ticket = node.ticket();
    cluster.cli().ok(&["member", "add", &node.line, "--id", id, "--ticket", ticket.to_str().unwrap()]);
    node.start(Some(&ticket));
    wait_member(cluster.cli(), &node.name);
}

/// Names of the holders of a key.
fn holders(cli: &Cli, key: &str) -> Vec<String> {
    let shown = cli.json(&["key", "show", key]);
    shown["versions"][0]["holders"].as_array().unwrap().iter().map(|one| one.as_str().unwrap().to_owned()).collect()
}

/// `symbolon` on a machine that knows genesis and nothing else.
fn stranger(cluster: &Cluster, home: &str) -> Cli {
    cluster.cli().with("XDG_STATE_HOME", cluster.scratch(home)).with("HOME", cluster.scratch(home))
}

#[test]
fn a_cluster_grows_loses_a_node_for_good_and_has_it_replaced() {
    let mut cluster = Cluster::start(3);
    let cli = cluster.cli().clone();
    cli.ok(&["key", "create", "release"]);
    let public = public_key(&cli, "release", None);

    let mut fourth = Newcomer::init(&cluster, "node4");
    join(&cluster, &mut fourth, "4");
    cli.ok(&["key", "reshare", "release", "--roster", "node1,node2,node3,node4", "--threshold", "2"]);
    assert!(holders(&cli, "release").contains(&"node4".to_owned()));
    let at_fourth = cli.endpoints(&[fourth.client_address.clone()]);
    assert_signs(&at_fourth, "release", &public, b"asked at the new node");
    // Two of the four that remain after this must sign, the new one among them.
    cluster.kill(2);
    cluster.kill(3);
    let idle = cluster.new_identity("idle").1.public().to_string();
    let adding = ["client", "add", "idle", "--public-key", &idle, "--role", "auditor", "--key", "*", "--timeout", "3"];
    let refused = cli.call(&adding);
    assert!(refused.code == 4, "two of four voters are no majority\n{refused}");
    cluster.start_node(2);
    wait_until("node1, node2 and node4 to sign", PATIENCE, || cli.sign("release", b"x").code == 0);
    assert_signs(&cli, "release", &public, b"with a share of the new node");

    // node3 does not come back. Its keys need it, so it does not just leave.
    cli.refused(5, "still_needed", &["member", "remove", "node3"]);
    let mut fifth = Newcomer::init(&cluster, "node5");
    let (ticket, line) = (fifth.ticket(), fifth.line.clone());
    let path = ticket.to_str().unwrap();
    scope(|scope| {
        let replacing =
            scope.spawn(|| cli.ok(&["member", "replace", "node3", &line, "--id", "5", "--lost", "--ticket", path]));
        wait_until("the ticket of the new node", PATIENCE, || ticket.exists() || replacing.is_finished());
        fifth.start(Some(&ticket));
        replacing.join().unwrap();
    });
    assert_eq!(member(&cli, "node3"), None);
    let held = holders(&cli, "release");
    assert!(held.contains(&"node5".to_owned()) && !held.contains(&"node3".to_owned()), "{held:?}");
    let departed = members(&cli)["departed"].clone();
    assert_eq!((&departed[0]["name"], &departed[0]["leaked"]), (&Value::from("node3"), &Value::from(1)), "{departed}");
    assert_signs(
        &cli.endpoints(&[fifth.client_address.clone()]),
        "release",
        &public,
        b"asked at the node that replaced",
    );

    // What left is cut off: it has its store and its identity, and nobody speaks with it.
    cluster.start_node(3);
    let begin = Instant::now();
    while begin.elapsed() < MOMENT {
        assert!(!cluster.is_healthy(3), "a node that was removed takes part");
    }
    assert!(cli.sign("release", b"x").code == 0);

    // Whoever has genesis alone follows, and then finds nodes that genesis does not name.
    let fresh = stranger(&cluster, "fresh-home");
    assert_signs(&fresh, "release", &public, b"with genesis alone");
    assert_eq!(members(&fresh)["membership"], members(&fresh)["proved"]);
    let other = stranger(&cluster, "other-home");
    let newcomers = [fourth.client_address.clone(), fifth.client_address.clone()];
    assert_signs(&other.endpoints(&newcomers), "release", &public, b"of nodes that genesis does not name");
}

#[test]
fn a_member_that_lost_its_disk_takes_no_part() {
    let cluster = Cluster::start(3);
    let cli = cluster.cli().clone();
    let mut fourth = Newcomer::init(&cluster, "node4");

    // Without a ticket it is nobody.
    fourth.start(None);
    wait_until("the node to say that it is no member", PATIENCE, || fourth.log().contains("--ticket"));
    fourth.kill();
    join(&cluster, &mut fourth, "4");
    wait_until("the new node to be well", PATIENCE, || fourth.is_healthy());

    // It kept the ticket, and its store the id that was enrolled.
    fourth.kill();
    fourth.start(None);
    wait_until("the new node to come back", PATIENCE, || fourth.is_healthy());

    fourth.kill();
    fs::remove_dir_all(fourth.directory.join("store")).unwrap();
    fs::remove_file(fourth.directory.join("store.synced")).unwrap();
    fs::remove_file(fourth.directory.join("slots")).unwrap();
    fourth.start(None);
    wait_until("the node to say that its store is another", PATIENCE, || fourth.log().contains("another store"));
    let begin = Instant::now();
    while begin.elapsed() < MOMENT {
        assert!(!fourth.is_healthy(), "a node with an empty store takes part");
    }
    // The number is used up, whatever store it has.
    let again = Newcomer::init(&cluster, "node9");
    cli.refused(5, "already_exists", &["member", "add", &again.line, "--id", "4"]);
    cli.refused(5, "already_exists", &["member", "add", &again.line, "--id", "1"]);
    let forged = again.line.replace("symbolon-node:0", "symbolon-node:1");
    cli.refused(2, "invalid_argument", &["member", "add", &forged, "--id", "9"]);
    assert_ne!(Enrolment::parse(&again.line).unwrap().store, Enrolment::parse(&fourth.line).unwrap().store);
}

#[test]
fn a_node_is_drained_and_leaves_nothing_behind() {
    let mut cluster = Cluster::start(3);
    let cli = cluster.cli().clone();
    for key in ["one", "two"] {
        cli.ok(&["key", "create", key]);
    }
    let public = public_key(&cli, "two", None);
    let mut fourth = Newcomer::init(&cluster, "node4");
    join(&cluster, &mut fourth, "4");
    cli.refused(5, "still_needed", &["member", "remove", "node1"]);
    cli.ok(&["member", "remove", "node1", "--drain"]);
    for key in ["one", "two"] {
        let held = holders(&cli, key);
        assert!(held.contains(&"node4".to_owned()) && !held.contains(&"node1".to_owned()), "{key}: {held:?}");
    }
    let view = members(&cli);
    assert_eq!((&view["departed"][0]["name"], &view["departed"][0]["leaked"]), (&"node1".into(), &0.into()), "{view}");
    wait_until("Raft to have moved", PATIENCE, || members(&cli)["settled"] == true);
    cluster.kill(1);
    assert_signs(&cli, "two", &public, b"without the node that left");

    // The last administrator stays; a second one counts as soon as a majority of the voters signed that.
    let before = members(&cli)["membership"].as_u64().unwrap();
    let (second, _) = cluster.new_client("second", "admin", "*");
    assert_eq!(members(&second)["membership"].as_u64(), Some(before + 1));
    second.ok(&["client", "remove", "admin"]);
    cli.refused(3, "unknown_client", &["member", "list"]);
    second.refused(5, "last_administrator", &["client", "remove", "second"]);
}
