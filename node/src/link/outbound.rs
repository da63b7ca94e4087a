//! Dialling the peers: for each peer and lane one task that keeps a stream open and sends calls on it.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt as _;
use symbolon_protocol::genesis::Member;
use symbolon_protocol::id::{BootId, ClusterId, NodeId};
use symbolon_protocol::identity::Identity;
use symbolon_rpc::v1::peer_client::PeerClient;
use symbolon_rpc::v1::{Frame, Item};
use symbolon_rpc::{serve, tls};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use super::{CALLS_OPEN, FRAME_BYTES, ITEMS_PER_FRAME, Peers, check_hello, hello};
use crate::core::boots::PeerBoots;
use crate::core::lock;
use crate::core::types::{Lane, LinkError, Transport};
use crate::store::Store;

type Answer = oneshot::Sender<Result<Vec<u8>, LinkError>>;

struct Call {
    payload: Vec<u8>,
    answer: Answer,
}

/// The stream to a peer on one lane. Dropped, it ends.
struct Wire {
    address: String,
    calls: mpsc::Sender<Call>,
    up: Arc<AtomicBool>,
    task: AbortHandle,
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Dial = dyn Fn(NodeId, &Member, Lane) -> Result<Wire, tls::TlsError> + Send + Sync;

/// The streams to all peers.
#[derive(Clone)]
pub struct Links {
    peers: Peers,
    wires: Arc<Mutex<BTreeMap<(NodeId, Lane), Wire>>>,
    dial: Arc<Dial>,
}

/// What every dialling task needs.
struct Dialler<S> {
    boots: PeerBoots<S>,
    cluster: ClusterId,
    boot: BootId,
    peer: NodeId,
    lane: Lane,
    channel: Channel,
    up: Arc<AtomicBool>,
}

impl Links {
    /// Dials nobody yet: whom, it is told ([`Transport::follow`]), and `peers` with it.
    ///
    /// # Errors
    /// When the identity makes no TLS configuration.
    pub fn new<S: Store>(
        identity: &Identity,
        cluster: ClusterId,
        boot: BootId,
        boots: PeerBoots<S>,
        peers: Peers,
    ) -> Result<Self, tls::TlsError> {
        let credentials = tls::PeerCredentials::new(identity)?;
        let dial = move |peer: NodeId, member: &Member, lane: Lane| -> Result<Wire, tls::TlsError> {
            let address = member.peer_address.clone();
            let channel = serve::channel(address.clone(), credentials.to(member.key)?, Duration::from_secs(2));
            let up = Arc::new(AtomicBool::new(false));
            let (calls, queue) = mpsc::channel(CALLS_OPEN);
            let dialler = Dialler { boots: boots.clone(), cluster, boot, peer, lane, channel, up: Arc::clone(&up) };
            let task = tokio::spawn(dialler.run(queue)).abort_handle();
            Ok(Wire { address, calls, up, task })
        };
        Ok(Self { peers, wires: Arc::default(), dial: Arc::new(dial) })
    }
}

impl Transport for Links {
    fn call(
        &self,
        to: NodeId,
        lane: Lane,
        payload: Vec<u8>,
    ) -> impl Future<Output = Result<Vec<u8>, LinkError>> + Send + 'static {
        let (answer, answered) = oneshot::channel();
        let sent = match lock(&self.wires).get(&(to, lane)) {
            Some(wire) if wire.up.load(Ordering::Relaxed) => {
                wire.calls.try_send(Call { payload, answer }).map_err(|_| LinkError(format!("node {to} is overloaded")))
            }
            Some(_) => Err(LinkError(format!("node {to} is not connected"))),
            None => Err(LinkError(format!("node {to} is no peer"))),
        };
        async move {
            sent?;
            answered.await.map_err(|_| LinkError(format!("the stream to node {to} broke")))?
        }
    }

    fn reachable(&self, node: NodeId) -> bool {
        lock(&self.wires).get(&(node, Lane::Work)).is_some_and(|wire| wire.up.load(Ordering::Relaxed))
    }

    fn follow(&self, peers: &BTreeMap<NodeId, Member>) {
        self.peers.set(peers.clone());
        let mut wires = lock(&self.wires);
        wires.retain(|(peer, _), wire| peers.get(peer).is_some_and(|member| member.peer_address == wire.address));
        for (peer, member) in peers {
            for lane in [Lane::Raft, Lane::Work] {
                if wires.contains_key(&(*peer, lane)) {
                    continue;
                }
                match (self.dial)(*peer, member, lane) {
                    Ok(wire) => drop(wires.insert((*peer, lane), wire)),
                    Err(error) => tracing::error!(%peer, %error, "a peer cannot be dialled"),
                }
            }
        }
    }
}

impl<S: Store> Dialler<S> {
    /// Opens the stream again and again until the node stops.
    async fn run(self, mut queue: mpsc::Receiver<Call>) {
        let mut pause = Duration::from_millis(20);
        let mut told = false;
        loop {
            // The library below fails on some headers that a peer may answer with: that ends the try and not this task.
            let opening = AssertUnwindSafe(self.open()).catch_unwind();
            let opened = tokio::time::timeout(Duration::from_secs(3), opening).await;
            let opened = opened.map(|opened| opened.unwrap_or_else(|_| Err("the answer cannot be read".to_owned())));
            match opened {
                Ok(Ok((frames, answers))) => {
                    tracing::info!(peer = %self.peer, lane = ?self.lane, "stream to peer is open");
                    self.up.store(true, Ordering::Relaxed);
                    pause = Duration::from_millis(20);
                    let carried = AssertUnwindSafe(carry(&mut queue, frames, answers)).catch_unwind().await;
                    let why = carried.unwrap_or_else(|_| Some("the peer's answer cannot be read".to_owned()));
                    self.up.store(false, Ordering::Relaxed);
                    let Some(why) = why else { return };
                    tracing::info!(peer = %self.peer, lane = ?self.lane, %why, "stream to peer is closed");
                }
                // A peer that refuses this node as stale says what its operator must know.
                Ok(Err(error)) if error.starts_with("quarantined") && !std::mem::replace(&mut told, true) => {
                    tracing::error!(peer = %self.peer, %error, "a peer does not let this node take part, or is kept out by it");
                }
                Ok(Err(error)) => {
                    tracing::debug!(peer = %self.peer, lane = ?self.lane, %error, "peer is not reachable")
                }
                Err(_) => tracing::debug!(peer = %self.peer, lane = ?self.lane, "peer does not answer"),
            }
            // Whoever waits for a stream that broke is told at once.
            while let Ok(call) = queue.try_recv() {
                let _ = call.answer.send(Err(LinkError(format!("node {} is not connected", self.peer))));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(500));
        }
    }

    /// Opens the stream and exchanges hellos.
    async fn open(&self) -> Result<(mpsc::Sender<Frame>, Streaming<Frame>), String> {
        let before = self.boots.highest(self.peer).map_err(|fault| fault.to_string())?;
        let (frames, outgoing) = mpsc::channel(16);
        let first = Frame { hello: Some(hello(&self.cluster, self.boot)), items: Vec::new() };
        frames.send(first).await.map_err(|e| e.to_string())?;
        let mut client = PeerClient::new(self.channel.clone())
            .max_decoding_message_size(FRAME_BYTES)
            .max_encoding_message_size(FRAME_BYTES);
        let outgoing = ReceiverStream::new(outgoing);
        let response = match self.lane {
            Lane::Raft => client.raft(outgoing).await,
            Lane::Work => client.work(outgoing).await,
        };
        let mut answers = response.map_err(|status| describe(&status))?.into_inner();
        let first = answers.message().await.map_err(|status| describe(&status))?;
        let theirs = first.and_then(|frame| frame.hello).ok_or("the peer did not say hello")?;
        let boot = check_hello(&self.cluster, &theirs).map_err(|refusal| refusal.to_string())?;
        // Dialled or dialling: a peer that went back in time gets nothing of this node.
        self.boots.was_dialled(self.peer, boot, before).await.map_err(|refused| refused.to_string())?;
        Ok((frames, answers))
    }
}

fn describe(status: &tonic::Status) -> String {
    symbolon_rpc::convert::from_status(status).to_string()
}

/// Carries calls out and answers back until the stream breaks (why) or the node stops (none).
async fn carry(
    queue: &mut mpsc::Receiver<Call>,
    frames: mpsc::Sender<Frame>,
    mut answers: Streaming<Frame>,
) -> Option<String> {
    let mut open: BTreeMap<u64, Answer> = BTreeMap::new();
    let mut next = 0u64;
    let mut group = Vec::new();
    loop {
        tokio::select! {
            received = queue.recv_many(&mut group, ITEMS_PER_FRAME) => {
                if received == 0 {
                    return None;
                }
                for frame in frames_of(&mut group, &mut open, &mut next) {
                    if frames.send(frame).await.is_err() {
                        return Some("the peer closed the stream".to_owned());
                    }
                }
            }
            frame = answers.message() => match frame {
                Ok(Some(frame)) => {
                    for item in frame.items {
                        if let Some(answer) = open.remove(&item.call) {
                            // The caller may have given up.
                            let _ = answer.send(Ok(item.payload.to_vec()));
                        }
                    }
                }
                Ok(None) => return Some("the peer ended the stream".to_owned()),
                Err(status) => return Some(describe(&status)),
            }
        }
        if open.len() > CALLS_OPEN {
            // Callers whose deadline passed are gone; their answers would only be thrown away.
            open.retain(|_, answer| !answer.is_closed());
        }
    }
}

/// Packs calls into frames that stay under the limit.
fn frames_of(group: &mut Vec<Call>, open: &mut BTreeMap<u64, Answer>, next: &mut u64) -> Vec<Frame> {
    let mut frames = Vec::new();
    let mut frame = Frame { hello: None, items: Vec::new() };
    let mut bytes = 0;
    for call in group.drain(..) {
        if bytes + call.payload.len() > symbolon_protocol::limits::PEER_ITEM_BYTES && !frame.items.is_empty() {
            frames.push(std::mem::take(&mut frame));
            bytes = 0;
        }
        bytes += call.payload.len();
        *next = next.wrapping_add(1);
        frame.items.push(Item { call: *next, payload: call.payload.into() });
        open.insert(*next, call.answer);
    }
    frames.push(frame);
    frames
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use symbolon_protocol::limits::PEER_ITEM_BYTES;

    use super::*;

    #[test]
    fn calls_share_a_frame_up_to_its_size() {
        let half = PEER_ITEM_BYTES / 2;
        for (second, expected) in [(half, vec![2]), (half + 1, vec![1, 1])] {
            let call = |bytes| Call { payload: vec![7; bytes], answer: oneshot::channel().0 };
            let (mut group, mut open, mut next) = (vec![call(half), call(second)], BTreeMap::new(), 0);
            let frames = frames_of(&mut group, &mut open, &mut next);
            assert!(frames.iter().all(|frame| frame.encoded_len() <= FRAME_BYTES));
            assert_eq!(frames.iter().map(|frame| frame.items.len()).collect::<Vec<_>>(), expected);
            assert_eq!(open.into_keys().collect::<Vec<_>>(), [1, 2], "each call waits under its number");
        }
    }
}
