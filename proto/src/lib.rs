//! What Laneguard's services say to each other: messages, subjects, streams, buckets and policies.
//!
//! Owns the wire format and its validation; does no I/O. Each service turns the messages into its own domain types at its border.

pub mod codec;
pub mod duration;
pub mod header;
pub mod overrides;
pub mod placement;
pub mod policy;
pub mod quantity;
pub mod selector;
pub mod storage;
pub mod structure;
pub mod subject;
mod validate;

/// The generated messages of the protobuf package `laneguard.v1`.
pub mod v1 {
    include!("gen/laneguard.v1.rs");

    /// The serialized descriptor set of the package, for reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!("gen/laneguard.v1.bin");
}

pub use validate::{Invalid, MOST_SEQUENCE, Validate, plausible_term};
