//! Answering the peers. Each has one live stream on each lane: a newer one takes the place of the one before, which may have
//! died unseen.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use symbolon_protocol::error::{ErrorCode, Refusal};
use symbolon_protocol::id::{BootId, ClusterId, NodeId};
use symbolon_rpc::convert::to_status;
use symbolon_rpc::serve::PeerInfo;
use symbolon_rpc::v1::peer_server::{Peer, PeerServer};
use symbolon_rpc::v1::{Frame, Item};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{CALLS_OPEN, FRAME_BYTES, ITEMS_PER_FRAME, Peers, check_hello, hello};
use crate::core::lock;
use crate::core::types::Lane;

/// Whoever answers calls of peers.
pub trait Answering: Clone + Send + Sync + 'static {
    /// A peer opened a stream and says which boot it is.
    ///
    /// # Errors
    /// [`Refusal`] when its store is older than what this node saw of it.
    fn greet(&self, from: NodeId, boot: BootId) -> impl Future<Output = Result<(), Refusal>> + Send;

    /// Answers a call.
    fn answer(&self, from: NodeId, lane: Lane, call: Vec<u8>) -> impl Future<Output = Vec<u8>> + Send;
}

/// The peer service.
pub struct PeerService<A> {
    peers: Peers,
    cluster: ClusterId,
    boot: BootId,
    answering: A,
    live: Live,
}

impl<A: Answering> PeerService<A> {
    /// The service, ready to be served.
    pub fn server(peers: Peers, cluster: ClusterId, boot: BootId, answering: A) -> PeerServer<Self> {
        PeerServer::new(Self { peers, cluster, boot, answering, live: Live::default() })
            .max_decoding_message_size(FRAME_BYTES)
            .max_encoding_message_size(FRAME_BYTES)
    }

    fn caller<T>(&self, request: &Request<T>) -> Result<NodeId, Status> {
        let key = request.extensions().get::<PeerInfo>().and_then(|info| info.peer);
        key.and_then(|key| self.peers.with(&key))
            .ok_or_else(|| to_status(&Refusal::new(ErrorCode::PermissionDenied, "no member of the cluster")))
    }

    async fn open(&self, request: Request<Streaming<Frame>>, lane: Lane) -> Result<Response<Frames>, Status> {
        let from = self.caller(&request)?;
        let mut calls = request.into_inner();
        let first = calls.message().await?;
        let theirs = first.and_then(|frame| frame.hello);
        let theirs = theirs.ok_or_else(|| to_status(&Refusal::new(ErrorCode::PeerMisbehaved, "no hello")))?;
        let boot = check_hello(&self.cluster, &theirs).map_err(|refusal| to_status(&refusal))?;
        self.answering.greet(from, boot).await.map_err(|refusal| to_status(&refusal))?;
        let (frames, outgoing) = mpsc::channel(16);
        let greeting = Frame { hello: Some(hello(&self.cluster, self.boot)), items: Vec::new() };
        // The channel has room: nobody else has it yet.
        let _ = frames.try_send(Ok(greeting));
        let (room, replaced) = self.live.begin(from, lane);
        let serving = Serving { answering: self.answering.clone(), peers: self.peers.clone(), from, lane, room };
        tokio::spawn(serving.run(calls, frames, replaced));
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing)) as Frames))
    }
}

type Frames = Pin<Box<dyn Stream<Item = Result<Frame, Status>> + Send>>;

#[tonic::async_trait]
impl<A: Answering> Peer for PeerService<A> {
    type RaftStream = Frames;
    type WorkStream = Frames;

    async fn raft(&self, request: Request<Streaming<Frame>>) -> Result<Response<Frames>, Status> {
        self.open(request, Lane::Raft).await
    }
    async fn work(&self, request: Request<Streaming<Frame>>) -> Result<Response<Frames>, Status> {
        self.open(request, Lane::Work).await
    }
}

/// What is open of one peer on one lane.
struct Open {
    /// Dropped when a newer stream takes the place of this one, which ends it.
    _stream: oneshot::Sender<()>,
    /// Room for calls: that of the peer, so that a new stream brings none.
    room: Arc<Semaphore>,
}

/// The live stream of each peer on each lane.
#[derive(Default)]
struct Live(Mutex<BTreeMap<(NodeId, Lane), Open>>);

impl Live {
    /// Begins a stream and ends the one before. Gives room for calls, and what completes when this stream is replaced.
    fn begin(&self, from: NodeId, lane: Lane) -> (Arc<Semaphore>, oneshot::Receiver<()>) {
        let (stream, replaced) = oneshot::channel();
        let mut live = lock(&self.0);
        let room = live.get(&(from, lane)).map(|open| Arc::clone(&open.room));
        let room = room.unwrap_or_else(|| Arc::new(Semaphore::new(CALLS_OPEN)));
        live.insert((from, lane), Open { _stream: stream, room: Arc::clone(&room) });
        (room, replaced)
    }
}

/// One stream of a peer.
struct Serving<A> {
    answering: A,
    peers: Peers,
    from: NodeId,
    lane: Lane,
    room: Arc<Semaphore>,
}

impl<A: Answering> Serving<A> {
    /// Serves until the stream ends or is replaced, or the peer is none any more.
    async fn run(
        self,
        calls: Streaming<Frame>,
        frames: mpsc::Sender<Result<Frame, Status>>,
        replaced: oneshot::Receiver<()>,
    ) {
        let (answers, ready) = mpsc::channel(CALLS_OPEN);
        let sending = tokio::spawn(send_answers(ready, frames));
        let sender = sending.abort_handle();
        let served = async {
            self.answer_all(calls, answers).await;
            // What was asked before the peer stopped asking is still answered.
            let _ = sending.await;
        };
        tokio::select! {
            () = served => {}
            _ = replaced => {
                tracing::debug!(peer = %self.from, lane = ?self.lane, "a newer stream takes the place of this one");
                sender.abort();
            }
            () = self.peers.left(self.from) => {
                tracing::info!(peer = %self.from, lane = ?self.lane, "a node that left the cluster is cut off");
                sender.abort();
            }
        }
    }

    /// Answers every call of a stream, many at a time.
    async fn answer_all(&self, mut calls: Streaming<Frame>, answers: mpsc::Sender<Item>) {
        while let Ok(Some(frame)) = calls.message().await {
            if frame.items.len() > ITEMS_PER_FRAME {
                return;
            }
            for item in frame.items {
                // A peer that asks faster than this node answers waits here, on its own stream.
                let Ok(permit) = Arc::clone(&self.room).acquire_owned().await else { return };
                let (answering, answers, from, lane) = (self.answering.clone(), answers.clone(), self.from, self.lane);
                tokio::spawn(async move {
                    let payload = answering.answer(from, lane, item.payload.to_vec()).await;
                    let _ = answers.send(Item { call: item.call, payload: payload.into() }).await;
                    drop(permit);
                });
            }
        }
    }
}

/// Sends answers back in shared frames.
async fn send_answers(mut ready: mpsc::Receiver<Item>, frames: mpsc::Sender<Result<Frame, Status>>) {
    let mut group = Vec::new();
    while ready.recv_many(&mut group, ITEMS_PER_FRAME).await > 0 {
        let mut frame = Frame { hello: None, items: Vec::new() };
        let mut bytes = 0;
        for item in group.drain(..) {
            if bytes + item.payload.len() > symbolon_protocol::limits::PEER_ITEM_BYTES && !frame.items.is_empty() {
                if frames.send(Ok(std::mem::take(&mut frame))).await.is_err() {
                    return;
                }
                bytes = 0;
            }
            bytes += item.payload.len();
            frame.items.push(item);
        }
        if frames.send(Ok(frame)).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests;
