//! Deterministic simulation of Symbolon.
//!
//! Level A (here) drives floor 0 alone: machines, state and codec of `symbolon-protocol` under drivers of the simulator's own,
//! with a log in the place of Raft, a network, disks and clients on one line of virtual time. Everything comes from one seed:
//! one seed is one run, event for event. Level B ([`level_b`]) runs the node core with Raft.
//!
//! Reading order: [`options`] (what a run is like), `world` (what happens), `node` (an honest driver), `byzantine` (an evil one),
//! `disk`, `network`, `order`, `client`, [`invariants`] (what must hold, one file each), [`bugs`] (what must be found), [`matrix`] (which promise each
//! of them tests), [`sweep`], [`shrink`]. `secrecy` keeps the book of who knows what.

#![recursion_limit = "512"]

pub mod bugs;
pub mod count;
pub mod invariants;
pub mod level_b;
pub mod matrix;
pub mod options;
pub mod shrink;
pub mod sweep;

mod byzantine;
mod client;
mod disk;
mod draw;
mod network;
mod node;
mod order;
mod secrecy;
mod trace;
mod world;

pub use world::{Report, run, run_with};
