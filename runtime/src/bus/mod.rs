//! NATS JetStream: connect and stay connected, keep streams and buckets set up, publish, subscribe, and compare-and-set.

mod bucket;
mod connection;
mod feed;
mod metrics;
mod publish;
mod storage;
mod subscribe;

pub use bucket::{Bucket, Change, StoreError, Value, Watch};
pub use connection::{Bus, Producer};
pub use publish::{Publish, PublishError, Published};
pub use subscribe::{Last, Received, Start, Subscription};
