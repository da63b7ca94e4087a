//! The store of the first release opens in this build: every node finds what was there, with the same history, and goes on.
//!
//! `scripts/freeze-store.sh` made the store and, through this test with `SYMBOLON_FREEZE` set, wrote down what it holds.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};
use symbolon_client::{Client, Config, Name, VerifiedKey};
use symbolon_protocol::certificate::KeyCertificate;
use symbolon_protocol::genesis::Genesis;
use symbolon_protocol::id::NodeId;
use symbolon_protocol::identity::{Domain, PublicKey};
use symbolon_protocol::state::view::VersionView;
use symbolon_protocol::wire::encode;
use symbolon_tests::{Cli, Cluster, PATIENCE, assert_signs, eventually, run, wait_until, workspace};
use tokio::runtime::Builder;

const NODES: usize = 3;

fn fixture(extension: &str) -> PathBuf {
    workspace().join("tests/fixtures/store-v2").with_extension(extension)
}

/// The cluster of the fixture, unpacked and started.
struct Thawed {
    cluster: Cluster,
    genesis: Genesis,
    cli: Cli,
}

impl Thawed {
    fn new() -> Self {
        // Directory, processes and turn of any cluster; what lies in the directory is replaced.
        let mut cluster = Cluster::made(NODES);
        let root = cluster.root();
        fs::remove_dir_all(&root).unwrap();
        fs::create_dir(&root).unwrap();
        let mut tar = Command::new("tar");
        tar.args(["--extract", "--gzip", "--same-permissions", "--no-same-owner", "--file"]).arg(fixture("tar.gz"));
        run(tar.arg("--directory").arg(&root), b"", PATIENCE).exits(0);

        let genesis = Genesis::parse_file(&fs::read_to_string(root.join("admin/genesis")).unwrap()).unwrap();
        for address in genesis.members.values().flat_map(|member| [&member.peer_address, &member.client_address]) {
            TcpListener::bind(address).unwrap_or_else(|error| {
                panic!("{address} stands in the genesis of the fixture and cannot be used on this machine now: {error}")
            });
        }
        let endpoints: Vec<String> = genesis.members.values().map(|member| member.client_address.clone()).collect();
        let cli = cluster.cli().endpoints(&endpoints);
        for number in 1..=NODES {
            cluster.start_node(number);
        }
        let mut thawed = Self { cluster, genesis, cli };
        wait_until("every node to be healthy and reachable", PATIENCE, || thawed.is_ready());
        thawed
    }
    fn is_ready(&mut self) -> bool {
        for number in 1..=NODES {
            assert!(self.cluster.runs(number), "node{number} does not open its store");
        }
        let output = self.cli.call(&["status", "-o", "json"]);
        let all = |status: &Value| {
            status["nodes"].as_array().is_some_and(|nodes| nodes.iter().all(|one| one["reachable"] == true))
        };
        output.code == 0 && all(&output.json()) && (1..=NODES).all(|number| self.cluster.is_healthy(number))
    }
    fn endpoint(&self, number: usize) -> String {
        let name = format!("node{number}");
        let member = self.genesis.members.values().find(|member| member.name.as_str() == name);
        member.unwrap().client_address.clone()
    }
    fn at(&self, number: usize) -> Cli {
        self.cli.endpoints(&[self.endpoint(number)])
    }
    fn signer(&self) -> Cli {
        self.cli.identity(&self.cluster.root().join("admin/signer"))
    }

    /// Everything that one node knows of keys, its certificates checked.
    fn keys(&self, number: usize) -> Vec<VerifiedKey> {
        let admin = self.cluster.root().join("admin");
        let mut config = Config::load(&admin.join("genesis"), &admin.join("identity")).unwrap();
        config.endpoints = vec![self.endpoint(number)];
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let client = Client::connect(config).await.unwrap();
            client.list_keys("", 100, &BTreeMap::new()).await.unwrap().keys
        })
    }
    /// What one node holds, as the fixture has it.
    fn holds(&self, number: usize) -> Value {
        let keys: BTreeMap<String, Value> =
            self.keys(number).iter().map(|key| (key.view.name.to_string(), told(key))).collect();
        let clients = self.at(number).json(&["client", "list"])["clients"].clone();
        json!({ "cluster_id": self.genesis.cluster_id().to_string(), "clients": clients, "keys": keys })
    }
}

fn told(key: &VerifiedKey) -> Value {
    let versions = key.view.versions.iter().map(|version| {
        let public_key = key.public_key(version.number).map(|key| key.to_string());
        let sets = version.shares.iter().flat_map(|shares| &shares.out);
        let erased: BTreeSet<NodeId> = sets.flat_map(|set| set.erased.iter().copied()).collect();
        let activation = version.certificate.as_ref().map(|certificate| {
            let head = &certificate.activation.head;
            json!({ "index": head.index, "root": head.root.to_string(), "core": certificate.core.digest().to_string() })
        });
        json!({
            "version": version.number.get(),
            "state": version.state.name(),
            "reason": version.reason,
            "created_ms": version.created_ms,
            "expires_ms": version.expires_ms,
            "threshold": version.threshold.get(),
            "roster": version.roster.iter().map(|node| node.get()).collect::<Vec<_>>(),
            "attempts": version.attempts.iter().filter(|attempt| attempt.fault.is_some()).count(),
            "erased": erased.iter().map(|node| node.get()).collect::<Vec<_>>(),
            "public_key": public_key,
            "activation": activation,
        })
    });
    json!({
        "id": key.view.id.to_string(),
        "tags": key.view.tags,
        "current": key.view.current.map(|version| version.get()),
        "versions": versions.collect::<Vec<_>>(),
    })
}

fn certificate_of(version: &VersionView) -> &KeyCertificate {
    version.certificate.as_ref().unwrap()
}

#[test]
fn the_store_of_the_first_release_opens() {
    let thawed = Thawed::new();
    if std::env::var_os("SYMBOLON_FREEZE").is_some() {
        let text = serde_json::to_string_pretty(&thawed.holds(1)).unwrap();
        fs::write(fixture("json"), text + "\n").unwrap();
    }
    let expected: Value = serde_json::from_str(&fs::read_to_string(fixture("json")).unwrap()).unwrap();
    for (name, state) in STATES {
        assert_eq!(expected["keys"][name]["versions"][0]["state"], state, "the fixture does not hold what it should");
    }

    // Also on the node that missed the last entries, and applies them with this build.
    for number in 1..=NODES {
        let mut last = Value::Null;
        wait_until("a node to hold what the store held", PATIENCE, || {
            last = thawed.holds(number);
            if last != expected {
                assert!(number == NODES, "node{number} holds {last:#}");
            }
            last == expected
        });
    }
    it_signs(&thawed, &expected);
    it_goes_on(&thawed);
    for number in 1..=NODES {
        assert!(!thawed.cluster.log(number).contains("another history"), "node{number} has another history");
    }
}

/// The state of the first version of each key.
const STATES: [(&str, &str); 7] = [
    ("active", "active"),
    ("rotated", "rotated"),
    ("suspended", "suspended"),
    ("revoked", "revoked"),
    ("expired", "expired"),
    ("destroyed", "destroyed"),
    ("failed", "failed"),
];

/// Shares that were sealed then are opened now, and what may not sign does not.
fn it_signs(thawed: &Thawed, expected: &Value) {
    let key = |name: &str, version: usize| -> PublicKey {
        expected["keys"][name]["versions"][version]["public_key"].as_str().unwrap().parse().unwrap()
    };
    for (name, version) in [("active", 0), ("rotated", 1)] {
        for number in 1..=NODES {
            let signer = thawed.signer().endpoints(&[thawed.endpoint(number)]);
            assert_signs(&signer, name, &key(name, version), b"signed by a later build");
        }
    }
    let file = |name: &str| thawed.cluster.root().join("admin").join(name).to_str().unwrap().to_owned();
    thawed.cli.ok(&["verify", "rotated", &file("message"), &file("message.sig")]);
    for (name, _) in &STATES[2..] {
        thawed.signer().refused(5, "wrong_state", &["sign", name, &file("message")]);
    }
}

/// New entries follow the old ones, and every node has the same history behind it.
fn it_goes_on(thawed: &Thawed) {
    thawed.cli.ok(&["key", "resume", "suspended"]);
    thawed.cli.ok(&["key", "create", "failed"]);
    thawed.cli.ok(&["key", "rotate", "active"]);
    let name = Name::new("active").unwrap();
    let version = eventually("every voter to sign the head of a new activation", PATIENCE, || {
        let keys = thawed.keys(1);
        let version = keys.iter().find(|key| key.view.name == name)?.view.latest()?.clone();
        (version.certificate.as_ref()?.heads.len() == NODES).then_some(version)
    });
    let certificate = certificate_of(&version);
    let (cluster, head) = (thawed.genesis.cluster_id(), encode(&certificate.activation.head));
    for (id, member) in &thawed.genesis.members {
        let signature = &certificate.heads[id];
        assert!(member.key.verifies(Domain::Head, &cluster, &head, signature), "{} has another history", member.name);
    }
    let key = PublicKey::from_bytes(&certificate.core.public_key).unwrap();
    assert_signs(&thawed.signer(), "active", &key, b"with a new version");
}
