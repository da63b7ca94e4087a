//! What clients and operators ask: the client service over gRPC, the health question over a Unix socket, metrics over HTTP.

pub mod client;
pub mod health;
pub mod metrics;
