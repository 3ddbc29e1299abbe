//! What flows through the lab's network: the critical requests, and the best-effort bulk around them.

pub mod client;
pub mod critical;
pub mod datagrams;
pub mod senders;
pub mod server;
