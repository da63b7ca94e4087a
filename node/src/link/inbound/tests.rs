//! Peers over real streams: what they may have open, and how much they may send at once.

use std::net::SocketAddr;
use std::time::Duration;

use prost::Message as _;
use symbolon_protocol::generate::message::{Body, MESSAGE_BYTES, SignedMessage};
use symbolon_protocol::genesis::{Genesis, Member, MemberRole};
use symbolon_protocol::id::{Digest, Name};
use symbolon_protocol::identity::{Identity, Signature};
use symbolon_protocol::limits::PEER_ITEM_BYTES;
use symbolon_protocol::peer::{WorkAnswer, WorkCall};
use symbolon_protocol::wire::{Bytes, decode, encode};
use symbolon_rpc::serve::AcceptLimits;
use symbolon_rpc::v1::peer_client::PeerClient;
use symbolon_rpc::{serve as rpc_serve, tls};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tonic::transport::Channel;

use super::*;
use crate::core::door::bench;

/// Long enough for whatever a busy machine does; reached only when something hangs.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long something is watched that must not happen.
const MOMENT: Duration = Duration::from_millis(200);

async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.unwrap()
}

fn node(number: u8) -> NodeId {
    NodeId::new(number.into()).unwrap()
}

fn identity(number: u8) -> Identity {
    Identity::from_seed(&[number; 32])
}

/// Nodes 1 to 3.
fn genesis() -> Genesis {
    let member = |number: u8| Member {
        name: Name::new(&format!("node{number}")).unwrap(),
        key: identity(number).public(),
        peer_address: format!("node{number}:1"),
        client_address: format!("node{number}:2"),
        zone: String::new(),
        role: MemberRole::Voter,
    };
    Genesis {
        name: Name::new("test").unwrap(),
        members: (1..=3).map(|number| (node(number), member(number))).collect(),
        administrators: BTreeMap::from([(Name::new("admin").unwrap(), identity(99).public())]),
        checkpoint_entries: 4096,
        salt: [5; 16],
    }
}

/// Answers each call with its length, as soon as the gate lets it.
#[derive(Clone)]
struct Desk {
    entered: watch::Sender<usize>,
    gate: Arc<Semaphore>,
}

impl Desk {
    fn new(answers: usize) -> Self {
        Self { entered: watch::Sender::new(0), gate: Arc::new(Semaphore::new(answers)) }
    }
    fn entered(&self) -> usize {
        *self.entered.borrow()
    }
}

impl Answering for Desk {
    async fn greet(&self, _: NodeId, _: BootId) -> Result<(), Refusal> {
        Ok(())
    }
    async fn answer(&self, _: NodeId, _: Lane, call: Vec<u8>) -> Vec<u8> {
        self.entered.send_modify(|count| *count += 1);
        self.gate.acquire().await.unwrap().forget();
        call.len().to_string().into_bytes()
    }
}

/// Node 1, with a desk in the place of its core.
struct Listening {
    address: SocketAddr,
    desk: Desk,
    peers: Peers,
}

/// A stream of a peer to node 1.
struct PeerStream {
    frames: mpsc::Sender<Frame>,
    answers: Streaming<Frame>,
    _client: PeerClient<Channel>,
}

impl Listening {
    /// With room for so many answers.
    async fn start(answers: usize) -> Self {
        let genesis = Arc::new(genesis());
        let peers = Peers::new(genesis.members.clone());
        let acceptor = TlsAcceptor::from(tls::peer_server_config(&identity(1), peers.allowed()).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let limits = AcceptLimits { max_connections: 64, max_per_ip: 64, handshake_timeout: PATIENCE };
        let connections = rpc_serve::incoming(listener, acceptor, limits);
        let desk = Desk::new(answers);
        let boot = BootId { counter: 1, random: [1; 16] };
        let service = PeerService::server(peers.clone(), genesis.cluster_id(), boot, desk.clone());
        tokio::spawn(rpc_serve::server().add_service(service).serve_with_incoming(connections));
        Self { address, desk, peers }
    }

    /// Opens a stream as another member and exchanges hellos.
    async fn open(&self, number: u8, lane: Lane) -> PeerStream {
        let config = tls::peer_client_config(&identity(number), identity(1).public()).unwrap();
        let mut client = PeerClient::new(rpc_serve::channel(self.address.to_string(), config, PATIENCE));
        let (frames, outgoing) = mpsc::channel(16);
        let boot = BootId { counter: 1, random: [number; 16] };
        let greeting = Frame { hello: Some(hello(&genesis().cluster_id(), boot)), items: Vec::new() };
        frames.send(greeting).await.unwrap();
        let outgoing = ReceiverStream::new(outgoing);
        let opened = match lane {
            Lane::Raft => soon(client.raft(outgoing)).await,
            Lane::Work => soon(client.work(outgoing)).await,
        };
        let mut answers = opened.unwrap().into_inner();
        let first = soon(answers.message()).await.unwrap().unwrap();
        assert!(first.hello.is_some() && first.items.is_empty());
        PeerStream { frames, answers, _client: client }
    }
}

impl PeerStream {
    async fn send(&self, frame: Frame) {
        soon(self.frames.send(frame)).await.unwrap();
    }
    /// The next so many answers.
    async fn answers(&mut self, count: usize) -> Vec<Item> {
        let mut all = Vec::new();
        while all.len() < count {
            all.extend(soon(self.answers.message()).await.unwrap().unwrap().items);
        }
        all
    }
    /// Whether the other side ends the stream, without a further answer.
    async fn ends(&mut self) -> bool {
        matches!(soon(self.answers.message()).await, Ok(None) | Err(_))
    }
}

/// A frame with so many small calls.
fn calls(count: usize) -> Frame {
    let item = |call| Item { call, payload: vec![7; 3].into() };
    Frame { hello: None, items: (0..count as u64).map(item).collect() }
}

/// A frame with one call, of so many bytes in all.
fn frame_of(bytes: usize) -> Frame {
    let with = |payload: usize| Frame { hello: None, items: vec![Item { call: 1, payload: vec![7; payload].into() }] };
    let frame = with(bytes - (with(PEER_ITEM_BYTES).encoded_len() - PEER_ITEM_BYTES));
    assert_eq!(frame.encoded_len(), bytes);
    frame
}

#[tokio::test]
async fn a_newer_stream_takes_the_place_of_the_one_before_on_its_lane() {
    let node = Listening::start(Semaphore::MAX_PERMITS).await;
    let mut older = node.open(2, Lane::Raft).await;
    let mut work = node.open(2, Lane::Work).await;
    older.send(calls(1)).await;
    assert_eq!(older.answers(1).await.len(), 1);
    let mut newer = node.open(2, Lane::Raft).await;
    assert!(older.ends().await);
    // Neither the other lane nor another peer is meant.
    let mut other = node.open(3, Lane::Raft).await;
    for stream in [&mut newer, &mut work, &mut other] {
        stream.send(calls(2)).await;
        assert_eq!(stream.answers(2).await.len(), 2);
    }
    assert_eq!(node.desk.entered(), 7);
}

#[tokio::test]
async fn a_node_that_leaves_is_cut_off_and_one_that_joins_is_let_in() {
    let node = Listening::start(Semaphore::MAX_PERMITS).await;
    let mut leaving = [node.open(2, Lane::Raft).await, node.open(2, Lane::Work).await];
    let mut staying = node.open(3, Lane::Work).await;
    let mut peers = genesis().members;
    let left = peers.remove(&self::node(2)).unwrap();
    peers.insert(self::node(4), Member { key: identity(4).public(), ..left });
    node.peers.set(peers);
    for stream in &mut leaving {
        assert!(stream.ends().await);
    }
    let refused = tls::peer_client_config(&identity(2), identity(1).public()).unwrap();
    let mut client = PeerClient::new(rpc_serve::channel(node.address.to_string(), refused, PATIENCE));
    let (_frames, outgoing) = mpsc::channel(16);
    assert!(soon(client.work(ReceiverStream::new(outgoing))).await.is_err());
    let mut joined = node.open(4, Lane::Work).await;
    for stream in [&mut staying, &mut joined] {
        stream.send(calls(1)).await;
        assert_eq!(stream.answers(1).await.len(), 1);
    }
}

#[tokio::test]
async fn a_replaced_stream_ends_though_its_calls_wait_for_answers() {
    let node = Listening::start(0).await;
    let mut older = node.open(2, Lane::Work).await;
    older.send(calls(1)).await;
    soon(node.desk.entered.subscribe().wait_for(|count| *count == 1)).await.unwrap();
    let mut newer = node.open(2, Lane::Work).await;
    assert!(older.ends().await);
    newer.send(calls(1)).await;
    node.desk.gate.add_permits(2);
    assert_eq!(newer.answers(1).await.len(), 1);
}

#[tokio::test]
async fn calls_beyond_the_cap_wait_whatever_stream_they_come_on() {
    let node = Listening::start(0).await;
    let stream = node.open(2, Lane::Work).await;
    let mut entered = node.desk.entered.subscribe();
    for _ in 0..CALLS_OPEN / ITEMS_PER_FRAME {
        stream.send(calls(ITEMS_PER_FRAME)).await;
    }
    soon(entered.wait_for(|count| *count == CALLS_OPEN)).await.unwrap();
    stream.send(calls(1)).await;
    assert!(timeout(MOMENT, entered.wait_for(|count| *count > CALLS_OPEN)).await.is_err());
    // A stream in its place brings no room of its own.
    let newer = node.open(2, Lane::Work).await;
    newer.send(calls(1)).await;
    assert!(timeout(MOMENT, entered.wait_for(|count| *count > CALLS_OPEN)).await.is_err());
    // The other lane has its own.
    let raft = node.open(2, Lane::Raft).await;
    raft.send(calls(1)).await;
    soon(entered.wait_for(|count| *count == CALLS_OPEN + 1)).await.unwrap();
    // An answer makes room for the call that waits.
    node.desk.gate.add_permits(1);
    soon(entered.wait_for(|count| *count == CALLS_OPEN + 2)).await.unwrap();
}

#[tokio::test]
async fn a_frame_with_too_many_calls_ends_the_stream() {
    let node = Listening::start(Semaphore::MAX_PERMITS).await;
    let mut stream = node.open(2, Lane::Work).await;
    stream.send(calls(ITEMS_PER_FRAME)).await;
    assert_eq!(stream.answers(ITEMS_PER_FRAME).await.len(), ITEMS_PER_FRAME);
    stream.send(calls(ITEMS_PER_FRAME + 1)).await;
    assert!(stream.ends().await);
    assert_eq!(node.desk.entered(), ITEMS_PER_FRAME, "none of them is answered");
}

#[tokio::test]
async fn a_frame_with_too_many_bytes_ends_the_stream() {
    let node = Listening::start(Semaphore::MAX_PERMITS).await;
    let mut stream = node.open(2, Lane::Raft).await;
    stream.send(frame_of(FRAME_BYTES)).await;
    assert_eq!(stream.answers(1).await.len(), 1);
    stream.send(frame_of(FRAME_BYTES + 1)).await;
    assert!(stream.ends().await);
    assert_eq!(node.desk.entered(), 1);
}

#[tokio::test]
async fn answers_share_a_frame_up_to_its_size() {
    let half = PEER_ITEM_BYTES / 2;
    for (second, expected) in [(half, vec![2]), (half + 1, vec![1, 1])] {
        let (answers, ready) = mpsc::channel(2);
        let (frames, mut sent) = mpsc::channel(2);
        for (call, bytes) in [(1, half), (2, second)] {
            answers.send(Item { call, payload: vec![7; bytes].into() }).await.unwrap();
        }
        drop(answers);
        send_answers(ready, frames).await;
        let mut items = Vec::new();
        while let Some(frame) = sent.recv().await {
            let frame = frame.unwrap();
            assert!(frame.encoded_len() <= FRAME_BYTES);
            items.push(frame.items.len());
        }
        assert_eq!(items, expected);
    }
}

#[tokio::test]
async fn a_message_of_a_generation_is_as_large_as_any_and_no_larger() {
    let voter = bench::voter(1).await;
    let call = |package: usize| {
        let (ceremony, from, signature) = (Digest::from_bytes([1; 32]), node(2), Signature::from_bytes([0; 64]));
        let body = Body::Round1 { package: Bytes(vec![7; package]) };
        encode(&WorkCall::Generate(SignedMessage { ceremony, from, to: None, signature, body }))
    };
    // The tag of the call, and some bytes for luck, stand beside the largest message.
    let room = MESSAGE_BYTES + 8 - call(0).len();
    let answer = voter.answer_peer(node(2), Lane::Work, call(room)).await;
    assert!(matches!(decode(&answer), Ok(WorkAnswer::Taken)));
    let answer = voter.answer_peer(node(2), Lane::Work, call(room + 1)).await;
    let refused = matches!(decode(&answer), Ok(WorkAnswer::Refused(refusal)) if refusal.code == ErrorCode::TooLarge);
    assert!(refused);
}
