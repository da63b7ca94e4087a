//! Answering the peers.

use std::pin::Pin;
use std::sync::Arc;

use symbolon_protocol::error::{ErrorCode, Refusal};
use symbolon_protocol::genesis::Genesis;
use symbolon_protocol::id::{BootId, ClusterId, NodeId};
use symbolon_rpc::convert::to_status;
use symbolon_rpc::serve::PeerInfo;
use symbolon_rpc::v1::peer_server::{Peer, PeerServer};
use symbolon_rpc::v1::{Frame, Item};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{CALLS_OPEN, FRAME_BYTES, ITEMS_PER_FRAME, check_hello, hello, member_with};
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
    genesis: Arc<Genesis>,
    cluster: ClusterId,
    boot: BootId,
    answering: A,
}

impl<A: Answering> PeerService<A> {
    /// The service, ready to be served.
    pub fn server(genesis: Arc<Genesis>, boot: BootId, answering: A) -> PeerServer<Self> {
        let cluster = genesis.cluster_id();
        PeerServer::new(Self { genesis, cluster, boot, answering })
            .max_decoding_message_size(FRAME_BYTES)
            .max_encoding_message_size(FRAME_BYTES)
    }

    fn caller<T>(&self, request: &Request<T>) -> Result<NodeId, Status> {
        let key = request.extensions().get::<PeerInfo>().and_then(|info| info.peer);
        key.and_then(|key| member_with(&self.genesis, &key))
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
        tokio::spawn(serve(self.answering.clone(), from, lane, calls, frames));
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

/// Answers every call of a stream, many at a time, and sends answers back in shared frames.
async fn serve<A: Answering>(
    answering: A,
    from: NodeId,
    lane: Lane,
    mut calls: Streaming<Frame>,
    frames: mpsc::Sender<Result<Frame, Status>>,
) {
    let (answers, ready) = mpsc::channel(CALLS_OPEN);
    tokio::spawn(send_answers(ready, frames));
    let room = Arc::new(Semaphore::new(CALLS_OPEN));
    while let Ok(Some(frame)) = calls.message().await {
        if frame.items.len() > ITEMS_PER_FRAME {
            return;
        }
        for item in frame.items {
            // A peer that asks faster than this node answers waits here, on its own stream.
            let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
            let (answering, answers) = (answering.clone(), answers.clone());
            tokio::spawn(async move {
                let payload = answering.answer(from, lane, item.payload.to_vec()).await;
                let _ = answers.send(Item { call: item.call, payload: payload.into() }).await;
                drop(permit);
            });
        }
    }
}

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
