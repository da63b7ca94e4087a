//! A network that misbehaves: it carries TCP connections late, slowly, not at all, or breaks them.
//!
//! - [`Line`] is how one direction carries, [`Switch`] changes it while connections are open.
//! - [`carry`] carries the bytes of one connection both ways; [`Forward`] does so for every connection to an address.
//! - [`crate::network`] puts it between the nodes of a cluster.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand_core::{OsRng, RngCore as _};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf, split};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// What one direction may have on the way, bytes; the sender waits when it is full.
const ON_THE_WAY: usize = 4 << 20;
/// Read at once, bytes.
const CHUNK: usize = 64 << 10;
/// How long the other end may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(2);

/// What becomes of the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Flow {
    /// They arrive.
    #[default]
    Open,
    /// They are held back; those that fit on the way arrive once the line is open again.
    Stalled,
    /// They vanish without a word, as behind a broken router. A connection that lost any never carries in this direction again.
    Lost,
    /// Connections are reset, open ones and those that come.
    Cut,
}

/// How one direction carries bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Line {
    /// Time on the way.
    pub delay: Duration,
    /// A random time on top, at most this. Nothing overtakes what was sent before.
    pub jitter: Duration,
    /// Bytes per second, as many as there are without it.
    pub rate: Option<u64>,
    /// What becomes of the bytes.
    pub flow: Flow,
}

impl Line {
    /// One that carries at once, or does not.
    #[must_use]
    pub fn flowing(flow: Flow) -> Self {
        Self { flow, ..Self::default() }
    }
    /// One that carries after a while.
    #[must_use]
    pub fn late(delay: Duration, jitter: Duration) -> Self {
        Self { delay, jitter, ..Self::default() }
    }

    /// When bytes that were read now arrive, not before those read earlier.
    fn arrival(&self, bytes: usize, earlier: Instant) -> Instant {
        let jitter = Duration::from_nanos(match u64::try_from(self.jitter.as_nanos()).unwrap_or(u64::MAX) {
            0 => 0,
            most => OsRng.next_u64() % most,
        });
        let sent = (Instant::now() + self.delay + jitter).max(earlier);
        match self.rate {
            Some(rate) => sent + Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64),
            None => sent,
        }
    }
}

/// One direction, which can be switched while it carries.
#[derive(Debug, Clone)]
pub struct Switch {
    line: watch::Sender<Line>,
    bytes: Arc<AtomicU64>,
}

impl Switch {
    /// A direction that begins like this.
    #[must_use]
    pub fn new(line: Line) -> Self {
        Self { line: watch::Sender::new(line), bytes: Arc::default() }
    }
    /// Changes how it carries, at once and for connections that are open.
    pub fn set(&self, line: Line) {
        self.line.send_replace(line);
    }
    /// How it carries.
    #[must_use]
    pub fn get(&self) -> Line {
        *self.line.borrow()
    }
    /// Bytes that arrived by it so far.
    #[must_use]
    pub fn carried(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// A direction ended: whether by a reset.
enum End {
    Closed,
    Reset,
}

/// Carries a connection until it ends or is cut, with `there` for bytes from the first end to the second.
///
/// True when the connection is to end with a reset.
pub async fn carry<A, B>(near: A, far: B, there: &Switch, back: &Switch) -> bool
where
    A: AsyncRead + AsyncWrite,
    B: AsyncRead + AsyncWrite,
{
    let ((near_read, near_write), (far_read, far_write)) = (split(near), split(far));
    let (there, back) = (direction(near_read, far_write, there), direction(far_read, near_write, back));
    tokio::pin!(there, back);
    // An end that was closed still gets what is on the way to it.
    tokio::select! {
        end = &mut there => matches!(end, End::Reset) || matches!(back.await, End::Reset),
        end = &mut back => matches!(end, End::Reset) || matches!(there.await, End::Reset),
    }
}

/// Carries in one direction.
async fn direction<R: AsyncRead, W: AsyncWrite>(mut from: ReadHalf<R>, mut to: WriteHalf<W>, switch: &Switch) -> End {
    let mut line = switch.line.subscribe();
    let (mut chunk, mut queue, mut queued) = (vec![0; CHUNK], VecDeque::<(Instant, Vec<u8>)>::new(), 0);
    let (mut ended, mut lost, mut last) = (false, false, Instant::now());
    loop {
        let now = *line.borrow_and_update();
        if now.flow == Flow::Cut {
            return End::Reset;
        }
        lost |= now.flow == Flow::Lost && queued > 0;
        if lost {
            queue.clear();
            queued = 0;
        }
        if ended && queue.is_empty() {
            // What was lost includes the end.
            if !lost {
                let _ = to.shutdown().await;
                return End::Closed;
            }
        }
        let due = queue.front().map(|(at, _)| *at).filter(|_| now.flow == Flow::Open);
        tokio::select! {
            changed = line.changed() => if changed.is_err() { return End::Reset },
            () = sleep_until(due.unwrap_or(last)), if due.is_some() => {
                let Some((_, bytes)) = queue.pop_front() else { continue };
                queued -= bytes.len();
                let written = tokio::select! {
                    written = async { to.write_all(&bytes).await?; to.flush().await } => written,
                    // A receiver that takes nothing must not keep the line from being cut.
                    _ = line.wait_for(|line| line.flow == Flow::Cut) => return End::Reset,
                };
                switch.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                if written.is_err() {
                    return End::Reset;
                }
            }
            read = from.read(&mut chunk), if !ended && queued < ON_THE_WAY => match read {
                Ok(0) => ended = true,
                Ok(_) if lost || now.flow == Flow::Lost => lost = true,
                Ok(count) => {
                    last = now.arrival(count, last);
                    queue.push_back((last, chunk.get(..count).unwrap_or_default().to_vec()));
                    queued += count;
                }
                Err(_) => return End::Reset,
            },
        }
    }
}

/// Has a connection end with a reset once it is dropped.
pub(crate) fn reset(stream: &TcpStream) {
    // Fails only on a connection that is gone already.
    let _ = stream.set_zero_linger();
}

/// Carries every connection of a listener to an address, with the same line both ways or one for each.
#[derive(Debug, Clone)]
pub struct Forward {
    /// Where the connections go.
    pub to: String,
    /// From whoever connects.
    pub there: Switch,
    /// To whoever connects.
    pub back: Switch,
}

impl Forward {
    /// Serves until it is dropped.
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn run(self, listener: TcpListener) -> io::Result<()> {
        let mut connections = JoinSet::new();
        loop {
            let (near, _) = listener.accept().await?;
            while connections.try_join_next().is_some() {}
            connections.spawn(self.clone().connection(near));
        }
    }

    async fn connection(self, mut near: TcpStream) {
        // The first packet travels too.
        sleep(self.there.get().delay).await;
        let far = timeout(CONNECT, TcpStream::connect(&self.to)).await;
        let Ok(Ok(mut far)) = far else { return reset(&near) };
        let _ = (near.set_nodelay(true), far.set_nodelay(true));
        if carry(&mut near, &mut far, &self.there, &self.back).await {
            reset(&near);
            reset(&far);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    /// A listener that sends back what it gets, behind a proxy.
    async fn echo() -> (TcpStream, Switch, Switch, JoinSet<()>) {
        let (server, listener) =
            (TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap());
        let (to, address) = (server.local_addr().unwrap().to_string(), listener.local_addr().unwrap());
        let (there, back) = (Switch::new(Line::default()), Switch::new(Line::default()));
        let forward = Forward { to, there: there.clone(), back: back.clone() };
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { forward.run(listener).await.unwrap() });
        tasks.spawn(async move {
            loop {
                let (mut stream, _) = server.accept().await.unwrap();
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        (TcpStream::connect(address).await.unwrap(), there, back, tasks)
    }

    async fn exchange(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<Vec<u8>> {
        stream.write_all(bytes).await?;
        let mut got = vec![0; bytes.len()];
        stream.read_exact(&mut got).await?;
        Ok(got)
    }

    #[tokio::test]
    async fn bytes_arrive_in_order_and_late() {
        let (mut stream, there, back, _tasks) = echo().await;
        assert_eq!(exchange(&mut stream, b"at once").await.unwrap(), b"at once");
        let delay = Duration::from_millis(60);
        there.set(Line::late(delay, Duration::from_millis(20)));
        back.set(Line { rate: Some(1 << 20), ..Line::late(delay, Duration::ZERO) });
        let all: Vec<u8> = (0..100_000_u32).map(|n| n.to_be_bytes()[3]).collect();
        let begin = Instant::now();
        assert!(exchange(&mut stream, &all).await.unwrap() == all, "out of order");
        assert!(begin.elapsed() >= delay * 2 + Duration::from_millis(90), "{:?}", begin.elapsed());
        assert_eq!(back.carried(), 100_007);
    }

    #[tokio::test]
    async fn held_bytes_come_later_and_lost_ones_never() {
        let (mut stream, there, back, _tasks) = echo().await;
        there.set(Line::flowing(Flow::Stalled));
        stream.write_all(b"held").await.unwrap();
        let mut got = [0; 4];
        assert!(timeout(Duration::from_millis(100), stream.read_exact(&mut got)).await.is_err());
        there.set(Line::default());
        timeout(SOON, stream.read_exact(&mut got)).await.unwrap().unwrap();
        assert_eq!(&got, b"held");

        back.set(Line::flowing(Flow::Lost));
        stream.write_all(b"lost").await.unwrap();
        let before = there.carried();
        while there.carried() < before + 4 {
            sleep(Duration::from_millis(1)).await;
        }
        back.set(Line::default());
        stream.write_all(b"also").await.unwrap();
        assert!(
            timeout(Duration::from_millis(100), stream.read(&mut got)).await.is_err(),
            "half a connection came back"
        );
    }

    #[tokio::test]
    async fn a_cut_line_resets_what_is_open_and_what_comes() {
        let (mut stream, there, _back, _tasks) = echo().await;
        let address = stream.peer_addr().unwrap();
        exchange(&mut stream, b"x").await.unwrap();
        there.set(Line::flowing(Flow::Cut));
        let mut got = [0; 1];
        let end = timeout(SOON, stream.read(&mut got)).await.unwrap();
        assert!(end.is_err(), "{end:?}");
        let mut next = TcpStream::connect(address).await.unwrap();
        let end = timeout(SOON, exchange(&mut next, b"x")).await.unwrap();
        assert!(end.is_err(), "{end:?}");
    }
}
