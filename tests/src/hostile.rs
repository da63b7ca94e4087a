//! Members of a cluster that break the rules, with a valid identity and programs of their own.
//!
//! - [`Liar`] stands where clients expect a node, asks an honest one for everything and changes what it passes on.
//! - [`Hostile`] speaks the peer protocol and sends whatever it is told to.
//! - [`certify`] and [`sign_raw`] make what such a member can make: votes and signatures of the identities that it has.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ed25519_dalek::{Signer as _, SigningKey};
use rand_core::{OsRng, RngCore as _};
use symbolon_protocol::certificate::{Activation, CertificateCore, KeyCertificate, Ready};
use symbolon_protocol::error::Refusal;
use symbolon_protocol::genesis::Genesis;
use symbolon_protocol::history::{Head, Leaf};
use symbolon_protocol::id::{BootId, ClusterId, Digest, NodeId};
use symbolon_protocol::identity::{Domain, Identity};
use symbolon_protocol::outcome::Outcome;
use symbolon_protocol::peer::{RaftAnswer, RaftCall, WorkAnswer, WorkCall};
use symbolon_protocol::pop::Pop;
use symbolon_protocol::state::records::STATE_VERSION;
use symbolon_protocol::state::view::KeyView;
use symbolon_protocol::wire::{decode, encode};
use symbolon_rpc::v1::peer_client::PeerClient;
use symbolon_rpc::v1::symbolon_client::SymbolonClient;
use symbolon_rpc::v1::symbolon_server::{Symbolon, SymbolonServer};
use symbolon_rpc::v1::{
    Call, DoctorReply, ExplainReply, Frame, HelloReply, HelloRequest, Item, KeyReply, ListClientsReply, ListKeysReply,
    ListMembersReply, ListOperationsReply, OrderReply, PeerHello, SignCall, SignReply, StatusReply,
};
use symbolon_rpc::{PROTOCOL_VERSION_NEWEST, PROTOCOL_VERSION_OLDEST, convert, serve, tls};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long a peer may take for an answer.
const ANSWER: Duration = Duration::from_secs(20);
/// Longest reply that is passed on, bytes.
const REPLY_BYTES: usize = 32 << 20;

/// What is shown in place of a key.
pub type KeyLie = Box<dyn Fn(KeyView) -> KeyView + Send>;
/// What is answered in place of signatures.
pub type SignLie = Box<dyn Fn(SignReply) -> SignReply + Send>;

/// What a [`Liar`] changes; without any it passes everything on as it is.
#[derive(Default)]
pub struct Lies {
    /// In every key that it shows: alone, in a list, or as the answer to a request that makes one.
    pub key: Option<KeyLie>,
    /// In every answer to a request for signatures.
    pub sign: Option<SignLie>,
}

struct Telling {
    lies: Mutex<Lies>,
    told: AtomicUsize,
}

/// A node that lies to its clients.
pub struct Liar {
    telling: Arc<Telling>,
    // Ends the server when it is dropped.
    _runtime: Runtime,
}

impl Liar {
    /// Listens where genesis says that clients reach the member with this identity, whose node must not run.
    ///
    /// # Panics
    /// When it cannot listen there.
    #[must_use]
    pub fn start(genesis: &Genesis, identity: &Identity, honest: &str) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let member = genesis.members.values().find(|member| member.key == identity.public()).expect("a member");
        let members = tls::only(genesis.members.values().map(|member| member.key));
        let outward = tls::client_config(members).expect("a TLS configuration");
        let inward = tls::client_server_config(identity).expect("a TLS configuration");
        let telling = Arc::new(Telling { lies: Mutex::default(), told: AtomicUsize::new(0) });

        let inside = runtime.enter();
        let honest = SymbolonClient::new(serve::channel(honest.to_owned(), outward, CONNECT));
        let proxy = Proxy { honest: honest.max_decoding_message_size(REPLY_BYTES), telling: Arc::clone(&telling) };
        let listener = runtime.block_on(TcpListener::bind(&member.client_address)).expect("the port of a stopped node");
        let limits = serve::AcceptLimits { max_connections: 64, max_per_ip: 64, handshake_timeout: CONNECT };
        let connections = serve::incoming(listener, TlsAcceptor::from(inward), limits);
        let server = serve::server().add_service(SymbolonServer::new(proxy)).serve_with_incoming(connections);
        drop(runtime.spawn(server));
        drop(inside);
        Self { telling, _runtime: runtime }
    }

    /// Changes what it lies about.
    ///
    /// # Panics
    /// When a lie failed before.
    pub fn tell(&self, lies: Lies) {
        *self.telling.lies.lock().expect("a sound lie") = lies;
    }
    /// How many lies it has told so far.
    #[must_use]
    pub fn told(&self) -> usize {
        self.telling.told.load(Ordering::SeqCst)
    }
}

struct Proxy {
    honest: SymbolonClient<Channel>,
    telling: Arc<Telling>,
}

impl Proxy {
    fn honest(&self) -> SymbolonClient<Channel> {
        self.honest.clone()
    }
    /// A key as it is to be shown.
    fn show(&self, canonical: &[u8]) -> Vec<u8> {
        let lies = self.telling.lies.lock().expect("a sound lie");
        let Some(lie) = &lies.key else { return canonical.to_vec() };
        self.telling.told.fetch_add(1, Ordering::SeqCst);
        encode(&lie(decode(canonical).expect("a key of an honest node")))
    }
    fn sign(&self, reply: SignReply) -> SignReply {
        let lies = self.telling.lies.lock().expect("a sound lie");
        let Some(lie) = &lies.sign else { return reply };
        self.telling.told.fetch_add(1, Ordering::SeqCst);
        lie(reply)
    }
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Symbolon for Proxy {
    async fn hello(&self, request: Request<HelloRequest>) -> Answer<HelloReply> {
        Ok(Response::new(self.honest().hello(request.into_inner()).await?.into_inner()))
    }
    async fn order(&self, request: Request<Call>) -> Answer<OrderReply> {
        let mut reply = self.honest().order(request.into_inner()).await?.into_inner();
        if let Some(shown) = &mut reply.key {
            shown.key = self.show(&shown.key).into();
        }
        Ok(Response::new(reply))
    }
    async fn sign(&self, request: Request<SignCall>) -> Answer<SignReply> {
        let reply = self.honest().sign(request.into_inner()).await?.into_inner();
        Ok(Response::new(Self::sign(self, reply)))
    }
    async fn show_key(&self, request: Request<Call>) -> Answer<KeyReply> {
        let mut reply = self.honest().show_key(request.into_inner()).await?.into_inner();
        reply.key = self.show(&reply.key).into();
        Ok(Response::new(reply))
    }
    async fn list_keys(&self, request: Request<Call>) -> Answer<ListKeysReply> {
        let mut reply = self.honest().list_keys(request.into_inner()).await?.into_inner();
        for key in &mut reply.keys {
            *key = self.show(key).into();
        }
        Ok(Response::new(reply))
    }
    async fn list_clients(&self, request: Request<Call>) -> Answer<ListClientsReply> {
        Ok(Response::new(self.honest().list_clients(request.into_inner()).await?.into_inner()))
    }
    async fn list_members(&self, request: Request<Call>) -> Answer<ListMembersReply> {
        Ok(Response::new(self.honest().list_members(request.into_inner()).await?.into_inner()))
    }
    async fn list_operations(&self, request: Request<Call>) -> Answer<ListOperationsReply> {
        Ok(Response::new(self.honest().list_operations(request.into_inner()).await?.into_inner()))
    }
    async fn status(&self, request: Request<Call>) -> Answer<StatusReply> {
        Ok(Response::new(self.honest().status(request.into_inner()).await?.into_inner()))
    }
    async fn explain(&self, request: Request<Call>) -> Answer<ExplainReply> {
        Ok(Response::new(self.honest().explain(request.into_inner()).await?.into_inner()))
    }
    async fn doctor(&self, request: Request<Call>) -> Answer<DoctorReply> {
        Ok(Response::new(self.honest().doctor(request.into_inner()).await?.into_inner()))
    }
}

/// Which of the two streams between nodes.
#[derive(Debug, Clone, Copy)]
pub enum Lane {
    /// Raft messages.
    Raft,
    /// Everything else.
    Work,
}

/// Somebody who speaks the peer protocol and keeps to nothing else.
#[derive(Debug)]
pub struct Hostile {
    runtime: Runtime,
    cluster: ClusterId,
    boot: BootId,
    peers: BTreeMap<NodeId, Channel>,
}

impl Hostile {
    /// With an identity, a member's or not, as its start number `boot`.
    ///
    /// # Panics
    /// When no runtime or no TLS configuration can be had.
    #[must_use]
    pub fn new(genesis: &Genesis, identity: &Identity, boot: u64) -> Self {
        let mut hostile = Self::bare(genesis, boot);
        let inside = hostile.runtime.enter();
        for (node, member) in &genesis.members {
            let config = tls::peer_client_config(identity, member.key).expect("a TLS configuration");
            hostile.peers.insert(*node, serve::channel(member.peer_address.clone(), config, CONNECT));
        }
        drop(inside);
        hostile
    }
    /// As a client connects: it shows no certificate.
    ///
    /// # Panics
    /// When no runtime or no TLS configuration can be had.
    #[must_use]
    pub fn without_certificate(genesis: &Genesis) -> Self {
        let mut hostile = Self::bare(genesis, 1);
        let inside = hostile.runtime.enter();
        for (node, member) in &genesis.members {
            let config = tls::client_config(tls::only([member.key])).expect("a TLS configuration");
            hostile.peers.insert(*node, serve::channel(member.peer_address.clone(), config, CONNECT));
        }
        drop(inside);
        hostile
    }
    fn bare(genesis: &Genesis, counter: u64) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let mut random = [0; 16];
        OsRng.fill_bytes(&mut random);
        let boot = BootId { counter, random };
        Self { runtime, cluster: genesis.cluster_id(), boot, peers: BTreeMap::new() }
    }

    fn hello(&self) -> PeerHello {
        PeerHello {
            oldest: PROTOCOL_VERSION_OLDEST,
            newest: PROTOCOL_VERSION_NEWEST,
            cluster_id: self.cluster.as_bytes().to_vec().into(),
            boot: encode(&self.boot).into(),
            state_version: STATE_VERSION,
            release: "hostile".to_owned(),
        }
    }

    /// Opens a stream to a node, says hello, sends one item and returns the answer to it.
    ///
    /// # Errors
    /// Why there is no stream.
    ///
    /// # Panics
    /// When the stream is there and no answer comes.
    pub fn send(&self, to: NodeId, lane: Lane, payload: Vec<u8>) -> Result<Vec<u8>, Refusal> {
        let hello = Frame { hello: Some(self.hello()), items: Vec::new() };
        let item = Frame { hello: None, items: vec![Item { call: 7, payload: payload.into() }] };
        let frames = tokio_stream::iter([hello, item]);
        let mut client = PeerClient::new(self.peers.get(&to).expect("a member").clone());
        let exchange = async {
            let opened = match lane {
                Lane::Raft => client.raft(frames).await,
                Lane::Work => client.work(frames).await,
            };
            let mut answers = opened?.into_inner();
            while let Some(frame) = answers.message().await? {
                if let Some(item) = frame.items.into_iter().next() {
                    return Ok(item);
                }
            }
            Err(Status::internal("the stream ended without an answer"))
        };
        let answered = self.runtime.block_on(async { timeout(ANSWER, exchange).await }).expect("an answer in time");
        let item = answered.map_err(|status| convert::from_status(&status))?;
        assert_eq!(item.call, 7, "an answer to another call");
        Ok(item.payload.to_vec())
    }
    /// Makes a call on the stream for work.
    ///
    /// # Errors
    /// Why there is no stream.
    ///
    /// # Panics
    /// When the answer is none.
    pub fn work(&self, to: NodeId, call: &WorkCall) -> Result<WorkAnswer, Refusal> {
        self.send(to, Lane::Work, encode(call)).map(|answer| decode(&answer).expect("an answer"))
    }
    /// Makes a call on the stream for Raft.
    ///
    /// # Errors
    /// Why there is no stream.
    ///
    /// # Panics
    /// When the answer is none.
    pub fn raft(&self, to: NodeId, call: &RaftCall) -> Result<RaftAnswer, Refusal> {
        self.send(to, Lane::Raft, encode(call)).map(|answer| decode(&answer).expect("an answer"))
    }
}

/// An ordinary signature by the key of an identity: what no identity gives inside the protocol.
#[must_use]
pub fn sign_raw(identity: &Identity, message: &[u8]) -> [u8; 64] {
    SigningKey::from_bytes(identity.expose_seed()).sign(message).to_bytes()
}

/// The certificate of a key whose shares are all known, with every vote of the roster by the identity that `voter` gives, and
/// as the first entry of its history. With the roster's own identities it is a good one.
///
/// # Panics
/// When a share is no scalar; these are.
pub fn certify<'a>(mut core: CertificateCore, voter: impl Fn(NodeId) -> &'a Identity) -> KeyCertificate {
    let mut rng = OsRng;
    let shares: Vec<SigningKey> = core.roster.iter().map(|_| SigningKey::generate(&mut rng)).collect();
    core.verifying_shares = shares.iter().map(|share| share.verifying_key().to_bytes()).collect();
    let (cluster, digest) = (core.cluster, core.digest());

    let (entry, writes) = (Digest::from_bytes([1; 32]), Digest::from_bytes([2; 32]));
    // The first leaf of a history is its own root.
    let root = Leaf { index: 0, entry, outcome: Outcome::activated(&core).digest(), writes }.hash();
    let head = Head { index: 0, root, membership: core.membership, state: None };
    let (mut ready, mut activated, mut heads) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for (node, share) in core.roster.iter().zip(&shares) {
        let voter = voter(*node);
        let secret = share.to_scalar().to_bytes();
        let possession = Pop::prove(&secret, digest.as_bytes(), &mut rng).expect("a scalar");
        let signature = voter.sign(Domain::Ready, &cluster, &Ready::payload(&digest, &possession));
        ready.insert(*node, Ready { possession, signature });
        activated.insert(*node, voter.sign(Domain::Activated, &cluster, digest.as_bytes()));
        heads.insert(*node, voter.sign(Domain::Head, &cluster, &encode(&head)));
    }
    let activation = Activation { entry, writes, path: Vec::new(), head };
    KeyCertificate { core, ready, activated, activation, heads }
}

/// Raft messages as nodes send them: openraft's structures in the encoding of postcard, which is the same for a tuple of their
/// fields.
pub mod raft {
    use std::collections::{BTreeMap, BTreeSet};

    use symbolon_protocol::wire::Bytes;

    /// Term and index of an entry.
    pub type LogId = (u64, u64);

    /// Numbers and bytes can always be encoded.
    macro_rules! pack {
        ($value:expr) => {
            postcard::to_stdvec(&$value).expect("an encoding")
        };
    }

    /// An empty entry.
    #[must_use]
    pub fn blank(id: LogId) -> Vec<u8> {
        pack!((id, 0_u32))
    }
    /// An entry with content.
    #[must_use]
    pub fn normal(id: LogId, content: &[u8]) -> Vec<u8> {
        pack!((id, 1_u32, content))
    }
    /// An entry after which these are the voters, and the only members.
    #[must_use]
    pub fn membership(id: LogId, voters: &[u64]) -> Vec<u8> {
        let set: BTreeSet<u64> = voters.iter().copied().collect();
        let nodes: BTreeMap<u64, ()> = voters.iter().map(|voter| (*voter, ())).collect();
        pack!((id, 2_u32, [set].as_slice(), nodes))
    }
    /// An append in the name of a leader that a majority is said to have elected, with entries behind the one with the id
    /// `previous`.
    #[must_use]
    pub fn append(term: u64, leader: u64, previous: Option<LogId>, entries: &[Vec<u8>]) -> Bytes {
        let head = pack!((term, Some(leader), true, previous));
        let count = pack!(u64::try_from(entries.len()).expect("a few"));
        let commit = pack!(None::<LogId>);
        Bytes([head, count, entries.concat(), commit].concat())
    }
    /// A question for a vote in the name of a candidate, which says that its log ends with the entry `last`.
    #[must_use]
    pub fn vote(term: u64, candidate: u64, last: Option<LogId>) -> Bytes {
        Bytes(pack!((term, Some(candidate), false, last, false)))
    }
}
