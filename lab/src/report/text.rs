//! Text in HTML.

use std::fmt::Write as _;
use std::time::{Duration, UNIX_EPOCH};

use crate::scenario::Scenario;

/// Text as HTML shows it. Everything that was read from a file passes through here.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            letter => escaped.push(letter),
        }
    }
    escaped
}

/// A moment to the second.
pub(super) fn moment(unix_ns: u64) -> String {
    let time = UNIX_EPOCH + Duration::from_secs(unix_ns / 1_000_000_000);
    humantime::format_rfc3339_seconds(time)
        .to_string()
        .replace('T', " ")
        .replace('Z', " UTC")
}

/// What a scenario is, in one line.
pub(super) fn scenario(scenario: &Scenario) -> String {
    let mut text = String::new();
    for (index, phase) in scenario.phases.iter().enumerate() {
        let comma = if index == 0 { "" } else { ", " };
        // Writing to a String cannot fail.
        let _ = write!(text, "{comma}{} s {}", phase.seconds, phase.kind.word());
    }
    let _ = write!(
        text,
        "; bottleneck {} Mbit/s with a FIFO of {} MB; {} best-effort pods with {} TCP flows each; {} critical requests/s; \
         scrape every {} s.",
        scenario.link.rate_bps as f64 / 1e6,
        scenario.link.fifo_bytes as f64 / 1e6,
        scenario.pods,
        scenario.flows,
        scenario.requests_per_second,
        scenario.scrape_interval_ms as f64 / 1e3
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_become_markup() {
        assert_eq!(escape("<b a='1'>&\""), "&lt;b a=&#39;1&#39;&gt;&amp;&quot;");
    }

    #[test]
    fn moments_are_told_in_utc() {
        assert_eq!(moment(1_795_534_615_155_393_322), "2026-11-24 15:36:55 UTC");
    }
}
