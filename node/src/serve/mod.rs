//! What clients and operators ask: the client service over gRPC, and the health question over a Unix socket.

pub mod client;
pub mod health;
