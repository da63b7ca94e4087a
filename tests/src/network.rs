//! The network between the nodes of a cluster, with a line of its own from each node to each other.
//!
//! Each node listens behind its advertised address, where this network listens in its place. Which node dials is only known
//! inside TLS, so the network ends TLS itself: it has every node's identity, and stands for the one that was dialled and then
//! for the one that dialled. What a node sends to another is carried by one line, whoever opened the connection.

use std::collections::BTreeMap;
use std::net::TcpListener as Reserved;
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use symbolon_protocol::identity::Identity;
use symbolon_rpc::tls;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::Cluster;
use crate::proxy::{Flow, Line, Switch, carry, reset};

/// How long a handshake may take on either side.
const HANDSHAKE: Duration = Duration::from_secs(3);

/// The lines between the nodes of a cluster; they end when it is dropped.
pub struct Network {
    nodes: usize,
    lines: Lines,
    // Ends the connections when it is dropped.
    _runtime: Runtime,
}

/// By the node that sends and the node that receives.
type Lines = Arc<BTreeMap<(usize, usize), Switch>>;

/// What stands in the place of one node.
struct Gate {
    node: usize,
    identities: Arc<Vec<Identity>>,
    /// Where the node really listens.
    behind: String,
    lines: Lines,
}

impl Network {
    /// Puts a network between the nodes of a cluster that has been made and not started.
    ///
    /// # Panics
    /// When it cannot listen, or a configuration cannot be changed.
    #[must_use]
    pub fn between(cluster: &Cluster) -> Self {
        let nodes = cluster.count();
        let pairs = (1..=nodes).flat_map(|from| (1..=nodes).map(move |to| (from, to)));
        let lines: Lines = Arc::new(pairs.map(|pair| (pair, Switch::new(Line::default()))).collect());
        let identities: Arc<Vec<Identity>> = Arc::new((1..=nodes).map(|node| cluster.identity(node)).collect());
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        for node in 1..=nodes {
            let advertised = cluster.peer_address(node);
            let behind = listen_elsewhere(cluster, node, &advertised);
            let listener =
                runtime.block_on(TcpListener::bind(&advertised)).expect("the port of a node that does not run");
            let gate = Gate { node, identities: Arc::clone(&identities), behind, lines: Arc::clone(&lines) };
            drop(runtime.spawn(Arc::new(gate).serve(listener)));
        }
        Self { nodes, lines, _runtime: runtime }
    }

    /// How a node's bytes reach another.
    ///
    /// # Panics
    /// When there is no such node.
    #[must_use]
    pub fn line(&self, from: usize, to: usize) -> &Switch {
        &self.lines[&(from, to)]
    }
    /// Sets every line.
    pub fn everywhere(&self, line: Line) {
        self.lines.values().for_each(|switch| switch.set(line));
    }
    /// What becomes of everything that the others send to a node.
    pub fn into(&self, node: usize, flow: Flow) {
        self.others(node).for_each(|other| self.line(other, node).set(Line::flowing(flow)));
    }
    /// What becomes of everything that a node sends to the others.
    pub fn out_of(&self, node: usize, flow: Flow) {
        self.others(node).for_each(|other| self.line(node, other).set(Line::flowing(flow)));
    }
    /// What becomes of everything between a node and the others.
    pub fn around(&self, node: usize, flow: Flow) {
        self.into(node, flow);
        self.out_of(node, flow);
    }
    /// Every line is as good as new.
    pub fn heal(&self) {
        self.everywhere(Line::default());
    }
    fn others(&self, node: usize) -> impl Iterator<Item = usize> + use<> {
        (1..=self.nodes).filter(move |other| *other != node)
    }
}

/// Has a node listen for its peers on a free port. Gives the address.
fn listen_elsewhere(cluster: &Cluster, node: usize, advertised: &str) -> String {
    let reserved = Reserved::bind("127.0.0.1:0").expect("a free port");
    let behind = reserved.local_addr().expect("an address").to_string();
    let path = cluster.config(node);
    let config = fs::read_to_string(&path).expect("a configuration");
    let (old, new) = (format!("peer_bind = \"{advertised}\""), format!("peer_bind = \"{behind}\""));
    assert!(config.contains(&old), "{} does not say {old}", path.display());
    fs::write(&path, config.replace(&old, &new)).expect("a configuration that can be written");
    behind
}

impl Gate {
    async fn serve(self: Arc<Self>, listener: TcpListener) {
        while let Ok((near, _)) = listener.accept().await {
            let gate = Arc::clone(&self);
            drop(tokio::spawn(async move { gate.connection(near).await }));
        }
    }

    /// Learns who dials, dials in their place, and carries what they say. Whoever gives up on the way is let go.
    async fn connection(&self, near: TcpStream) -> Option<()> {
        let known = tls::only(self.identities.iter().map(Identity::public));
        let server = tls::peer_server_config(self.identity(self.node)?, known).ok()?;
        let mut near = timeout(HANDSHAKE, TlsAcceptor::from(server).accept(near)).await.ok()?.ok()?;
        let key = tls::peer_key(near.get_ref().1.peer_certificates()?).ok()?;
        let dialler = 1 + self.identities.iter().position(|identity| identity.public() == key)?;
        let (there, back) = (self.lines.get(&(dialler, self.node))?, self.lines.get(&(self.node, dialler))?);
        if [there, back].iter().any(|line| line.get().flow == Flow::Cut) {
            reset(near.get_ref().0);
            return None;
        }
        let client = tls::peer_client_config(self.identity(dialler)?, self.identity(self.node)?.public()).ok()?;
        let dialled = async {
            let name = ServerName::try_from(tls::SERVER_NAME).map_err(io::Error::other)?;
            TlsConnector::from(client).connect(name, TcpStream::connect(&self.behind).await?).await
        };
        let mut far = timeout(HANDSHAKE, dialled).await.ok()?.ok()?;
        let _ = (near.get_ref().0.set_nodelay(true), far.get_ref().0.set_nodelay(true));
        if carry(&mut near, &mut far, there, back).await {
            reset(near.get_ref().0);
            reset(far.get_ref().0);
        }
        Some(())
    }

    fn identity(&self, node: usize) -> Option<&Identity> {
        self.identities.get(node - 1)
    }
}
