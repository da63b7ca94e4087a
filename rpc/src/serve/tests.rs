//! The accept loop against strangers, and calls over the whole stack.

use std::net::Ipv4Addr;

use symbolon_protocol::error::{Detail, ErrorCode, Refusal};
use symbolon_protocol::identity::Identity;
use tokio::io::AsyncReadExt as _;
use tokio_stream::StreamExt as _;
use tonic::{Request, Response, Status, Streaming};

use super::*;
use crate::convert::{from_status, to_status};
use crate::v1::peer_client::PeerClient;
use crate::v1::peer_server::{Peer, PeerServer};
use crate::v1::{Frame, PeerHello};

/// Long enough for whatever a busy machine does; reached only when something hangs.
const PATIENCE: Duration = Duration::from_secs(60);

fn node(number: u8) -> Identity {
    Identity::from_seed(&[number; 32])
}

fn limits(max_connections: usize, max_per_ip: usize) -> AcceptLimits {
    AcceptLimits { max_connections, max_per_ip, handshake_timeout: PATIENCE }
}

/// A listener of node 1 for clients, and its address.
async fn listen(limits: AcceptLimits) -> (impl Stream<Item = io::Result<Conn>> + Send + Unpin, SocketAddr) {
    listen_with(tls::client_server_config(&node(1)).unwrap(), limits).await
}

/// A listener of node 1 for nodes 2 and 3, and its address.
async fn listen_to_peers(limits: AcceptLimits) -> (impl Stream<Item = io::Result<Conn>> + Send + Unpin, SocketAddr) {
    let members = tls::only([node(2).public(), node(3).public()]);
    listen_with(tls::peer_server_config(&node(1), members).unwrap(), limits).await
}

async fn listen_with(
    config: Arc<rustls::ServerConfig>,
    limits: AcceptLimits,
) -> (impl Stream<Item = io::Result<Conn>> + Send + Unpin, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (incoming(listener, TlsAcceptor::from(config), limits), address)
}

async fn dial(address: SocketAddr) -> io::Result<client::TlsStream<TcpStream>> {
    shake_hands(TcpStream::connect(address).await?).await
}

/// The client's side of a handshake, over a connection that is there.
async fn shake_hands(tcp: TcpStream) -> io::Result<client::TlsStream<TcpStream>> {
    let config = tls::client_config(tls::only([node(1).public()])).unwrap();
    TlsConnector::from(config).connect(ServerName::try_from(SERVER_NAME).unwrap(), tcp).await
}

async fn dial_as(number: u8, address: SocketAddr) -> io::Result<client::TlsStream<TcpStream>> {
    let config = tls::peer_client_config(&node(number), node(1).public()).unwrap();
    connect(&address.to_string(), &TlsConnector::from(config)).await
}

async fn next(connections: &mut (impl Stream<Item = io::Result<Conn>> + Unpin)) -> Conn {
    timeout(PATIENCE, connections.next()).await.unwrap().unwrap().unwrap()
}

/// Whether the other side has closed, or does so in time.
async fn closed(stream: &mut (impl AsyncRead + Unpin)) -> bool {
    matches!(timeout(PATIENCE, stream.read(&mut [0; 1])).await.unwrap(), Ok(0) | Err(_))
}

#[tokio::test]
async fn a_silent_stranger_is_dropped_and_holds_up_nobody() {
    let short = AcceptLimits { handshake_timeout: Duration::from_secs(1), ..limits(4, 4) };
    let (mut connections, address) = listen(short).await;
    let mut silent = TcpStream::connect(address).await.unwrap();
    let (client, connection) = tokio::join!(dial(address), next(&mut connections));
    assert!(client.is_ok());
    assert_eq!(connection.connect_info().peer, None);
    assert!(closed(&mut silent).await);
}

#[tokio::test]
async fn a_failed_handshake_ends_nothing() {
    let (mut connections, address) = listen(limits(1, 1)).await;
    let config = tls::client_config(tls::only([node(2).public()])).unwrap();
    assert!(connect(&address.to_string(), &TlsConnector::from(config)).await.is_err());
    // Its slots come back a moment after the client has seen the failure.
    let client = tokio::spawn(async move {
        loop {
            if let Ok(stream) = dial(address).await {
                return stream;
            }
        }
    });
    next(&mut connections).await;
    client.await.unwrap();
}

#[tokio::test]
async fn beyond_the_cap_connections_wait() {
    let (mut connections, address) = listen(limits(1, 4)).await;
    let (_first, connection) = tokio::join!(dial(address), next(&mut connections));
    let second = tokio::spawn(dial(address));
    assert!(timeout(Duration::from_millis(200), connections.next()).await.is_err());
    drop(connection);
    next(&mut connections).await;
    assert!(second.await.unwrap().is_ok());
}

#[tokio::test]
async fn beyond_the_cap_of_one_address_connections_are_closed() {
    let (mut connections, address) = listen(limits(4, 1)).await;
    let (_first, connection) = tokio::join!(dial(address), next(&mut connections));
    assert!(dial(address).await.is_err());
    drop(connection);
    let (third, _connection) = tokio::join!(dial(address), next(&mut connections));
    assert!(third.is_ok());
}

#[tokio::test]
async fn beyond_the_cap_of_one_identity_connections_are_closed() {
    let (mut connections, address) = listen_to_peers(limits(64, 64)).await;
    let mut open = Vec::new();
    for _ in 0..MAX_PER_IDENTITY {
        let (client, connection) = tokio::join!(dial_as(2, address), next(&mut connections));
        open.push((client.unwrap(), connection));
    }
    // A client's handshake is over before the server knows who it is.
    let mut over = dial_as(2, address).await.unwrap();
    assert!(closed(&mut over).await);
    let (_other, connection) = tokio::join!(dial_as(3, address), next(&mut connections));
    assert_eq!(connection.connect_info().peer, Some(node(3).public()), "another member has places of its own");
    open.pop();
    let (_again, connection) = tokio::join!(dial_as(2, address), next(&mut connections));
    assert_eq!(connection.connect_info().peer, Some(node(2).public()), "a place that came back");
}

#[tokio::test]
async fn silent_strangers_take_places_from_each_other() {
    // Half of the four places are for handshakes, and nothing but the third one ends the first.
    let patient = AcceptLimits { handshake_timeout: 2 * PATIENCE, ..limits(4, 4) };
    let (mut connections, address) = listen(patient).await;
    let first = TcpStream::connect(address).await.unwrap();
    let (client, connection) = tokio::join!(dial(address), next(&mut connections));
    assert!(client.is_ok());
    drop((client, connection));
    let (late, connection) = tokio::join!(shake_hands(first), next(&mut connections));
    assert!(late.is_ok(), "at the limit nobody is given up");
    drop((late, connection));

    let mut oldest = TcpStream::connect(address).await.unwrap();
    let second = TcpStream::connect(address).await.unwrap();
    let (client, _served) = tokio::join!(dial(address), next(&mut connections));
    assert!(client.is_ok());
    assert!(closed(&mut oldest).await);
    let (late, _served) = tokio::join!(shake_hands(second), next(&mut connections));
    assert!(late.is_ok(), "only the oldest is given up");
}

#[tokio::test]
async fn silence_behind_the_handshake_ends_too() {
    let short = AcceptLimits { handshake_timeout: Duration::from_secs(1), ..limits(1, 1) };
    let (mut connections, address) = listen(short).await;
    let (_client, mut connection) = tokio::join!(dial(address), next(&mut connections));
    let error = timeout(PATIENCE, connection.read(&mut [0; 64])).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
}

#[tokio::test]
async fn a_dropped_stream_closes_the_listener() {
    let (connections, address) = listen(limits(1, 1)).await;
    drop(connections);
    let refused = async {
        while let Ok(mut stream) = TcpStream::connect(address).await {
            assert!(closed(&mut stream).await);
        }
    };
    timeout(PATIENCE, refused).await.unwrap();
}

#[test]
fn sources_are_counted_and_forgotten() {
    let sources = Sources::new(2);
    let enter = |address: IpAddr| sources.enter(source_of(address));
    let v4 = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    let mapped = IpAddr::V6(Ipv4Addr::new(192, 0, 2, 1).to_ipv6_mapped());
    let (first, second) = (enter(v4), enter(mapped));
    assert!(first.is_some() && second.is_some() && enter(v4).is_none());
    let one: IpAddr = "2001:db8::1".parse().unwrap();
    let same_network: IpAddr = "2001:db8::ffff:0:0:2".parse().unwrap();
    let other_network: IpAddr = "2001:db8:0:1::1".parse().unwrap();
    let third = (enter(one), enter(same_network));
    assert!(enter(one).is_none() && enter(other_network).is_some());
    drop((first, third));
    assert!(enter(v4).is_some());
    drop(second);
    assert!(sources.lock().is_empty());
}

/// Answers with the key of whoever asks, and refuses work.
struct Echo;

type Frames = Pin<Box<dyn Stream<Item = Result<Frame, Status>> + Send>>;

fn refusal() -> Refusal {
    Refusal::new(ErrorCode::NotFresh, "this node lags behind").with("index", Detail::Number(7))
}

#[tonic::async_trait]
impl Peer for Echo {
    type RaftStream = Frames;
    type WorkStream = Frames;
    async fn raft(&self, request: Request<Streaming<Frame>>) -> Result<Response<Frames>, Status> {
        let peer = request.extensions().get::<PeerInfo>().unwrap().peer.unwrap();
        let boot = peer.as_bytes().to_vec().into();
        let hello = PeerHello { boot, ..PeerHello::default() };
        let frame = Frame { hello: Some(hello), ..Frame::default() };
        Ok(Response::new(Box::pin(tokio_stream::iter([Ok(frame), Err(to_status(&refusal()))]))))
    }
    async fn work(&self, _: Request<Streaming<Frame>>) -> Result<Response<Frames>, Status> {
        Err(to_status(&refusal()))
    }
}

#[tokio::test]
async fn calls_over_the_whole_stack() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let acceptor = TlsAcceptor::from(tls::peer_server_config(&node(1), tls::only([node(2).public()])).unwrap());
    let connections = incoming(listener, acceptor, limits(4, 4));
    let served = tokio::spawn(server().add_service(PeerServer::new(Echo)).serve_with_incoming(connections));

    let config = tls::peer_client_config(&node(2), node(1).public()).unwrap();
    let mut client = PeerClient::new(channel(address.clone(), config, PATIENCE));
    let mut frames = client.raft(tokio_stream::pending()).await.unwrap().into_inner();
    let hello = frames.message().await.unwrap().unwrap().hello.unwrap();
    assert_eq!(hello.boot, node(2).public().as_bytes().as_slice());
    assert_eq!(from_status(&frames.message().await.unwrap_err()), refusal(), "a refusal in the trailers");
    let status = client.work(tokio_stream::pending()).await.unwrap_err();
    assert_eq!(from_status(&status), refusal(), "a refusal in the headers");

    // The server is not who it should be.
    let config = tls::peer_client_config(&node(2), node(3).public()).unwrap();
    let mut client = PeerClient::new(channel(address.clone(), config, PATIENCE));
    let status = client.work(tokio_stream::pending()).await.unwrap_err();
    assert_eq!(from_status(&status).code, ErrorCode::Unreachable);

    // The client is not who it should be.
    let config = tls::peer_client_config(&node(4), node(1).public()).unwrap();
    let mut client = PeerClient::new(channel(address, config, PATIENCE));
    let status = client.work(tokio_stream::pending()).await.unwrap_err();
    assert_eq!(from_status(&status).code, ErrorCode::Unreachable, "{status:?}");
    served.abort();
}

/// Opens streams and says nothing on them.
struct Silent;

#[tonic::async_trait]
impl Peer for Silent {
    type RaftStream = Frames;
    type WorkStream = Frames;
    async fn raft(&self, _: Request<Streaming<Frame>>) -> Result<Response<Frames>, Status> {
        Ok(Response::new(Box::pin(tokio_stream::pending())))
    }
    async fn work(&self, _: Request<Streaming<Frame>>) -> Result<Response<Frames>, Status> {
        Ok(Response::new(Box::pin(tokio_stream::pending())))
    }
}

#[tokio::test]
async fn beyond_the_cap_of_one_connection_calls_wait() {
    let (connections, address) = listen_to_peers(limits(4, 4)).await;
    let served = tokio::spawn(server().add_service(PeerServer::new(Silent)).serve_with_incoming(connections));
    let config = tls::peer_client_config(&node(2), node(1).public()).unwrap();
    let mut client = PeerClient::new(channel(address.to_string(), config, PATIENCE));
    let mut open = Vec::new();
    for _ in 0..MAX_STREAMS {
        let stream = timeout(PATIENCE, client.raft(tokio_stream::empty())).await.unwrap();
        open.push(stream.unwrap());
    }
    let mut waiting = std::pin::pin!(client.raft(tokio_stream::empty()));
    assert!(timeout(Duration::from_millis(200), waiting.as_mut()).await.is_err());
    open.pop();
    assert!(timeout(PATIENCE, waiting).await.unwrap().is_ok());
    served.abort();
}

#[tokio::test]
async fn a_server_that_says_nothing_is_unreachable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = tls::peer_client_config(&node(2), node(1).public()).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut client = PeerClient::new(channel(address, config, Duration::from_millis(200)));
    let status = client.work(tokio_stream::pending()).await.unwrap_err();
    assert_eq!(from_status(&status).code, ErrorCode::Unreachable, "{status:?}");
}
