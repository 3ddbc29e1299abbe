//! Domain to protobuf and back. Messages of `laneguard.v1` occur here only.

use std::time::Duration;

use laneguard_proto::duration::{timestamp_from_ms, timestamp_to_ms};
use laneguard_proto::v1;
use laneguard_proto::v1::sample::Quality as WireQuality;

use crate::sample::{Measurement, Memory, Quality, Raw, Signals, Span};
use crate::smooth::Smoothed;
use crate::usage::Usage;

/// Everything that goes into a sample.
#[derive(Debug, Clone, Copy)]
pub struct Content<'a> {
    /// The cluster.
    pub cluster: &'a str,
    /// The policy's token.
    pub policy: &'a str,
    /// The workload's token.
    pub workload: &'a str,
    /// Rises with each sample.
    pub sequence: u64,
    /// When the collector asked, milliseconds since the Unix epoch.
    pub observed_ms: i64,
    /// What was measured.
    pub measurement: &'a Measurement,
    /// The moving average.
    pub smoothed: &'a Smoothed,
    /// Drops per second in the cluster.
    pub drop_rate: Option<f64>,
    /// Flows per second in the cluster.
    pub flow_rate: Option<f64>,
    /// What the policy's classes sent; a class that is missing is unknown.
    pub usage: &'a [Usage],
}

/// The message.
pub fn sample(content: &Content<'_>) -> v1::Sample {
    let measurement = content.measurement;
    v1::Sample {
        cluster: content.cluster.to_owned(),
        policy: content.policy.to_owned(),
        workload: content.workload.to_owned(),
        sequence: content.sequence,
        window_start: measurement.window.map(|w| timestamp_from_ms(w.start_ms)),
        window_end: measurement.window.map(|w| timestamp_from_ms(w.end_ms)),
        observed_at: Some(timestamp_from_ms(content.observed_ms)),
        source: measurement.source.clone(),
        quality: quality(measurement.quality).into(),
        reason: measurement.reason.clone(),
        raw: measurement.raw.as_ref().map(raw),
        smoothed: (!content.smoothed.is_empty()).then(|| signals(&content.smoothed.signals)),
        count: measurement.count,
        request_rate: measurement.request_rate,
        drop_rate: content.drop_rate,
        flow_rate: content.flow_rate,
        usage: content.usage.iter().map(usage).collect(),
    }
}

fn quality(quality: Quality) -> WireQuality {
    match quality {
        Quality::Good => WireQuality::Good,
        Quality::Coarse => WireQuality::Coarse,
        Quality::Idle => WireQuality::Idle,
        Quality::Stale => WireQuality::Stale,
        Quality::NoData => WireQuality::NoData,
        Quality::Failed => WireQuality::Failed,
    }
}

fn from_quality(quality: WireQuality) -> Quality {
    match quality {
        WireQuality::Good => Quality::Good,
        WireQuality::Coarse => Quality::Coarse,
        WireQuality::Idle => Quality::Idle,
        WireQuality::Stale => Quality::Stale,
        WireQuality::NoData => Quality::NoData,
        WireQuality::Failed | WireQuality::Unspecified => Quality::Failed,
    }
}

fn signals(signals: &Signals) -> v1::Signals {
    v1::Signals {
        p25_ms: signals.p25_ms,
        p50_ms: signals.p50_ms,
        p75_ms: signals.p75_ms,
        p95_ms: signals.p95_ms,
        p99_ms: signals.p99_ms,
        mean_ms: signals.mean_ms,
        jitter_ms: signals.jitter_ms,
        ..Default::default()
    }
}

fn raw(raw: &Raw) -> v1::Signals {
    let low = |span: Option<Span>| span.map(|s| s.low_ms);
    let high = |span: Option<Span>| span.and_then(|s| s.high_ms);
    v1::Signals {
        p95_low_ms: low(raw.p95),
        p95_high_ms: high(raw.p95),
        jitter_low_ms: low(raw.jitter),
        jitter_high_ms: high(raw.jitter),
        p99_low_ms: low(raw.p99),
        p99_high_ms: high(raw.p99),
        ..signals(&raw.signals)
    }
}

fn usage(usage: &Usage) -> v1::Usage {
    v1::Usage {
        class: usage.class.clone(),
        total_bps: Some(usage.total_bps),
        pods: usage.pods,
        top_pod_bps: Some(usage.top_pod_bps),
        window_start: Some(timestamp_from_ms(usage.start_ms)),
        window_end: Some(timestamp_from_ms(usage.end_ms)),
    }
}

/// What a collector goes on from.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Resumed {
    /// Sequence of the last sample; 0 when there is none.
    pub sequence: u64,
    /// The moving average in it.
    pub smoothed: Smoothed,
    /// What its quality rested on.
    pub memory: Memory,
}

/// Goes on from the last sample on a workload's subject.
pub fn resumed(last: &v1::Sample, idle_after: Duration) -> Resumed {
    let window_end_ms = last.window_end.as_ref().map(timestamp_to_ms);
    let smoothed = last.smoothed.map_or_else(Smoothed::default, |s| Smoothed {
        signals: Signals {
            p25_ms: s.p25_ms,
            p50_ms: s.p50_ms,
            p75_ms: s.p75_ms,
            p95_ms: s.p95_ms,
            p99_ms: s.p99_ms,
            mean_ms: s.mean_ms,
            jitter_ms: s.jitter_ms,
        },
        window_end_ms,
    });
    let memory = window_end_ms.map_or_else(Memory::default, |end| {
        Memory::resumed(from_quality(last.quality()), &last.source, end, idle_after)
    });
    Resumed {
        sequence: last.sequence,
        smoothed,
        memory,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::Window;
    use laneguard_proto::Validate;

    fn measurement() -> Measurement {
        Measurement {
            quality: Quality::Good,
            reason: "200 requests".into(),
            source: "m/client".into(),
            window: Some(Window {
                start_ms: 1_000,
                end_ms: 2_000,
            }),
            raw: Some(Raw {
                signals: Signals {
                    p95_ms: Some(47.5),
                    jitter_ms: Some(2.5),
                    ..Signals::default()
                },
                p95: Some(Span {
                    low_ms: 25.0,
                    high_ms: None,
                }),
                p99: None,
                jitter: Some(Span {
                    low_ms: 0.0,
                    high_ms: Some(5.0),
                }),
            }),
            count: Some(200.0),
            request_rate: Some(199.5),
        }
    }

    fn message(measurement: &Measurement, smoothed: &Smoothed, usage: &[Usage]) -> v1::Sample {
        sample(&Content {
            cluster: "default",
            policy: "factory_floor",
            workload: "factory_robot",
            sequence: 7,
            observed_ms: 2_400,
            measurement,
            smoothed,
            drop_rate: Some(30.0),
            flow_rate: None,
            usage,
        })
    }

    #[test]
    fn a_sample_carries_values_bounds_and_what_is_unknown_stays_unset() {
        let usage = Usage {
            class: "bulk".into(),
            total_bps: 12e6,
            pods: 2,
            top_pod_bps: 8e6,
            start_ms: 500,
            end_ms: 2_000,
        };
        let message = message(&measurement(), &Smoothed::default(), &[usage]);
        message.validate().unwrap();
        let raw = message.raw.unwrap();
        assert_eq!(
            (raw.p95_ms, raw.p95_low_ms, raw.p95_high_ms),
            (Some(47.5), Some(25.0), None)
        );
        assert_eq!(
            (raw.jitter_low_ms, raw.jitter_high_ms),
            (Some(0.0), Some(5.0))
        );
        assert_eq!(
            (raw.p99_ms, message.smoothed, message.flow_rate),
            (None, None, None)
        );
        assert_eq!(message.usage[0].total_bps, Some(12e6));
        assert_eq!(message.window_end, Some(timestamp_from_ms(2_000)));
    }

    #[test]
    fn a_sample_without_anything_measured_is_valid() {
        let nothing = Measurement {
            quality: Quality::Failed,
            window: None,
            raw: None,
            count: None,
            request_rate: None,
            ..measurement()
        };
        let message = message(&nothing, &Smoothed::default(), &[]);
        message.validate().unwrap();
        assert_eq!(
            (message.quality(), message.window_end),
            (WireQuality::Failed, None)
        );
    }

    #[test]
    fn a_collector_goes_on_with_sequence_and_average() {
        let smoothed = Smoothed::default().with(&measurement(), 0.7);
        let resumed = resumed(
            &message(&measurement(), &smoothed, &[]),
            Duration::from_secs(60),
        );
        assert_eq!((resumed.sequence, resumed.smoothed), (7, smoothed));
        assert_ne!(resumed.memory, Memory::default());
    }
}
