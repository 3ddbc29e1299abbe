//! Laneguard as a whole on one Linux machine, on a real kernel network.
//!
//! Namespaces are pods, two nodes are joined by one shaped link, and everything else is real: the three services, NATS, Prometheus,
//! HTTP, TCP, and limits in the kernel. [`run`] is one run, [`mod@compare`] many of them with a [`report`]; [`servers`] and [`process`] also serve the tests. Everything is logged
//! raw ([`raw`]), and every number that is shown in the end comes from [`score`], which reads nothing but those logs.

pub mod archive;
pub mod bandwidth;
pub mod cli;
pub mod cluster;
pub mod compare;
pub mod decisions;
pub mod deploy;
pub mod event;
pub mod expect;
pub mod exporter;
pub mod external;
pub mod isolate;
pub mod law;
pub mod live;
pub mod net;
pub mod node;
pub mod process;
pub mod raw;
pub mod recorder;
pub mod report;
pub mod run;
pub mod scenario;
pub mod score;
pub mod servers;
pub mod services;
pub mod stalls;
pub mod summary;
pub mod tools;
pub mod traffic;
