//! Durations as people write them (`10ms`, `1m30s`) and as protobuf carries them.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serializer};

/// Reads `10ms`, `15s`, `1m30s`.
///
/// # Errors
/// When the text is not a duration; the message says what was expected.
pub fn parse(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|e| format!("`{text}` is not a duration such as 10ms, 15s or 1m30s: {e}"))
}

/// Writes what [`parse`] reads.
pub fn format(duration: Duration) -> String {
    humantime::format_duration(duration)
        .to_string()
        .replace(' ', "")
}

/// For `#[serde(serialize_with)]`.
///
/// # Errors
/// Those of the serializer.
pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format(*duration))
}

/// For `#[serde(deserialize_with)]`.
///
/// # Errors
/// When the value is not a duration as [`parse`] reads it.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse(&text).map_err(serde::de::Error::custom)
}

/// As protobuf carries it; whole nanoseconds, at most what protobuf allows (10,000 years).
pub fn to_wire(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(315_576_000_000),
        nanos: duration.subsec_nanos() as i32,
    }
}

/// From protobuf; `None` when negative or malformed.
pub fn from_wire(duration: &prost_types::Duration) -> Option<Duration> {
    let seconds = u64::try_from(duration.seconds).ok()?;
    let nanos = u32::try_from(duration.nanos)
        .ok()
        .filter(|n| *n < 1_000_000_000)?;
    Some(Duration::new(seconds, nanos))
}

/// A protobuf timestamp from milliseconds since the Unix epoch.
pub fn timestamp_from_ms(unix_ms: i64) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: unix_ms.div_euclid(1000),
        nanos: (unix_ms.rem_euclid(1000) * 1_000_000) as i32,
    }
}

/// Milliseconds since the Unix epoch, rounded down.
pub fn timestamp_to_ms(timestamp: &prost_types::Timestamp) -> i64 {
    timestamp
        .seconds
        .saturating_mul(1000)
        .saturating_add(i64::from(timestamp.nanos / 1_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        for text in ["10ms", "15s", "1m30s", "500us", "1h"] {
            let duration = parse(text).unwrap();
            assert_eq!(parse(&format(duration)).unwrap(), duration, "{text}");
        }
    }

    #[test]
    fn a_bare_number_is_refused_and_named() {
        assert!(parse("15").unwrap_err().contains("`15`"));
    }

    #[test]
    fn timestamps_before_the_epoch_keep_their_milliseconds() {
        assert_eq!(timestamp_to_ms(&timestamp_from_ms(-1)), -1);
        assert_eq!(
            timestamp_to_ms(&timestamp_from_ms(1_764_000_000_123)),
            1_764_000_000_123
        );
    }
}
