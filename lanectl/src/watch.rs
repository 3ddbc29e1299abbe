//! The decision stream, live.

use std::time::Duration;

use anyhow::Context as _;
use laneguard_proto::codec::to_json;
use laneguard_proto::duration::timestamp_to_ms;
use laneguard_proto::subject::{self, Kind, Token};
use laneguard_proto::v1::Decision;
use laneguard_runtime::bus::{Bus, Start, Subscription};

use crate::args::Stream;
use crate::words::plain;
use crate::{name, output};

/// Prints decisions for ever.
///
/// # Errors
/// When standard output or NATS is gone.
pub(crate) async fn run(
    bus: &Bus,
    policy: Option<&Token>,
    format: Stream,
    since: Option<Duration>,
) -> anyhow::Result<()> {
    let start = since.map_or(Start::New, Start::Ago);
    let mut decisions: Subscription<Decision> = match policy {
        Some(policy) => {
            let filter = subject::decision(bus.cluster().as_str(), policy.as_str());
            bus.subscribe_to(Kind::Decision, filter, start)
        }
        None => bus.subscribe(Kind::Decision, start),
    };
    loop {
        let received = decisions.next().await.context("NATS is gone")?;
        match format {
            Stream::Text => output::line(&text(&received.message))?,
            Stream::Json => output::line(&to_json(&received.message)?)?,
        }
    }
}

/// A decision in one line: when, which policy, what, which limits, why.
pub(crate) fn text(decision: &Decision) -> String {
    let at = decision.decided_at.as_ref().map(timestamp_to_ms);
    let at = at.and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    let at = at.map_or_else(
        || "-".to_owned(),
        |at| at.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string(),
    );
    let mut line = format!("{at} {} {}", name::shown(&decision.policy), decision.action);
    if decision.shadow {
        let name = match decision.shadow_name.as_str() {
            "" => &decision.law,
            name => name,
        };
        line.push_str(&format!(" (shadow: {name})"));
    } else if decision.mode == "Observe" {
        line.push_str(" (observing)");
    }
    for limit in &decision.limits {
        let (before, after) = (mbit(limit.before_bps), mbit(limit.after_bps));
        if before == after {
            line.push_str(&format!(" {} {after}", limit.class));
        } else {
            line.push_str(&format!(" {} {before} -> {after}", limit.class));
        }
    }
    line.push_str(&format!(": {}", plain(&decision.reason)));
    if decision.repeats > 0 {
        line.push_str(&format!(" [{} times before]", decision.repeats));
    }
    line
}

/// Megabits per second, as annotations have them.
fn mbit(bps: Option<f64>) -> String {
    bps.map_or_else(
        || "?".to_owned(),
        |bps| format!("{}M", (bps / 1e3).round() / 1e3),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use laneguard_proto::duration::timestamp_from_ms;
    use laneguard_proto::v1::LimitChange;

    #[test]
    fn a_decision_is_one_line_that_explains_itself() {
        let limit = |class: &str, before, after| LimitChange {
            class: class.into(),
            before_bps: Some(before),
            after_bps: Some(after),
        };
        let decision = Decision {
            policy: "factory_floor".into(),
            decided_at: Some(timestamp_from_ms(1_764_000_000_123)),
            action: "CONGESTION_THROTTLE".into(),
            limits: vec![limit("bulk", 1e9, 950e6), limit("other", 12.5e6, 12.5e6)],
            reason: "jitter is high\n\u{1b}[31m".into(),
            mode: "Observe".into(),
            repeats: 9,
            ..Default::default()
        };
        assert_eq!(
            text(&decision),
            "2025-11-24T16:00:00.123Z factory/floor CONGESTION_THROTTLE (observing) bulk 1000M -> 950M other 12.5M: jitter is high  [31m [9 times before]"
        );
    }
}
