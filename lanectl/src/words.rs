//! How quantities, times and names read in sentences for people.

use laneguard_proto::duration::timestamp_to_ms;
use laneguard_proto::v1::Decision;

/// A number with about four significant digits and no trailing zeros.
pub(crate) fn number(value: f64) -> String {
    let digits = match value.abs() {
        v if v >= 1000.0 => 0,
        v if v >= 100.0 => 1,
        v if v >= 10.0 => 2,
        _ => 3,
    };
    let text = format!("{value:.digits$}");
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

/// Bits per second in megabits.
pub(crate) fn mbit(bps: f64) -> String {
    format!("{} Mbit/s", number(bps / 1e6))
}

/// Milliseconds with their unit.
pub(crate) fn ms(ms: f64) -> String {
    format!("{} ms", number(ms))
}

/// A duration of milliseconds: `350 ms`, `2.1 s`, `4 min 10 s`, `3 h 20 min`.
pub(crate) fn duration(ms: i64) -> String {
    let abs = ms.unsigned_abs();
    let two = |big: u64, unit: &str, small: u64, small_unit: &str| match small {
        0 => format!("{big} {unit}"),
        small => format!("{big} {unit} {small} {small_unit}"),
    };
    match abs {
        0..1_000 => format!("{abs} ms"),
        1_000..120_000 => {
            let tenths = (abs + 50) / 100;
            match tenths % 10 {
                0 => format!("{} s", tenths / 10),
                rest => format!("{}.{rest} s", tenths / 10),
            }
        }
        120_000..7_200_000 => two(abs / 60_000, "min", abs / 1_000 % 60, "s"),
        _ => two(abs / 3_600_000, "h", abs / 60_000 % 60, "min"),
    }
}

/// `1 pod`, `3 pods`.
pub(crate) fn count(n: u64, one: &str) -> String {
    match n {
        1 => format!("1 {one}"),
        n => format!("{n} {one}s"),
    }
}

/// The time of day in UTC with tenths of a second.
pub(crate) fn clock(unix_ms: i64) -> String {
    formatted(unix_ms, "%H:%M:%S%.1f")
}

/// Date and time in UTC, as `--at` takes it.
pub(crate) fn timestamp(unix_ms: i64) -> String {
    formatted(unix_ms, "%Y-%m-%dT%H:%M:%S%.3fZ")
}

fn formatted(unix_ms: i64, format: &str) -> String {
    match jiff::Timestamp::from_millisecond(unix_ms) {
        Ok(time) => time.strftime(format).to_string(),
        Err(_) => "an unknown time".to_owned(),
    }
}

/// A time after a decision: `15:38:36.5 (60 s after it)`.
pub(crate) fn later(unix_ms: i64, decided_ms: i64) -> String {
    let after = unix_ms.saturating_sub(decided_ms);
    match after {
        0.. => format!(
            "{} ({} after this decision)",
            clock(unix_ms),
            duration(after)
        ),
        _ => format!(
            "{} ({} before this decision)",
            clock(unix_ms),
            duration(after)
        ),
    }
}

/// When it was decided, Unix milliseconds.
pub(crate) fn decided_ms(decision: &Decision) -> i64 {
    decision.decided_at.as_ref().map_or(0, timestamp_to_ms)
}

/// Whether a limit is another one afterwards.
pub(crate) fn is_change(decision: &Decision) -> bool {
    decision
        .limits
        .iter()
        .any(|limit| limit.before_bps != limit.after_bps)
}

/// Text of others on one line without control characters: anybody may write decisions, and they reach a terminal.
pub(crate) fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// A list with commas and a last `and`.
pub(crate) fn list(items: &[String]) -> String {
    match items {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_short_and_have_units() {
        for (value, text) in [
            (1000.0, "1000"),
            (97.975, "97.97"),
            (0.5, "0.5"),
            (2.0, "2"),
            (198.4156, "198.4"),
            (1e9, "1000000000"),
        ] {
            assert_eq!(number(value), text);
        }
        assert_eq!(mbit(48_192_000.0), "48.19 Mbit/s");
        for (value, text) in [
            (350, "350 ms"),
            (2_100, "2.1 s"),
            (60_000, "60 s"),
            (250_000, "4 min 10 s"),
            (12_000_000, "3 h 20 min"),
        ] {
            assert_eq!(duration(value), text);
        }
        assert_eq!(
            later(1_764_000_060_000, 1_764_000_000_000),
            "16:01:00.0 (60 s after this decision)"
        );
        assert_eq!(list(&["a".into(), "b".into(), "c".into()]), "a, b and c");
        assert_eq!(plain("a\u{1b}[31m\nb"), "a [31m b");
    }
}
