//! A model of the lab's bottleneck, and the real control laws in a loop with it.
//!
//! Discrete time, deterministic by seed, thousands of runs in a minute. What is modelled: a FIFO queue at one bottleneck, TCP-like
//! and UDP senders under per-pod limits, open-loop critical requests, scrapes through histogram buckets, the collector's windows
//! and qualities, delays on the way to the decider and to the kernel, lost samples, clocks that differ. What is not: several
//! bottlenecks, reordering, the bursts inside 5 ms.
//!
//! | question | file |
//! |---|---|
//! | What can a run consist of? | [`scenario`], [`generate`] for random ones |
//! | What happens to packets and requests? | [`link`] |
//! | What does the decider get to see? | [`telemetry`] |
//! | How is the loop closed? | [`run`](mod@run) |
//! | How was it fitted to the kernel network, and is it like it? | [`fit`](mod@fit) |
//! | What was it worth? | [`score`](mod@score) |
//! | Could any fixed limit have done better? | [`stability`] |

pub mod fit;
pub mod generate;
pub mod link;
pub mod random;
pub mod run;
pub mod scenario;
pub mod score;
pub mod stability;
pub mod telemetry;
