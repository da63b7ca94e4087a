//! A node that stands still, as a process does after SIGSTOP: none of its tasks runs, and what comes meanwhile waits. Clocks go
//! on, and so does everybody else.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use openraft_rt::{AsyncRuntime, OptionalSend};
use openraft_rt_tokio::TokioRuntime;

use super::types::lock;

tokio::task_local! {
    /// The gate of the node for which a task runs.
    static GATE: Gate;
}

#[derive(Default)]
struct Tasks {
    stand_still: bool,
    waiting: Vec<Waker>,
}

/// What all tasks of one node pass whenever they run; clones are handles to the same one.
#[derive(Clone, Default)]
pub struct Gate(Arc<Mutex<Tasks>>);

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("gate")
    }
}

impl Gate {
    /// From now on nothing runs.
    pub fn close(&self) {
        lock(&self.0).stand_still = true;
    }

    /// Everything goes on where it was.
    pub fn open(&self) {
        let waiting = {
            let mut tasks = lock(&self.0);
            tasks.stand_still = false;
            std::mem::take(&mut tasks.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Runs something for the node of this gate. What it spawns runs for that node too.
    pub async fn within<F: Future>(&self, future: F) -> F::Output {
        GATE.scope(self.clone(), Held { gate: self.clone(), future: Box::pin(future) }).await
    }

    /// Runs something for no node.
    pub fn outside<R>(run: impl FnOnce() -> R) -> R {
        GATE.sync_scope(Self::default(), run)
    }

    fn poll_open(&self, context: &Context<'_>) -> Poll<()> {
        let mut tasks = lock(&self.0);
        if !tasks.stand_still {
            return Poll::Ready(());
        }
        tasks.waiting.push(context.waker().clone());
        Poll::Pending
    }
}

/// A future behind a gate.
struct Held<F> {
    gate: Gate,
    future: Pin<Box<F>>,
}

impl<F: Future> Future for Held<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        match self.gate.poll_open(context) {
            Poll::Ready(()) => self.future.as_mut().poll(context),
            Poll::Pending => Poll::Pending,
        }
    }
}

/// Tokio, whose tasks stay behind the gate of whoever spawned them.
#[derive(Debug)]
pub struct Pausable(TokioRuntime);

type Tokio = TokioRuntime;

impl AsyncRuntime for Pausable {
    type JoinError = <Tokio as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <Tokio as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <Tokio as AsyncRuntime>::Sleep;
    type Instant = <Tokio as AsyncRuntime>::Instant;
    type TimeoutError = <Tokio as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = <Tokio as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = <Tokio as AsyncRuntime>::ThreadLocalRng;
    type Mpsc = <Tokio as AsyncRuntime>::Mpsc;
    type Watch = <Tokio as AsyncRuntime>::Watch;
    type Oneshot = <Tokio as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <Tokio as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        match GATE.try_with(Gate::clone) {
            Ok(gate) => Tokio::spawn(async move { gate.within(future).await }),
            Err(_) => Tokio::spawn(future),
        }
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        Tokio::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        Tokio::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(duration: Duration, future: F) -> Self::Timeout<R, F> {
        Tokio::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(deadline: Self::Instant, future: F) -> Self::Timeout<R, F> {
        Tokio::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        Tokio::is_panic(join_error)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        Tokio::thread_rng()
    }

    fn new(threads: usize) -> Self {
        Self(Tokio::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }
}
