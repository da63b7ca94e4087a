//! Floor 2 of Symbolon: the node.
//!
//! - [`core`]: what a node does, over any runtime, transport, store and clock.
//! - [`store`]: where it keeps things. [`seal`]: how shares rest. [`harden`]: what the process gives up at start.
//! - [`link`]: the streams to the peers. [`serve`]: what clients and operators ask. [`metrics`]: what is counted.
//! - [`host`]: what the machine gives the process.
//! - [`config`], [`setup`], [`daemon`]: the program symbolond around it; `examine`: the store of a node that does not run.

pub mod config;
pub mod core;
pub mod harden;
pub mod host;
pub mod link;
pub mod metrics;
pub mod seal;
pub mod serve;
pub mod setup;
pub mod store;

#[cfg(feature = "rocksdb")]
pub mod daemon;
#[cfg(feature = "rocksdb")]
mod examine;
#[cfg(feature = "rocksdb")]
mod load;
