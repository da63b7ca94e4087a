//! symbolond as a process: files, hardening, listeners, signals; and `dev`, which runs several of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::time::TimeValLike as _;
use nix::time::ClockId;
use rand_core::{OsRng, RngCore as _};
use symbolon_protocol::id::{BootId, NodeId};
use symbolon_protocol::state::records::STATE_VERSION;
use symbolon_protocol::state::view::Check;
use symbolon_rpc::serve::{AcceptLimits, incoming};
use symbolon_rpc::{serve as rpc_serve, tls};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_rustls::TlsAcceptor;

use crate::config::{Config, LogFormat, SealMethod};
use crate::core::boots::PeerBoots;
use crate::core::start::{last_boot, name_store, open_store};
use crate::core::types::{EntryBytes, Lane, LeaderId, OutcomeBytes, Surroundings, Timing};
use crate::core::{Core, Parts};
use crate::examine::examine;
use crate::harden::harden_process;
use crate::host::Host;
use crate::link::Peers;
use crate::link::inbound::{Answering, PeerService};
use crate::link::outbound::Links;
use crate::load::{Loaded, load};
use crate::seal::{FileVault, KeyFile, PassphraseSource, SEAL_PARAMS_FILE, SealKey, SlotFile};
use crate::serve::{client::ClientService, health, metrics};
use crate::setup::{STORE_ID, read_store_id};
use crate::store::rocks::{self, Closing, RocksStore};

openraft::declare_raft_types!(
    /// Raft on tokio.
    pub TokioTypes: D = EntryBytes, R = OutcomeBytes, NodeId = u64, Node = openraft::EmptyNode,
    LeaderId = LeaderId, AsyncRuntime = openraft_rt_tokio::TokioRuntime,
);

/// Connections of peers at once.
const PEER_CONNECTIONS: usize = 1024;

/// The core as symbolond runs it.
pub type Daemon = Core<TokioTypes, Links, RocksStore, System>;

/// The system's clock and entropy, and the machine.
#[derive(Debug, Clone)]
pub struct System {
    host: Arc<Host>,
}

impl Surroundings for System {
    type Rng = OsRng;

    fn now_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn boot_ms(&self) -> u64 {
        // Every kernel has this clock; the start made sure.
        let now = ClockId::CLOCK_BOOTTIME.now().map_or(0, |now| now.num_milliseconds());
        u64::try_from(now).unwrap_or(0)
    }

    fn rng(&self) -> OsRng {
        OsRng
    }

    fn examine(&self) -> Vec<Check> {
        self.host.examine()
    }

    fn disk_free(&self) -> u64 {
        self.host.disk_free()
    }
}

impl Answering for Daemon {
    async fn greet(&self, from: NodeId, boot: BootId) -> Result<(), symbolon_protocol::error::Refusal> {
        self.greeted(from, boot).await
    }
    async fn answer(&self, from: NodeId, lane: Lane, call: Vec<u8>) -> Vec<u8> {
        self.answer_peer(from, lane, call).await
    }
}

fn seal_key(config: &Config) -> Result<SealKey, String> {
    let key = match (&config.seal, &config.seal_key, &config.passphrase_file) {
        (SealMethod::KeyFile, Some(file), _) => SealKey::from_key_file(&KeyFile::at(file)),
        (SealMethod::KeyFile, None, _) => return Err("seal_key is missing".to_owned()),
        (SealMethod::Passphrase, _, Some(file)) => {
            SealKey::from_passphrase(&config.data.join(SEAL_PARAMS_FILE), &PassphraseSource::File(file.clone()))
        }
        (SealMethod::Passphrase, _, None) => {
            SealKey::from_passphrase(&config.data.join(SEAL_PARAMS_FILE), &PassphraseSource::Terminal)
        }
    };
    key.map_err(|e| e.to_string())
}

fn slots_path(config: &Config) -> PathBuf {
    config.data.join("slots")
}

fn open_slots(loaded: &Loaded) -> Result<SlotFile, String> {
    let key = seal_key(&loaded.config)?;
    let path = slots_path(&loaded.config);
    let cluster = *loaded.genesis.cluster_id().as_bytes();
    let fresh = !rocks::directory(&loaded.config.data).exists();
    let slots = if fresh && !path.exists() {
        SlotFile::create(&path, &key, cluster, loaded.me.get())
    } else {
        SlotFile::open(&path, &key, cluster, loaded.me.get())
    };
    slots.map_err(|e| e.to_string())
}

/// Says what would fail before anything is started; `whole` reads the whole store too.
///
/// # Errors
/// The first thing that would fail.
pub fn check(path: &Path, whole: bool) -> Result<String, String> {
    let loaded = load(path, None)?;
    for (key, bind) in loaded.config.listeners() {
        std::net::TcpListener::bind(bind).map_err(|e| format!("{key} = \"{bind}\": {e}"))?;
    }
    let member = loaded.members().get(&loaded.me).ok_or("this node is no member")?;
    for (what, address) in [("peer", &member.peer_address), ("client", &member.client_address)] {
        use std::net::ToSocketAddrs as _;
        address
            .to_socket_addrs()
            .map_err(|e| format!("the advertised {what} address {address} does not resolve: {e}"))?;
    }
    if loaded.config.health_socket.as_os_str().len() > 100 {
        return Err(format!("health_socket {} is too long for a Unix socket", loaded.config.health_socket.display()));
    }
    if !loaded.config.data.is_dir() {
        return Err(format!("data: {} is no directory", loaded.config.data.display()));
    }
    tracing_subscriber::EnvFilter::try_new(&loaded.config.log_filter).map_err(|e| format!("log_filter: {e}"))?;
    let is_new = !slots_path(&loaded.config).exists() && !rocks::directory(&loaded.config.data).exists();
    let found = match (is_new, whole) {
        (true, _) => seal_key(&loaded.config).map(|_| String::new())?,
        (false, false) => open_slots(&loaded).map(|_| String::new())?,
        (false, true) => format!(". {}", check_store(&loaded)?),
    };
    Ok(format!(
        "node {} ({}) of cluster {} {}: configuration, identity, genesis, seal and addresses are in order{found}",
        loaded.me,
        member.name,
        loaded.genesis.name,
        loaded.genesis.cluster_id()
    ))
}

fn check_store(loaded: &Loaded) -> Result<String, String> {
    let slots = open_slots(loaded)?;
    let directory = rocks::directory(&loaded.config.data);
    let named = |what: String| format!("{}: {what}", directory.display());
    let store = RocksStore::open_read_only(&directory).map_err(|e| named(e.to_string()))?;
    check_boot(&slots, &store)?;
    examine(&store, &FileVault::new(slots).map_err(|e| e.to_string())?).map_err(named)
}

/// The slot file remembers the boot that was counted last: a store that counts lower has lost what it had written.
fn check_boot(slots: &SlotFile, store: &RocksStore) -> Result<(), String> {
    let counted = last_boot(store)?;
    if slots.sequence() <= counted {
        return Ok(());
    }
    Err(format!(
        "the store is older than the key slots (boot {counted} after {}): it was restored or lost its tail. This node is \
         quarantined: it must not sign or vote again with this identity. Put another node in its place (`symbolon member \
         replace`)",
        slots.sequence()
    ))
}

fn start_logs(config: &Config) -> Result<(), String> {
    let filter = tracing_subscriber::EnvFilter::try_new(&config.log_filter).map_err(|e| format!("log_filter: {e}"))?;
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match config.log_format {
        LogFormat::Text => logs.with_ansi(false).try_init(),
        LogFormat::Json => logs.json().try_init(),
    };
    started.map_err(|e| e.to_string())
}

/// Runs a node until it is told to stop or must stop; with a join ticket when it was not a member from the beginning.
///
/// # Errors
/// Why it did not start, or why it stopped on purpose.
pub fn run(path: &Path, ticket: Option<&Path>) -> Result<(), String> {
    let loaded = load(path, ticket)?;
    start_logs(&loaded.config)?;
    loaded.keep_ticket()?;
    let protections = harden_process();
    for warning in protections.iter().filter_map(|protection| protection.warning.as_ref()) {
        tracing::warn!(%warning, "the process is less protected than it could be");
    }
    let host = Host {
        data: loaded.config.data.clone(),
        slots: slots_path(&loaded.config),
        connections: (PEER_CONNECTIONS + loaded.config.max_connections) as u64,
        protections,
    };
    // One thread: on small machines a node spends half of the time that two workers would.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    let mut closing = None;
    let result = runtime.block_on(serve(loaded, host, &mut closing));
    // Every task goes, and with the last of them the store.
    drop(runtime);
    if let Some(closing) = closing {
        closing.wait();
    }
    result
}

async fn open_core(loaded: &Loaded) -> Result<(RocksStore, FileVault, BootId), String> {
    let mut slots = open_slots(loaded)?;
    let store = RocksStore::open(&rocks::directory(&loaded.config.data))
        .map_err(|e| format!("{}: {e}. The node stops", rocks::directory(&loaded.config.data).display()))?;
    let mut random = [0; 16];
    OsRng.fill_bytes(&mut random);
    // Before anything is counted, so that starting again and again does not wear the difference out.
    check_boot(&slots, &store)?;
    let (cluster, enrolled) = (loaded.genesis.cluster_id(), loaded.config.data.join(STORE_ID));
    if let Some(id) = read_store_id(&enrolled)? {
        name_store(&store, cluster, loaded.me, id).await?;
        // Only one store ever gets it: whoever loses that one is another node.
        std::fs::remove_file(&enrolled).map_err(|e| format!("{}: {e}", enrolled.display()))?;
    }
    let boot = open_store(&store, cluster, loaded.me, random).await?;
    slots.set_sequence(boot.counter).map_err(|e| e.to_string())?;
    Ok((store, FileVault::new(slots).map_err(|e| e.to_string())?, boot))
}

async fn serve(loaded: Loaded, host: Host, closing: &mut Option<Closing>) -> Result<(), String> {
    ClockId::CLOCK_BOOTTIME.now().map_err(|e| format!("this system has no CLOCK_BOOTTIME: {e}"))?;
    let (store, vault, boot) = open_core(&loaded).await?;
    *closing = Some(store.closing());
    let Loaded { config, genesis, identity, me, followed } = loaded;
    let genesis = Arc::new(genesis);
    let cluster = genesis.cluster_id();
    tracing::info!(node = %me, %cluster, name = %genesis.name, boot = boot.counter, "symbolond starts");
    if genesis.administrators.len() < 2 {
        tracing::warn!("the cluster began with one administrator: register a second one before the first is lost");
    }
    std::fs::write(config.data.join("pid"), std::process::id().to_string()).map_err(|e| e.to_string())?;
    let peers = bind(&config.peer_bind).await?;
    let clients = bind(&config.client_bind).await?;
    let asked = match &config.metrics.listen {
        Some(address) => Some(bind(address).await?),
        None => None,
    };
    // Nobody is a peer before the core has looked who is a member.
    let known = Peers::new(BTreeMap::new());
    let peer_tls = tls::peer_server_config(&identity, known.allowed()).map_err(|e| e.to_string())?;
    let client_tls = tls::client_server_config(&identity).map_err(|e| e.to_string())?;
    let transport = Links::new(&identity, cluster, boot, PeerBoots::new(store.clone()), known.clone());
    let transport = transport.map_err(|e| e.to_string())?;
    let parts = Parts {
        me,
        identity,
        genesis,
        boot,
        store,
        transport,
        surroundings: System { host: Arc::new(host) },
        vault: Box::new(vault),
        timing: Timing::default(),
        usage_bytes: config.usage_log_max_mib << 20,
        backend: config.signing.backend.into(),
        state_version: STATE_VERSION,
    };
    let core: Daemon = Core::start(parts).await?;
    core.join(followed).map_err(|e| e.to_string())?;
    let limits =
        AcceptLimits { max_connections: PEER_CONNECTIONS, max_per_ip: 256, handshake_timeout: Duration::from_secs(5) };
    let peer_service = PeerService::server(known, cluster, boot, core.clone());
    let peer_server = rpc_serve::server().add_service(peer_service).serve_with_incoming(incoming(
        peers,
        TlsAcceptor::from(peer_tls),
        limits,
    ));
    let limits = AcceptLimits {
        max_connections: config.max_connections,
        max_per_ip: config.max_connections_per_address,
        handshake_timeout: Duration::from_secs(5),
    };
    let (_, grpc_health) = tonic_health::server::health_reporter();
    let client_server = rpc_serve::server()
        .add_service(ClientService::server(core.clone(), config.max_requests))
        .add_service(grpc_health)
        .serve_with_incoming(incoming(clients, TlsAcceptor::from(client_tls), limits));
    health::serve(config.health_socket.clone(), health_of(core.clone()))
        .map_err(|e| format!("{}: {e}", config.health_socket.display()))?;
    if let Some(listener) = asked {
        serve_metrics(listener, core.clone(), config.metrics.key_series)?;
    }
    let mut terminate = signal(SignalKind::terminate()).map_err(|e| e.to_string())?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|e| e.to_string())?;
    tracing::info!(peers = %config.peer_bind, clients = %config.client_bind, "symbolond listens");
    let result = tokio::select! {
        served = peer_server => served.map_err(|e| format!("the peer listener failed: {e}")),
        served = client_server => served.map_err(|e| format!("the client listener failed: {e}")),
        reason = core.failed() => Err(reason),
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    };
    core.shutdown().await;
    let _ = std::fs::remove_file(&config.health_socket);
    let _ = std::fs::remove_file(config.data.join("pid"));
    tracing::info!(node = %me, "symbolond stops");
    result
}

/// Metrics go to whoever asks; so the listener should be reached by nobody else.
fn serve_metrics(listener: TcpListener, core: Daemon, key_series: usize) -> Result<(), String> {
    let address = listener.local_addr().map_err(|e| e.to_string())?;
    tracing::info!(%address, "metrics are served");
    if !address.ip().is_loopback() {
        tracing::warn!(%address, "metrics are served in the clear beyond this machine, names of keys and nodes with them");
    }
    tokio::spawn(metrics::serve(listener, move || {
        let core = core.clone();
        async move { core.series(key_series).await.ok() }
    }));
    Ok(())
}

async fn bind(address: &str) -> Result<TcpListener, String> {
    TcpListener::bind(address).await.map_err(|e| format!("{address}: {e}"))
}

fn health_of(core: Daemon) -> impl Fn() -> Result<String, String> + Send + 'static {
    move || {
        let text = format!(
            "node {} applied {} leader {}",
            core.me(),
            core.applied_index().map_or_else(|| "nothing".to_owned(), |index| index.to_string()),
            core.believable_leader().map_or_else(|| "unknown".to_owned(), |leader| leader.to_string())
        );
        if core.believable_leader().is_some() && core.applied_index().is_some() { Ok(text) } else { Err(text) }
    }
}

/// Asks a node on this machine how it is.
///
/// # Errors
/// What is wrong.
pub fn ask_health(path: &Path) -> Result<String, String> {
    let config = Config::load(path).map_err(|e| e.to_string())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    runtime.block_on(health::ask(&config.health_socket))
}

/// Runs all nodes under a directory as child processes until a signal comes. Restarts nothing.
///
/// # Errors
/// When a node cannot be started or is not well within half a minute.
pub fn dev_run(directory: &Path, nodes: u16, ready: impl Fn()) -> Result<(), String> {
    let program = std::env::current_exe().map_err(|e| e.to_string())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).map_err(|e| e.to_string())?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(|e| e.to_string())?;
        let mut children = Vec::new();
        for number in 1..=nodes {
            children.push(start_child(&program, &directory.join(format!("node{number}")))?);
        }
        let stopped = async {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        };
        let work = async {
            all_well(directory, &mut children).await?;
            ready();
            mourn(directory, &mut children).await;
            Ok(())
        };
        let result = tokio::select! { () = stopped => Ok(()), result = work => result };
        stop_children(&mut children);
        result
    })
}

fn start_child(program: &Path, directory: &Path) -> Result<Child, String> {
    let log = directory.join("log");
    let open = std::fs::OpenOptions::new().create(true).append(true).open(&log);
    let log = open.map_err(|e| format!("{}: {e}", log.display()))?;
    let errors = log.try_clone().map_err(|e| e.to_string())?;
    Command::new(program)
        .arg("run")
        .arg("--config")
        .arg(directory.join("symbolond.toml"))
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .spawn()
        .map_err(|e| format!("{}: {e}", program.display()))
}

async fn all_well(directory: &Path, children: &mut [Child]) -> Result<(), String> {
    let begun = Instant::now();
    for (child, number) in children.iter_mut().zip(1..) {
        let node = directory.join(format!("node{number}"));
        let log = node.join("log");
        let config = Config::load(&node.join("symbolond.toml")).map_err(|e| e.to_string())?;
        while let Err(why) = health::ask(&config.health_socket).await {
            if let Ok(Some(status)) = child.try_wait() {
                return Err(format!("node{number} ended at once ({status}): look at {}", log.display()));
            }
            if begun.elapsed() > Duration::from_secs(30) {
                return Err(format!("node{number} is not well after half a minute ({why}): look at {}", log.display()));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        if let Ok(Some(status)) = child.try_wait() {
            return Err(format!("node{number} runs already, or ended ({status}): look at {}", log.display()));
        }
    }
    Ok(())
}

/// Says which nodes end, and how to start them again; returns when none is left.
async fn mourn(directory: &Path, children: &mut [Child]) {
    use std::io::Write as _;
    let mut alive: Vec<(u16, &mut Child)> = (1..).zip(children.iter_mut()).collect();
    while !alive.is_empty() {
        alive.retain_mut(|(number, child)| {
            let Ok(Some(status)) = child.try_wait() else { return true };
            let config = directory.join(format!("node{number}/symbolond.toml"));
            let _ = writeln!(
                std::io::stderr(),
                "node{number} ended ({status}); start it again with `symbolond run --config {}`",
                config.display()
            );
            false
        });
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    // Nodes that were started again by hand are not ours; only a signal ends this.
    std::future::pending::<()>().await;
}

fn stop_children(children: &mut [Child]) {
    for child in children.iter() {
        if let Ok(pid) = i32::try_from(child.id()) {
            // A child that ended already needs no signal.
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM);
        }
    }
    for child in children {
        let _ = child.wait();
    }
}
