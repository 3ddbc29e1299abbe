//! What Laneguard's services say to each other: messages, subjects, streams, buckets, policies.
