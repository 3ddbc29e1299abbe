//! The process shell that Laneguard's services share.
