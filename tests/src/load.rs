//! Clients that go on signing while something else happens.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, spawn};
use std::time::{Duration, Instant};

use symbolon_client::{Client, Config, Error, Name};
use symbolon_protocol::error::Refusal;
use symbolon_protocol::identity::PublicKey;
use tokio::runtime::Builder;

use crate::Cli;

/// Pause after a request that failed: a node that refuses at once is not asked in a circle.
const AFTER_ERROR: Duration = Duration::from_millis(20);

/// A request that was answered well.
#[derive(Debug, Clone, Copy)]
pub struct Answered {
    /// Which client asked, from 0.
    pub client: usize,
    /// When it asked.
    pub asked: Instant,
    /// When it had the signature, checked.
    pub had: Instant,
}

/// What happened to those who sign.
#[derive(Debug, Default)]
struct Seen {
    signed: AtomicUsize,
    answered: Mutex<Vec<Answered>>,
    failed: Mutex<Vec<Error>>,
    /// What nodes were accused of.
    accused: Mutex<Vec<String>>,
    done: AtomicBool,
}

/// Clients that sign until this is dropped, each asking another node first. Each is one that runs for long: it keeps its connections.
#[derive(Debug)]
pub struct Load {
    seen: Arc<Seen>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts clients with the identity and the endpoints of a command line; every signature is checked under `public`.
    ///
    /// # Panics
    /// When the identity or genesis cannot be read.
    #[must_use]
    pub fn start(cli: &Cli, key: &str, public: &PublicKey, clients: usize) -> Self {
        let seen = Arc::<Seen>::default();
        let threads = (0..clients).map(|client| {
            let (seen, public, key) = (Arc::clone(&seen), *public, Name::new(key).expect("the name of a key"));
            let mut config = Config::load(&cli.path("SYMBOLON_GENESIS"), &cli.path("SYMBOLON_IDENTITY"))
                .expect("the identity of a client");
            config.endpoints = cli.path("SYMBOLON_ENDPOINTS").to_string_lossy().split(',').map(str::to_owned).collect();
            let first = client % config.endpoints.len().max(1);
            config.endpoints.rotate_left(first);
            let heard = Arc::clone(&seen);
            config.report = Some(Arc::new(move |refusal: &Refusal| {
                heard.accused.lock().expect("a sound list").push(refusal.to_string());
            }));
            spawn(move || sign_on(config, client, &key, &public, &seen))
        });
        Self { threads: threads.collect(), seen }
    }

    /// Signatures so far.
    #[must_use]
    pub fn signed(&self) -> usize {
        self.seen.signed.load(Ordering::Relaxed)
    }
    /// Requests that were answered well since this was asked last, each client's in order.
    ///
    /// # Panics
    /// When a client failed.
    #[must_use]
    pub fn answered(&self) -> Vec<Answered> {
        std::mem::take(&mut *self.seen.answered.lock().expect("a sound list"))
    }
    /// Errors that clients saw since this was asked last.
    ///
    /// # Panics
    /// When a client failed.
    #[must_use]
    pub fn errors(&self) -> Vec<Error> {
        std::mem::take(&mut *self.seen.failed.lock().expect("a sound list"))
    }

    /// Ends the clients. Gives how many signatures there were.
    ///
    /// # Panics
    /// When there was a wrong signature, or a node was accused.
    pub fn stop(mut self) -> usize {
        self.seen.done.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            assert!(thread.join().is_ok(), "a client failed");
        }
        let accused = self.seen.accused.lock().expect("a sound list");
        assert!(accused.is_empty(), "{accused:?}");
        self.signed()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.seen.done.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // Whoever stopped asks how it ended.
            let _ = thread.join();
        }
    }
}

fn sign_on(config: Config, number: usize, key: &Name, public: &PublicKey, seen: &Seen) {
    Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(async {
        let client = Client::connect(config).await.expect("a client");
        for count in 0_u64.. {
            if seen.done.load(Ordering::Relaxed) {
                return;
            }
            let (message, asked) = (format!("message {count} of client {number}"), Instant::now());
            match client.sign(key, message.as_bytes()).await {
                Ok(outcome) => {
                    let good = outcome.signatures.iter().all(|one| public.verifies_raw(message.as_bytes(), one));
                    assert!(good && outcome.signatures.len() == 1, "a wrong signature: {outcome:?}");
                    seen.signed.fetch_add(1, Ordering::Relaxed);
                    let answered = Answered { client: number, asked, had: Instant::now() };
                    seen.answered.lock().expect("a sound list").push(answered);
                }
                Err(error) => {
                    seen.failed.lock().expect("a sound list").push(error);
                    tokio::time::sleep(AFTER_ERROR).await;
                }
            }
        }
    });
}
