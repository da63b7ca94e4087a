//! Floor 0 of Symbolon: everything that is decided, nothing that is done.
//!
//! Types, the codec, protocol machines and the replicated state of a key-management cluster in which no whole private key
//! exists on any machine. This crate never opens a file or a socket, reads no clock and draws no randomness: time and random
//! bytes are parameters, effects are data.
//!
//! Reading order:
//! 1. [`wire`], [`id`], [`limits`], [`error`], [`step`]: what everything else is made of.
//! 2. [`identity`], [`genesis`], [`membership`], [`request`]: who is who, and what clients ask.
//! 3. [`entry`], [`state`], [`outcome`], [`history`], [`lifecycle`], [`table`], [`schema`]: the replicated state.
//! 4. [`generate`], [`certificate`], [`pop`]: how a key comes about and why a client may believe in it; [`redistribute`]: how
//!    it gets new shares.
//! 5. [`sign`], [`blame`], [`contribute`], [`fresh`], [`usage`]: how a signature comes about, and who broke the rules.
//! 6. [`peer`]: what nodes say to each other.

pub mod blame;
pub mod certificate;
pub mod contribute;
pub mod entry;
pub mod error;
pub mod fresh;
pub mod generate;
pub mod genesis;
pub mod history;
pub mod id;
pub mod identity;
pub mod lifecycle;
pub mod limits;
pub mod membership;
pub mod outcome;
pub mod peer;
pub mod pop;
pub mod redistribute;
pub mod request;
pub mod schema;
pub mod sign;
pub mod state;
pub mod step;
pub mod table;
pub mod usage;
pub mod wire;
