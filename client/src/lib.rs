//! The client of a Symbolon cluster: asks for signatures and manages keys, and believes no single node.
//!
//! - Every key comes with a certificate, which is checked against the members of the genesis file; every signature is
//!   verified under the certified key before it is returned. A node that shows something else is reported and left.
//! - Every call is one signed request. It goes to the next node, the same, until a node answers well or the deadline is over;
//!   a refusal counts once a second node refuses as well (or there is no second one).
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use symbolon_client::{Client, Config, Name, NewKey, PlanOptions};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let config = Config::load("genesis".as_ref(), "admin/identity".as_ref())?;
//! let client = Client::connect(config).await?;
//!
//! let name = Name::new("release")?;
//! let plan = client.plan(&name, &PlanOptions::default()).await?;
//! let created = client.with_deadline(Duration::from_secs(60)).create_key(&name, NewKey::new(plan)).await?;
//! println!("public key {:?}", created.key.public_key(created.version));
//!
//! let signed = client.sign(&name, b"a message").await?;
//! println!("{} signature by version {}", signed.signatures.len(), signed.version);
//! # Ok(())
//! # }
//! ```
//!
//! `examples/sign.rs` is a whole program. Reading order: [`Client`] and [`Config`], then [`trust`] (what is believed, and
//! why), [`keyfile`] (the identity's file), [`format`](mod@format) (keys and signatures for other tools), [`verify`]
//! (signatures, offline).

pub mod barrier;
pub mod error;
pub mod format;
pub mod keyfile;
pub mod roster;
pub mod trust;
pub mod verify;

mod call;
mod client;
mod keys;
mod link;
mod members;
mod registry;
mod retry;
mod shares;
mod signing;

pub use barrier::Enforcement;
pub use client::{Client, Config, Report};
pub use error::Error;
pub use keys::{Created, KeyChange, KeyPage, NewKey};
pub use members::MembershipChange;
pub use registry::{ClientPage, Examination, NodeExplanation, Upgrade};
pub use roster::PlanOptions;
pub use shares::{NewShares, OperationPage, ShareMove};
pub use signing::SignOutcome;
pub use symbolon_protocol::id::Name;
pub use symbolon_protocol::request::KeyPolicy;
pub use trust::VerifiedKey;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// This machine's clock, milliseconds since 1970.
#[must_use]
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Nothing here leaves a half-made change behind when it panics, so a poisoned lock is as good as any.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
