//! The only reader of wall-clock time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Milliseconds since the Unix epoch; 0 when the clock stands before it.
pub fn unix_ms() -> i64 {
    since_epoch().as_millis() as i64
}

/// Time since the Unix epoch; zero when the clock stands before it.
pub fn since_epoch() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// Now as RFC 3339 in UTC, as CloudEvents wants it.
pub fn rfc3339() -> String {
    jiff::Timestamp::now().to_string()
}
