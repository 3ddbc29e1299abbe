//! The process shell against a real nats-server: what is promised when all is well, and when it is not.

#![allow(clippy::unwrap_used)] // a test's helpers fail as the test does

mod buckets;
mod leases;
mod messages;
mod storage;
mod traces;

use std::time::Duration;

use laneguard_proto::duration::{timestamp_from_ms, to_wire};
use laneguard_proto::v1::{Command, Sample, sample::Quality};

fn sample(sequence: u64) -> Sample {
    Sample {
        cluster: "default".into(),
        policy: "factory_floor".into(),
        workload: "factory_robot".into(),
        sequence,
        observed_at: Some(timestamp_from_ms(1_764_000_000_000 + sequence as i64)),
        quality: Quality::Good.into(),
        ..Default::default()
    }
}

fn command(sequence: u64) -> Command {
    Command {
        cluster: "default".into(),
        policy: "factory_floor".into(),
        class: "bulk".into(),
        limit_bps: Some(1e8),
        term: 1,
        sequence,
        valid_for: Some(to_wire(Duration::from_secs(15))),
        ..Default::default()
    }
}

const SAMPLE: &str = "laneguard.v1.sample.default.factory_floor.factory_robot";
const COMMAND: &str = "laneguard.v1.command.default.factory_floor.bulk";
