//! A cluster of real processes on loopback.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use rand_core::OsRng;
use serde_json::Value;
use symbolon_protocol::genesis::{Genesis, Member};
use symbolon_protocol::identity::Identity;
use tempfile::TempDir;

use crate::cli::{Cli, run};
use crate::network::Network;
use crate::{PATIENCE, Random, binary, eventually, now_ms, say, take_turn, wait_until, workspace};

/// How long a node may take to stop when it is asked to.
const STOP: Duration = Duration::from_secs(20);
/// How long `dev init` may take.
const INIT: Duration = Duration::from_secs(60);
/// Lines of each log that are shown when a test fails.
const LOG_LINES: usize = 40;

/// Nodes `node1` to `nodeN`, counted from 1. Everything ends when it is dropped.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Option<Child>>,
    cli: Cli,
    genesis: Genesis,
    directory: TempDir,
    // Given back last.
    _turn: File,
}

impl Cluster {
    /// Makes a cluster, starts every node and waits until all are ready.
    ///
    /// # Panics
    /// When that does not work.
    #[must_use]
    pub fn start(count: usize) -> Self {
        Self::start_with(count, &[])
    }

    /// Makes a cluster whose nodes reach each other through a network that a test can disturb, and starts it.
    ///
    /// # Panics
    /// When that does not work.
    #[must_use]
    pub fn start_on_network(count: usize) -> (Self, Network) {
        let cluster = Self::made(count);
        let network = Network::between(&cluster);
        (cluster.started(), network)
    }

    /// Makes a cluster and starts nothing.
    ///
    /// # Panics
    /// When that does not work.
    #[must_use]
    pub fn made(count: usize) -> Self {
        Self::made_with(count, &[])
    }

    /// Makes a cluster with further arguments of `dev init`, and starts it.
    ///
    /// # Panics
    /// When that does not work.
    #[must_use]
    pub fn start_with(count: usize, arguments: &[&str]) -> Self {
        Self::made_with(count, arguments).started()
    }

    fn started(mut self) -> Self {
        for node in 1..=self.count() {
            self.start_node(node);
        }
        self.wait_ready();
        self
    }

    fn made_with(count: usize, arguments: &[&str]) -> Self {
        let turn = take_turn();
        let directory = TempDir::with_prefix("symbolon-e2e-").expect("a temporary directory");
        let root = directory.path().join("cluster");
        dev_init(count, arguments, &root);

        let environment = read_environment(&root.join("env"));
        let home = directory.path().join("home");
        fs::create_dir(&home).expect("a home directory");
        let cli = Cli::new(&environment, &home);
        let text = fs::read_to_string(cli.path("SYMBOLON_GENESIS")).expect("the genesis file that DIR/env names");
        let genesis = Genesis::parse_file(&text).expect("a genesis file");
        assert_eq!(genesis.members.len(), count, "members in genesis");
        Self { nodes: (0..count).map(|_| None).collect(), cli, genesis, directory, _turn: turn }
    }

    /// Number of nodes, running or not.
    #[must_use]
    pub fn count(&self) -> usize {
        self.nodes.len()
    }
    /// `symbolon` as the administrator, asking all nodes.
    #[must_use]
    pub fn cli(&self) -> &Cli {
        &self.cli
    }
    /// `symbolon` as the administrator, asking one node.
    #[must_use]
    pub fn cli_at(&self, node: usize) -> Cli {
        self.cli.endpoints(&[self.endpoint(node)])
    }
    /// The founding document.
    #[must_use]
    pub fn genesis(&self) -> &Genesis {
        &self.genesis
    }
    /// The directory that `dev init` made.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.directory.path().join("cluster")
    }
    /// The directory of a node.
    #[must_use]
    pub fn node_directory(&self, node: usize) -> PathBuf {
        self.root().join(name(node))
    }
    /// The configuration of a node.
    #[must_use]
    pub fn config(&self, node: usize) -> PathBuf {
        self.node_directory(node).join("symbolond.toml")
    }
    /// A place for a file of the test.
    #[must_use]
    pub fn scratch(&self, file: &str) -> PathBuf {
        self.directory.path().join(file)
    }
    /// Where clients reach a node.
    #[must_use]
    pub fn endpoint(&self, node: usize) -> String {
        self.member(node).client_address.clone()
    }
    /// Where peers reach a node.
    #[must_use]
    pub fn peer_address(&self, node: usize) -> String {
        self.member(node).peer_address.clone()
    }
    fn member(&self, node: usize) -> &Member {
        let name = name(node);
        let found = self.genesis.members.values().find(|member| member.name.as_str() == name);
        found.unwrap_or_else(|| panic!("genesis names no {name}"))
    }

    /// Starts a node that does not run.
    ///
    /// # Panics
    /// When it runs, or cannot be started.
    #[track_caller]
    pub fn start_node(&mut self, node: usize) {
        self.start_node_with(node, &[]);
    }

    /// The same with further variables of the environment.
    ///
    /// # Panics
    /// When it runs, or cannot be started.
    #[track_caller]
    pub fn start_node_with(&mut self, node: usize, environment: &[(&str, &str)]) {
        assert!(!self.runs(node), "{} runs already", name(node));
        let log = File::options().create(true).append(true).open(self.log_path(node)).expect("a log file");
        let mut command = Command::new(binary("symbolond"));
        command.arg("run").arg("--config").arg(self.config(node)).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a second handle of the log")).stderr(log);
        command.envs(environment.iter().copied());
        let child = command.spawn().unwrap_or_else(|error| panic!("cannot start {}: {error}", name(node)));
        self.nodes[node - 1] = Some(child);
    }

    /// The end of a node that ended by itself; none while it runs, or when it was ended here.
    ///
    /// # Panics
    /// When the process cannot be asked.
    pub fn ended(&mut self, node: usize) -> Option<ExitStatus> {
        let status = self.nodes[node - 1].as_mut()?.try_wait().expect("a child of ours");
        if status.is_some() {
            self.nodes[node - 1] = None;
        }
        status
    }
    /// Whether the process of a node runs.
    pub fn runs(&mut self, node: usize) -> bool {
        // Asked first: it forgets a process that has ended.
        self.ended(node);
        self.nodes[node - 1].is_some()
    }

    /// Sends a signal to a running node.
    ///
    /// # Panics
    /// When it does not run.
    #[track_caller]
    pub fn signal(&mut self, node: usize, signal: Signal) {
        let child = self.nodes[node - 1].as_ref().unwrap_or_else(|| panic!("{} does not run", name(node)));
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("a process id"));
        nix::sys::signal::kill(pid, signal).unwrap_or_else(|error| panic!("cannot signal {}: {error}", name(node)));
    }
    /// Kills a node (SIGKILL) and waits until it is gone.
    ///
    /// # Panics
    /// When it does not run.
    #[track_caller]
    pub fn kill(&mut self, node: usize) {
        self.signal(node, Signal::SIGKILL);
        let mut child = self.nodes[node - 1].take().expect("it ran just now");
        child.wait().expect("a child of ours");
    }
    /// Kills every running node, all before waiting for any.
    pub fn kill_all(&mut self) {
        let running: Vec<usize> = (1..=self.count()).filter(|node| self.runs(*node)).collect();
        for node in &running {
            self.signal(*node, Signal::SIGKILL);
        }
        for node in running {
            if let Some(mut child) = self.nodes[node - 1].take() {
                let _ = child.wait();
            }
        }
    }
    /// Asks a node to stop (SIGTERM) and waits until it has.
    ///
    /// # Panics
    /// When it does not stop cleanly and in time.
    #[track_caller]
    pub fn stop(&mut self, node: usize) {
        self.signal(node, Signal::SIGTERM);
        let status = eventually("a node to stop when it is asked to", STOP, || self.ended(node));
        assert!(status.success(), "{} stopped with {status}", name(node));
    }

    /// What `symbolon status` says; none while no node answers.
    #[must_use]
    pub fn status(&self) -> Option<Value> {
        let output = self.cli.call(&["status", "-o", "json"]);
        (output.code == 0).then(|| output.json())
    }
    /// Waits until some node leads and every running node is reachable and healthy.
    ///
    /// # Panics
    /// When that does not come about.
    #[track_caller]
    pub fn wait_ready(&mut self) {
        let running: Vec<usize> = (1..=self.count()).filter(|node| self.runs(*node)).collect();
        wait_until("every running node to be healthy, reachable and led", PATIENCE, || {
            let dead: Vec<String> = running.iter().filter(|node| !self.runs(**node)).map(|node| name(*node)).collect();
            assert!(dead.is_empty(), "ended by themselves: {dead:?}");
            let Some(status) = self.status() else { return false };
            leader_in(&status).is_some()
                && running.iter().all(|node| is_reachable(&status, *node))
                && running.iter().all(|node| self.is_healthy(*node))
        });
    }
    /// The node that leads now.
    ///
    /// # Panics
    /// When none does.
    #[track_caller]
    #[must_use]
    pub fn leader(&self) -> usize {
        eventually("a leader", PATIENCE, || self.status().as_ref().and_then(leader_in))
    }
    /// Whether a node is reachable by what `symbolon status` says.
    #[must_use]
    pub fn reaches(&self, node: usize) -> bool {
        self.status().is_some_and(|status| is_reachable(&status, node))
    }
    /// What `symbolond health` says.
    #[must_use]
    pub fn is_healthy(&self, node: usize) -> bool {
        let mut command = Command::new(binary("symbolond"));
        command.arg("health").arg("--config").arg(self.config(node));
        run(&mut command, b"", PATIENCE).code == 0
    }

    /// A new client identity, in a file and in memory; nobody has registered it.
    ///
    /// # Panics
    /// When the file cannot be written.
    #[must_use]
    pub fn new_identity(&self, file: &str) -> (PathBuf, Identity) {
        let identity = Identity::generate(&mut OsRng);
        let path = self.scratch(file);
        symbolon_client::keyfile::create(&path, &identity).expect("an identity file");
        (path, identity)
    }
    /// A new client, registered under its name with a role on a pattern of keys.
    #[track_caller]
    #[must_use]
    pub fn new_client(&self, client: &str, role: &str, keys: &str) -> (Cli, Identity) {
        let (path, identity) = self.new_identity(client);
        let key = identity.public().to_string();
        self.cli.ok(&["client", "add", client, "--public-key", &key, "--role", role, "--key", keys]);
        (self.cli.identity(&path), identity)
    }
    /// The administrator's identity.
    ///
    /// # Panics
    /// When it cannot be read.
    #[must_use]
    pub fn administrator(&self) -> Identity {
        symbolon_client::keyfile::load(&self.cli.path("SYMBOLON_IDENTITY")).expect("the administrator's identity")
    }

    /// A node's identity.
    ///
    /// # Panics
    /// When it cannot be read.
    #[must_use]
    pub fn identity(&self, node: usize) -> Identity {
        symbolon_client::keyfile::load(&self.node_directory(node).join("identity")).expect("a node's identity")
    }

    fn log_path(&self, node: usize) -> PathBuf {
        self.node_directory(node).join("log")
    }
    /// Everything that a node wrote to its log.
    #[must_use]
    pub fn log(&self, node: usize) -> String {
        fs::read_to_string(self.log_path(node)).unwrap_or_default()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.kill_all();
        if !std::thread::panicking() {
            return;
        }
        for node in 1..=self.count() {
            let log = self.log(node);
            let lines: Vec<&str> = log.lines().collect();
            let mut text = format!("--- the end of the log of {}", name(node));
            for line in lines.iter().skip(lines.len().saturating_sub(LOG_LINES)) {
                let _ = write!(text, "\n{line}");
            }
            say(&text);
        }
        if std::env::var_os("SYMBOLON_TEST_KEEP").is_some() {
            self.directory.disable_cleanup(true);
            say(&format!("kept: {}", self.directory.path().display()));
        }
    }
}

/// The name of a node in files, in genesis and in answers.
fn name(node: usize) -> String {
    format!("node{node}")
}

/// The number in a node's name.
fn number(name: &str) -> Option<usize> {
    name.strip_prefix("node")?.parse().ok()
}

fn leader_in(status: &Value) -> Option<usize> {
    status["leader"].as_str().and_then(number)
}

fn is_reachable(status: &Value, node: usize) -> bool {
    let name = name(node);
    status["nodes"]
        .as_array()
        .is_some_and(|nodes| nodes.iter().any(|one| one["name"] == *name && one["reachable"] == true))
}

/// `symbolond dev init` on ports that nobody uses.
fn dev_init(count: usize, arguments: &[&str], root: &Path) {
    let mut random = Random::new(now_ms() ^ (u64::from(std::process::id()) << 32));
    let base = eventually("free ports", PATIENCE, || {
        // Below the range from which the kernel takes ports for outgoing connections.
        let base = u16::try_from(15_000 + random.below(1_600) * 10).ok()?;
        let wanted = (1..=u16::try_from(count).ok()?).flat_map(|node| [base + 10 * node, base + 10 * node + 1]);
        // Held all at once, and let go only now.
        let held: Result<Vec<TcpListener>, _> = wanted.map(|port| TcpListener::bind(("127.0.0.1", port))).collect();
        held.ok().map(|_| base)
    });
    let mut command = Command::new(binary("symbolond"));
    command.args(["dev", "init", "--nodes", &count.to_string(), "--base-port", &base.to_string(), "--dir"]).arg(root);
    command.args(arguments).current_dir(workspace());
    let output = run(&mut command, b"", INIT);
    assert!(output.code == 0, "dev init failed\n{output}");
}

/// The variables in a file for the shell: `export NAME=VALUE`, quoted or not.
fn read_environment(path: &Path) -> BTreeMap<String, String> {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let pairs = text.lines().filter_map(|line| line.trim().trim_start_matches("export ").split_once('='));
    pairs.map(|(name, value)| (name.trim().to_owned(), value.trim().trim_matches(['"', '\'']).to_owned())).collect()
}
