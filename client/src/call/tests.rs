//! A client and nodes that answer as they are told.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use symbolon_protocol::identity::{Identity, Signature};
use symbolon_protocol::lifecycle::KeyState;
use symbolon_protocol::outcome::Outcome;
use symbolon_protocol::request::RequestBody;
use symbolon_protocol::state::view::KeyView;
use symbolon_protocol::wire::encode;
use symbolon_rpc::convert::STATUS_MESSAGE_BYTES;
use symbolon_rpc::serve::{self, AcceptLimits};
use symbolon_rpc::tls;
use symbolon_rpc::v1::symbolon_server::{Symbolon, SymbolonServer};
use symbolon_rpc::v1::{
    Call, DoctorReply, ExplainReply, HelloReply, HelloRequest, KeyReply, ListClientsReply, ListKeysReply,
    ListMembersReply, ListOperationsReply, OrderReply, SignCall, SignReply, StatusReply,
};
use tokio::net::TcpListener;
use tonic::Code;
use tonic::codegen::http::{HeaderMap, HeaderValue};
use tonic::metadata::MetadataMap;

use super::*;
use crate::client::Config;
use crate::lock;
use crate::trust::tests::{genesis, name, verified};
use crate::verify::tests::signed;

/// Long enough for whatever a busy machine does.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a node does.
#[derive(Default)]
struct Script {
    /// The hello has headers that cannot be read.
    bad_hello: bool,
    /// A key that is shown has.
    bad_key: bool,
    /// How often there is no quorum for what is to be ordered or signed.
    refusals: usize,
    key: Option<KeyView>,
    outcome: Option<Outcome>,
    signature: Option<Signature>,
}

#[derive(Clone)]
struct Node {
    script: Arc<Script>,
    /// What it was to order or to sign.
    heard: Arc<Mutex<Vec<RequestBody>>>,
    address: String,
}

impl Node {
    /// Starts the member with this number.
    async fn start(number: u8, script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let node = Self { script: Arc::new(script), heard: Arc::default(), address };
        let config = tls::client_server_config(&Identity::from_seed(&[number; 32])).unwrap();
        let limits = AcceptLimits { max_connections: 16, max_per_ip: 16, handshake_timeout: PATIENCE };
        let connections = serve::incoming(listener, config.into(), limits);
        let service = SymbolonServer::new(node.clone());
        tokio::spawn(serve::server().add_service(service).serve_with_incoming(connections));
        node
    }

    fn work<T>(&self, call: Call, reply: T) -> Answer<T> {
        let mut heard = lock(&self.heard);
        heard.push(decode(&call.body).unwrap());
        if heard.len() > self.script.refusals {
            return Ok(Response::new(reply));
        }
        Err(convert::to_status(&Refusal::new(ErrorCode::NoQuorum, "nobody leads")))
    }

    fn ids(&self) -> Vec<RequestId> {
        lock(&self.heard).iter().map(|body| body.request_id).collect()
    }
}

type Answer<T> = Result<Response<T>, Status>;

/// A status whose details are no base64: the library below panics when it reads it.
fn unreadable() -> Status {
    let mut headers = HeaderMap::new();
    headers.insert("grpc-status-details-bin", HeaderValue::from_static("!"));
    Status::with_metadata(Code::Internal, "why", MetadataMap::from_headers(headers))
}

#[tonic::async_trait]
impl Symbolon for Node {
    async fn hello(&self, _: Request<HelloRequest>) -> Answer<HelloReply> {
        if self.script.bad_hello {
            return Err(unreadable());
        }
        let cluster_id = Bytes::copy_from_slice(genesis().cluster_id().as_bytes());
        Ok(Response::new(HelloReply {
            oldest: 1,
            newest: 1,
            cluster_id,
            time_ms: crate::now_ms(),
            release: String::new(),
        }))
    }
    async fn order(&self, request: Request<Call>) -> Answer<OrderReply> {
        let outcome = self.script.outcome.as_ref().map(encode).unwrap_or_default();
        self.work(request.into_inner(), OrderReply { index: 7, outcome: outcome.into(), ..Default::default() })
    }
    async fn sign(&self, request: Request<SignCall>) -> Answer<SignReply> {
        let signatures = self.script.signature.iter().map(|one| Bytes::copy_from_slice(one.as_bytes()));
        let reply = SignReply {
            signatures: signatures.collect(),
            version: 1,
            epoch: 1,
            coordinator: 1,
            holders: vec![1, 2],
            attempts: 1,
            certificate: Bytes::new(),
        };
        self.work(request.into_inner().call.unwrap(), reply)
    }
    async fn show_key(&self, _: Request<Call>) -> Answer<KeyReply> {
        if self.script.bad_key {
            return Err(unreadable());
        }
        let key = self.script.key.as_ref().map(encode).unwrap_or_default();
        Ok(Response::new(KeyReply { index: 3, key: key.into(), time_ms: 4 }))
    }
    async fn list_keys(&self, _: Request<Call>) -> Answer<ListKeysReply> {
        Err(Status::unimplemented(""))
    }
    async fn list_clients(&self, _: Request<Call>) -> Answer<ListClientsReply> {
        Err(Status::unimplemented(""))
    }
    async fn list_members(&self, _: Request<Call>) -> Answer<ListMembersReply> {
        Err(Status::unimplemented(""))
    }
    async fn list_operations(&self, _: Request<Call>) -> Answer<ListOperationsReply> {
        Err(Status::unimplemented(""))
    }
    async fn status(&self, _: Request<Call>) -> Answer<StatusReply> {
        Err(Status::unimplemented(""))
    }
    async fn explain(&self, _: Request<Call>) -> Answer<ExplainReply> {
        Err(Status::unimplemented(""))
    }
    async fn doctor(&self, _: Request<Call>) -> Answer<DoctorReply> {
        Err(Status::unimplemented(""))
    }
}

/// A client that asks these nodes in this order, and what it reports.
async fn client(nodes: &[&Node]) -> (Client, Arc<Mutex<Vec<Refusal>>>) {
    let reports = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&reports);
    let mut config = Config::new(genesis(), Identity::from_seed(&[99; 32]));
    config.endpoints = nodes.iter().map(|node| node.address.clone()).collect();
    config.report = Some(Arc::new(move |refusal: &Refusal| lock(&told).push(refusal.clone())));
    (Client::connect(config).await.unwrap(), reports)
}

/// The key `release`, whose id is [50; 32].
fn release() -> KeyView {
    verified(50, KeyState::Active).view
}

#[tokio::test]
async fn headers_that_cannot_be_read_end_the_call_and_nothing_else() {
    let good = Node::start(2, Script { key: Some(release()), ..Script::default() }).await;
    for (bad_hello, bad_key) in [(true, false), (false, true)] {
        let bad = Node::start(1, Script { bad_hello, bad_key, ..Script::default() }).await;
        let (both, reports) = client(&[&bad, &good]).await;
        assert!(both.show_key(&name("release")).await.unwrap().current().is_some());
        let told: Vec<Refusal> = lock(&reports).drain(..).collect();
        assert!(told.len() == 1 && told.iter().all(|one| one.message.starts_with("node node1 (")), "{told:?}");
        let (alone, _) = client(&[&bad]).await;
        let error = alone.show_key(&name("release")).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::BadCertificate, "{error}");
    }
}

#[tokio::test]
async fn the_words_of_a_node_are_cut() {
    let refused = |bytes| Some(Outcome::Refused(Refusal::new(ErrorCode::WrongState, "w".repeat(bytes))));
    for (bytes, expected) in
        [(STATUS_MESSAGE_BYTES, STATUS_MESSAGE_BYTES), (STATUS_MESSAGE_BYTES + 1, STATUS_MESSAGE_BYTES)]
    {
        let script = Script { key: Some(release()), outcome: refused(bytes), ..Script::default() };
        let (client, _) = client(&[&Node::start(1, script).await]).await;
        let error = client.suspend_key(&name("release"), None).await.unwrap_err();
        assert_eq!((error.code(), error.message().len()), (ErrorCode::WrongState, expected));
    }
}

#[tokio::test]
async fn a_key_that_is_not_certified_is_neither_used_nor_changed() {
    let changed = Some(Outcome::KeyChanged { key: KeyId::from_bytes([50; 32]), versions: Vec::new() });
    let good = Node::start(1, Script { key: Some(release()), outcome: changed, ..Script::default() }).await;
    // Nothing is taken away by it, so nobody has to prove how far that is known.
    assert!(client(&[&good]).await.0.resume_key(&name("release"), None).await.is_ok());
    assert_eq!(good.ids().len(), 1);

    // The id of another key under this one's name, without the certificate that would give the lie away.
    let mut key = KeyView { id: KeyId::from_bytes([51; 32]), current: None, ..release() };
    key.versions.iter_mut().for_each(|version| version.certificate = None);
    let liar = Node::start(1, Script { key: Some(key), ..Script::default() }).await;
    let (client, _) = client(&[&liar]).await;
    let release = name("release");
    for error in [
        client.sign(&release, b"a message").await.map(drop).unwrap_err(),
        client.suspend_key(&release, None).await.map(drop).unwrap_err(),
        client.revoke_key(&release, None, "why").await.map(drop).unwrap_err(),
        client.destroy_key(&release, None, &release, Duration::ZERO).await.map(drop).unwrap_err(),
    ] {
        assert_eq!(error.code(), ErrorCode::WrongState, "{error}");
    }
    assert!(liar.ids().is_empty());
}

#[tokio::test]
async fn each_round_has_another_request_for_signatures() {
    let (message, signature) = signed(50, b"payload");
    let script = |refusals| Script { refusals, key: Some(release()), signature: Some(signature), ..Script::default() };
    let (first, second) = (Node::start(1, script(9)).await, Node::start(2, script(2)).await);
    let (client, _) = client(&[&first, &second]).await;
    let outcome = client.sign(&name("release"), &message).await.unwrap();
    let asked = second.ids();
    assert_eq!(asked.iter().collect::<BTreeSet<_>>().len(), 3, "{asked:?}");
    assert_eq!(first.ids(), asked, "in one round everybody gets the same");
    assert_eq!(asked.last(), Some(&outcome.request_id));
}

#[tokio::test]
async fn an_ordered_request_stays_the_same() {
    let changed = Some(Outcome::KeyChanged { key: KeyId::from_bytes([50; 32]), versions: Vec::new() });
    let script = Script { refusals: 2, key: Some(release()), outcome: changed, ..Script::default() };
    let node = Node::start(1, script).await;
    let change = client(&[&node]).await.0.resume_key(&name("release"), None).await.unwrap();
    assert_eq!(node.ids(), [change.request_id; 3]);
}

#[test]
fn an_expired_request_says_how_far_the_clocks_differ() {
    let expired = Refusal::new(ErrorCode::RequestExpired, "the request expired 30 s ago by the clock of this node");
    let behind = with_clocks(expired.clone(), "node1", -90_400);
    assert!(behind.message.ends_with("this machine's clock is 90 s behind that of node1"), "{}", behind.message);
    assert_eq!(behind.details.get("clock_difference_seconds"), Some(&Detail::Number(90)));
    assert!(with_clocks(expired, "node1", 61_000).message.contains("61 s ahead of"));
}
