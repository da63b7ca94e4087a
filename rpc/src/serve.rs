//! The ends of a connection: an accept loop for servers, a channel for clients.
//!
//! The accept loop is ours because tonic's has no deadline for a handshake and no cap on connections. A stranger who
//! connects and says nothing costs one slot until a deadline; from one address only so many slots can be taken, and with
//! unfinished handshakes only half of them.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use symbolon_protocol::identity::PublicKey;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Sleep, sleep, timeout};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server::TlsStream};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Endpoint, Server, Uri};

use crate::tls::{self, ALPN_H2, SERVER_NAME};

/// A connection is asked for a sign of life when it was silent for this long.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// A connection is closed when no sign of life came for this long after it was asked for.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// What one stream may have on the way, bytes.
pub const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// What one connection may have on the way, bytes: more than one stream may, so that no stream blocks the others.
pub const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;

/// Connections at once of one identity on a listener that asks for one: two streams, those of a start before, and room.
const MAX_PER_IDENTITY: usize = 16;

/// Pause after a failed `accept`: out of file descriptors, it would fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// What an HTTP/2 client says first, bytes.
const PREFACE_BYTES: usize = 24;

/// What a listener takes.
#[derive(Debug, Clone, Copy)]
pub struct AcceptLimits {
    /// Connections at once, handshakes included. More wait in the kernel's queue.
    pub max_connections: usize,
    /// Connections at once from one IPv4 address or one IPv6 /64, handshakes included. More are closed.
    pub max_per_ip: usize,
    /// Time for the TLS handshake, and as much again for the first words of HTTP/2.
    pub handshake_timeout: Duration,
}

/// Who is on the other side; handlers find it in `request.extensions()`.
#[derive(Debug, Clone, Copy)]
pub struct PeerInfo {
    /// Where the connection comes from.
    pub remote: SocketAddr,
    /// The identity key that the other side proved; none on the listener for clients.
    pub peer: Option<PublicKey>,
}

/// Connections of `listener` whose handshake is done. The stream yields no errors, and ends only with the runtime; the
/// listener is closed when the stream is dropped.
///
/// Call it inside a tokio runtime.
pub fn incoming(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    limits: AcceptLimits,
) -> impl Stream<Item = io::Result<Conn>> + Send + Unpin {
    let (ready, connections) = mpsc::channel(1);
    tokio::spawn(accept_loop(listener, acceptor, limits, ready));
    ReceiverStream::new(connections)
}

async fn accept_loop(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    limits: AcceptLimits,
    ready: mpsc::Sender<io::Result<Conn>>,
) {
    let slots = Arc::new(Semaphore::new(limits.max_connections.min(Semaphore::MAX_PERMITS)));
    let sources = Sources::new(limits.max_per_ip);
    let mut handshakes = Handshakes::new(limits.max_connections.div_ceil(2));
    let identities = Sources::new(MAX_PER_IDENTITY);
    let door = Door { acceptor, identities, deadline: limits.handshake_timeout, ready: ready.clone() };
    let mut failing = false;
    loop {
        // The slot comes first, so that nothing is accepted that cannot be served.
        let slot = tokio::select! {
            () = ready.closed() => return,
            slot = Arc::clone(&slots).acquire_owned() => slot,
        };
        let Ok(slot) = slot else { return };
        let accepted = tokio::select! {
            () = ready.closed() => return,
            accepted = listener.accept() => accepted,
        };
        let (tcp, remote) = match accepted {
            Ok(accepted) => {
                failing = false;
                accepted
            }
            Err(error) => {
                // Said once, not twenty times a second.
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(%error, "cannot accept connections");
                }
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(source) = sources.enter(source_of(remote.ip())) else {
            tracing::debug!(%remote, "too many connections from this address");
            continue;
        };
        handshakes.begin(door.clone().admit(tcp, remote, slot, source));
    }
}

/// Handshakes that are not finished. With more than `limit` of them the oldest is given up: strangers who say nothing take
/// places from each other and not from those who speak.
struct Handshakes {
    limit: usize,
    tasks: JoinSet<()>,
    /// The oldest first.
    unfinished: VecDeque<AbortHandle>,
}

impl Handshakes {
    fn new(limit: usize) -> Self {
        Self { limit, tasks: JoinSet::new(), unfinished: VecDeque::new() }
    }

    fn begin(&mut self, handshake: impl Future<Output = ()> + Send + 'static) {
        while self.tasks.try_join_next().is_some() {}
        self.unfinished.retain(|task| !task.is_finished());
        if self.unfinished.len() >= self.limit
            && let Some(oldest) = self.unfinished.pop_front()
        {
            oldest.abort();
        }
        self.unfinished.push_back(self.tasks.spawn(handshake));
    }
}

/// What becomes of an accepted connection.
#[derive(Clone)]
struct Door {
    acceptor: TlsAcceptor,
    identities: Arc<Sources<[u8; 32]>>,
    deadline: Duration,
    ready: mpsc::Sender<io::Result<Conn>>,
}

impl Door {
    /// Shakes hands and hands the connection on.
    async fn admit(self, tcp: TcpStream, remote: SocketAddr, slot: OwnedSemaphorePermit, source: Source<IpAddr>) {
        let (tls, peer) = match handshake(tcp, &self.acceptor, self.deadline).await {
            Ok(done) => done,
            Err(error) => {
                tracing::debug!(%remote, %error, "no connection");
                return;
            }
        };
        // One member must not take the places of the others.
        let identity = peer.map(|peer| self.identities.enter(*peer.as_bytes()));
        if identity.as_ref().is_some_and(Option::is_none) {
            tracing::debug!(%remote, "too many connections of this identity");
            return;
        }
        let preface = Preface { missing: PREFACE_BYTES, deadline: Box::pin(sleep(self.deadline)) };
        let connection = Conn {
            tls,
            info: PeerInfo { remote, peer },
            preface: Some(preface),
            _slot: slot,
            _source: source,
            _identity: identity.flatten(),
        };
        // Fails only when the server has stopped.
        let _ = self.ready.send(Ok(connection)).await;
    }
}

async fn handshake(
    tcp: TcpStream,
    acceptor: &TlsAcceptor,
    deadline: Duration,
) -> io::Result<(TlsStream<TcpStream>, Option<PublicKey>)> {
    tcp.set_nodelay(true)?;
    let tls = timeout(deadline, acceptor.accept(tcp)).await??;
    let (_, session) = tls.get_ref();
    if session.alpn_protocol() != Some(ALPN_H2) {
        return Err(io::Error::other("the other side does not ask for h2"));
    }
    let peer = session.peer_certificates().map(tls::peer_key).transpose().map_err(io::Error::other)?;
    Ok((tls, peer))
}

/// Connections per source, or per identity.
#[derive(Debug)]
struct Sources<K> {
    limit: usize,
    open: Mutex<HashMap<K, usize>>,
}

impl<K: Eq + Hash + Copy> Sources<K> {
    fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, open: Mutex::default() })
    }
    fn enter(self: &Arc<Self>, name: K) -> Option<Source<K>> {
        let mut open = self.lock();
        let count = open.get(&name).copied().unwrap_or(0);
        if count >= self.limit {
            return None;
        }
        open.insert(name, count + 1);
        Some(Source { name, sources: Arc::clone(self) })
    }
    fn lock(&self) -> MutexGuard<'_, HashMap<K, usize>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What counts as one source. Whoever has one IPv6 address has the whole /64.
fn source_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// One connection counted for its source, until it is dropped.
#[derive(Debug)]
struct Source<K: Eq + Hash + Copy> {
    name: K,
    sources: Arc<Sources<K>>,
}

impl<K: Eq + Hash + Copy> Drop for Source<K> {
    fn drop(&mut self) {
        let mut open = self.sources.lock();
        match open.get_mut(&self.name) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(open.remove(&self.name)),
        }
    }
}

/// The first words of HTTP/2 are due by a deadline: keepalive begins only behind them.
#[derive(Debug)]
struct Preface {
    missing: usize,
    deadline: Pin<Box<Sleep>>,
}

/// A connection with its handshake done; it holds its slots until it is dropped.
#[derive(Debug)]
pub struct Conn {
    tls: TlsStream<TcpStream>,
    info: PeerInfo,
    preface: Option<Preface>,
    _slot: OwnedSemaphorePermit,
    _source: Source<IpAddr>,
    _identity: Option<Source<[u8; 32]>>,
}

impl Connected for Conn {
    type ConnectInfo = PeerInfo;
    fn connect_info(&self) -> PeerInfo {
        self.info
    }
}

impl AsyncRead for Conn {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.tls).poll_read(cx, buf);
        if let Some(preface) = &mut self.preface {
            preface.missing = preface.missing.saturating_sub(buf.filled().len().saturating_sub(before));
            if preface.missing == 0 {
                self.preface = None;
            } else if polled.is_pending() && preface.deadline.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        polled
    }
}

impl AsyncWrite for Conn {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(cx, buf)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }
}

/// Calls at the same time on one connection; further ones wait at the client.
pub const MAX_STREAMS: u32 = 64;

/// A server with the settings of these connections, for [`incoming`]. Without its keepalive a client that vanished would
/// hold its slot for ever.
#[must_use]
pub fn server() -> Server {
    Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
}

/// A channel to `address` (`host:port`) that connects when it is first used, and again after it broke.
///
/// The deadline covers name resolution, TCP and TLS together. Call it inside a tokio runtime.
pub fn channel(address: String, config: Arc<ClientConfig>, connect_timeout: Duration) -> Channel {
    let connector = TlsConnector::from(config);
    let address: Arc<str> = address.into();
    // The address is the connector's business. The scheme is "http" because tonic would want its own TLS for "https".
    Endpoint::from_static("http://symbolon-node")
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
            let (address, connector) = (Arc::clone(&address), connector.clone());
            async move { timeout(connect_timeout, connect(&address, &connector)).await?.map(TokioIo::new) }
        }))
}

async fn connect(address: &str, connector: &TlsConnector) -> io::Result<client::TlsStream<TcpStream>> {
    let name = ServerName::try_from(SERVER_NAME).map_err(io::Error::other)?;
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    connector.connect(name, tcp).await
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests;
