//! docker-compose.yml on a real engine: five nodes in containers, one of them cut off from the others.
//!
//! The engine counts as there when `docker info` succeeds. Without it the test says loudly that it is skipped, or fails when
//! `SYMBOLON_REQUIRE` names docker. The image is made here, on nothing, from the programs that are built: no registry is asked.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use symbolon_tests::{Cli, Output, assert_signs, public_key, run, say, take_turn, wait_until, workspace};
use tempfile::TempDir;

const NODES: usize = 5;
/// Building the image sends some tens of megabytes to the engine and packs them.
const BUILD: Duration = Duration::from_secs(300);
/// Starting or removing everything.
const COMPOSE: Duration = Duration::from_secs(180);
const COMMAND: Duration = Duration::from_secs(60);
/// Until five nodes in containers are healthy.
const HEALTHY: Duration = Duration::from_secs(120);

fn docker(arguments: &[&str]) -> Output {
    run(Command::new("docker").args(arguments), b"", COMMAND)
}

/// The command for Compose v2, else for v1.
fn compose_command() -> Option<Vec<&'static str>> {
    [vec!["docker", "compose"], vec!["docker-compose"]].into_iter().find(|words| {
        let version = Command::new(words[0]).args(&words[1..]).arg("version").output();
        version.is_ok_and(|output| output.status.success())
    })
}

/// One run of docker-compose.yml; everything that it made is gone when it is dropped.
struct Compose {
    words: Vec<&'static str>,
    project: String,
    image: String,
    environment: BTreeMap<String, String>,
    endpoints: Vec<String>,
    directory: TempDir,
    _turn: File,
}

impl Compose {
    fn new(words: Vec<&'static str>) -> Self {
        let turn = take_turn();
        let project = format!("symbolon-e2e-{}", std::process::id());
        let image = format!("{project}:local");
        // Held all at once, and let go only when all are known.
        let held: Vec<TcpListener> = (0..NODES).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let ports: Vec<u16> = held.iter().map(|listener| listener.local_addr().unwrap().port()).collect();
        let mut environment: BTreeMap<String, String> = ports
            .iter()
            .enumerate()
            .map(|(at, port)| (format!("SYMBOLON_PORT_{}", at + 1), port.to_string()))
            .collect();
        environment.insert("SYMBOLON_IMAGE".to_owned(), image.clone());
        environment.insert("DOCKER_BUILDKIT".to_owned(), "0".to_owned());
        environment.insert("COMPOSE_PROJECT_NAME".to_owned(), project.clone());
        let endpoints = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let directory = TempDir::with_prefix("symbolon-docker-").unwrap();
        Self { words, project, image, environment, endpoints, directory, _turn: turn }
    }

    fn build_image(&self) {
        let context = self.directory.path().join("image");
        let script = workspace().join("scripts/image-context.sh");
        run(Command::new(script).arg(&context), b"", BUILD).exits(0);
        let mut command = Command::new("docker");
        command.env("DOCKER_BUILDKIT", "0").args(["build", "-q", "-t", &self.image, "-f"]);
        command.arg(context.join("Dockerfile.prebuilt")).arg(&context);
        run(&mut command, b"", BUILD).exits(0);
    }

    fn compose(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(self.words[0]);
        command.args(&self.words[1..]).arg("-f").arg(workspace().join("docker-compose.yml"));
        command.args(arguments).envs(&self.environment).current_dir(workspace());
        run(&mut command, b"", COMPOSE)
    }
    fn container(&self, service: &str) -> String {
        let id = self.compose(&["ps", "-q", service]).exits(0).text();
        assert!(!id.is_empty(), "no container of {service}");
        id
    }
    fn is_healthy(&self, node: usize) -> bool {
        let id = self.container(&format!("node{node}"));
        docker(&["inspect", "-f", "{{.State.Health.Status}}", &id]).text() == "healthy"
    }
    fn network(&self, name: &str) -> String {
        format!("{}_{name}", self.project)
    }

    /// The administrator's files, copied out of their volume by a container that never runs; `symbolon` on the host with them.
    fn cli(&self) -> Cli {
        let volume = format!("{}_admin:/data:ro", self.project);
        let id = docker(&["create", "-v", &volume, &self.image]).exits(0).text();
        let home = self.directory.path().join("home");
        fs::create_dir(&home).unwrap();
        let target = home.join("admin");
        docker(&["cp", &format!("{id}:/data/admin"), target.to_str().unwrap()]).exits(0);
        docker(&["rm", "-f", &id]).exits(0);
        let identity = target.join("identity");
        fs::set_permissions(&identity, fs::Permissions::from_mode(0o600)).unwrap();
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let environment = BTreeMap::from([
            ("SYMBOLON_GENESIS".to_owned(), text(&target.join("genesis"))),
            ("SYMBOLON_IDENTITY".to_owned(), text(&identity)),
            ("SYMBOLON_ENDPOINTS".to_owned(), self.endpoints.join(",")),
        ]);
        Cli::new(&environment, &home)
    }
}

impl Drop for Compose {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let logs = self.compose(&["logs", "--no-color", "--tail=30"]);
            say(&format!("{}{}", logs.text(), logs.stderr));
        }
        let down = self.compose(&["down", "--volumes", "--remove-orphans", "--timeout", "5"]);
        let image = docker(&["rmi", "-f", &self.image]);
        if down.code != 0 || image.code != 0 {
            say(&format!("left behind by the docker test:\n{down}\n{image}"));
        }
    }
}

#[test]
fn five_containers_sign_and_one_is_cut_off() {
    let required = std::env::var("SYMBOLON_REQUIRE").is_ok_and(|what| what.contains("docker"));
    let engine = Command::new("docker").arg("info").output().is_ok_and(|output| output.status.success());
    let (true, Some(words)) = (engine, compose_command()) else {
        let what = if engine {
            "neither `docker compose` nor `docker-compose`"
        } else {
            "no container engine (`docker info` fails)"
        };
        assert!(!required, "SYMBOLON_REQUIRE asks for the docker test, but there is {what}");
        say(&format!(
            "SKIPPED: the docker-compose test: there is {what} (SYMBOLON_REQUIRE=docker makes this a failure)"
        ));
        return;
    };

    let compose = Compose::new(words);
    compose.build_image();
    compose.compose(&["up", "-d", "--no-build"]).exits(0);
    wait_until("five healthy containers", HEALTHY, || (1..=NODES).all(|node| compose.is_healthy(node)));
    containers_are_confined(&compose);

    // From a container on the network of the clients, and from the host.
    let status: Value = compose.compose(&["run", "--rm", "-T", "client", "status", "-o", "json"]).exits(0).json();
    assert_eq!(status["nodes"].as_array().unwrap().len(), NODES, "{status}");
    let cli = compose.cli();
    wait_until("every node to reach every other", HEALTHY, || {
        let output = cli.call(&["status", "-o", "json"]);
        output.code == 0 && output.json()["nodes"].as_array().unwrap().iter().all(|node| node["reachable"] == true)
    });
    cli.ok(&["key", "create", "release", "--threshold", "3"]);
    let public = public_key(&cli, "release", None);
    assert_signs(&cli, "release", &public, b"from the host");

    // Cut off from its peers, still there for clients: it can sign nothing, the others go on.
    let (peers, cut) = (compose.network("peers"), compose.container("node3"));
    docker(&["network", "disconnect", &peers, &cut]).exits(0);
    let others: Vec<String> = [0, 1, 3, 4].map(|at| compose.endpoints[at].clone()).to_vec();
    let (others, lonely) = (cli.endpoints(&others), cli.endpoints(&compose.endpoints[2..3]));
    wait_until("the other four to sign", HEALTHY, || others.sign("release", b"x").code == 0);
    for number in 0..5 {
        let answer = assert_signs(&others, "release", &public, format!("cut off, {number}").as_bytes());
        assert!(!answer["holders"].as_array().unwrap().iter().any(|holder| *holder == *"node3"), "{answer}");
    }
    wait_until("the cut-off node to say that it cannot sign", HEALTHY, || lonely.sign("release", b"x").code == 4);
    // Asked in any order, clients get their signatures.
    assert_signs(
        &cli.endpoints(&[&compose.endpoints[2..], &compose.endpoints[..2]].concat()),
        "release",
        &public,
        b"elsewhere",
    );

    // Back again, it takes part.
    docker(&["network", "connect", "--alias", "peer3", &peers, &cut]).exits(0);
    wait_until("the node that was cut off to sign again", HEALTHY, || lonely.sign("release", b"x").code == 0);
    assert_signs(&lonely, "release", &public, b"all together again");
}

/// What docker-compose.yml promises about every node.
fn containers_are_confined(compose: &Compose) {
    for node in 1..=NODES {
        let inspected = docker(&["inspect", &compose.container(&format!("node{node}"))]).exits(0).json();
        let (config, host) = (&inspected[0]["Config"], &inspected[0]["HostConfig"]);
        assert_eq!(config["User"], "10001:10001", "node{node}");
        assert_eq!(host["ReadonlyRootfs"], true, "node{node}");
        assert_eq!(host["CapDrop"], serde_json::json!(["ALL"]), "node{node}");
        assert!(host["SecurityOpt"].to_string().contains("no-new-privileges"), "node{node}");
        let mounts: Vec<&str> =
            inspected[0]["Mounts"].as_array().unwrap().iter().filter_map(|one| one["Destination"].as_str()).collect();
        assert!(mounts.contains(&format!("/data/node{node}").as_str()), "{mounts:?}");
        assert!(!mounts.iter().any(|mount| mount.contains("admin")), "{mounts:?}");
        assert_eq!(
            mounts.iter().filter(|mount| mount.starts_with("/data")).count(),
            1,
            "node{node} sees the data of others: {mounts:?}"
        );
    }
}
