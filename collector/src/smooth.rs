//! Exponentially weighted moving average of the signals, for dashboards and other tools; control laws read the raw values. Pure.

use crate::sample::{Measurement, Signals};

/// The average so far.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Smoothed {
    /// The values; `None`: none yet.
    pub signals: Signals,
    /// End of the newest window in it, milliseconds since the Unix epoch.
    pub window_end_ms: Option<i64>,
}

impl Smoothed {
    /// The average with one more measurement of weight `alpha` (over 0 to 1). One that is not usable, or whose window is already
    /// in it because nothing new was scraped, leaves it as it is.
    #[must_use]
    pub fn with(self, measurement: &Measurement, alpha: f64) -> Self {
        let Some((raw, window)) = measurement.raw.as_ref().zip(measurement.window) else {
            return self;
        };
        if !measurement.quality.usable() || self.window_end_ms >= Some(window.end_ms) {
            return self;
        }
        let (old, new) = (self.signals, raw.signals);
        let mix = |old: Option<f64>, new: Option<f64>| match (old, new) {
            (Some(old), Some(new)) => Some(old + alpha * (new - old)),
            (old, new) => new.or(old),
        };
        Self {
            signals: Signals {
                p25_ms: mix(old.p25_ms, new.p25_ms),
                p50_ms: mix(old.p50_ms, new.p50_ms),
                p75_ms: mix(old.p75_ms, new.p75_ms),
                p95_ms: mix(old.p95_ms, new.p95_ms),
                p99_ms: mix(old.p99_ms, new.p99_ms),
                mean_ms: mix(old.mean_ms, new.mean_ms),
                jitter_ms: mix(old.jitter_ms, new.jitter_ms),
            },
            window_end_ms: Some(window.end_ms),
        }
    }

    /// Whether there is anything in it.
    pub fn is_empty(&self) -> bool {
        self.signals == Signals::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{Quality, Raw, Window};

    fn measured(end_ms: i64, p95_ms: f64, quality: Quality) -> Measurement {
        Measurement {
            quality,
            reason: "r".into(),
            source: "s".into(),
            window: Some(Window {
                start_ms: 0,
                end_ms,
            }),
            raw: Some(Raw {
                signals: Signals {
                    p95_ms: Some(p95_ms),
                    ..Signals::default()
                },
                ..Raw::default()
            }),
            count: None,
            request_rate: None,
        }
    }

    #[test]
    fn the_first_value_starts_it_and_later_ones_weigh_alpha() {
        let one = Smoothed::default().with(&measured(1, 10.0, Quality::Good), 0.7);
        assert_eq!(one.signals.p95_ms, Some(10.0));
        let two = one.with(&measured(2, 20.0, Quality::Coarse), 0.7);
        assert_eq!(two.signals.p95_ms, Some(17.0));
        assert_eq!(two.signals.p99_ms, None);
    }

    #[test]
    fn the_same_window_and_unusable_samples_leave_it() {
        let one = Smoothed::default().with(&measured(5, 10.0, Quality::Good), 0.7);
        assert_eq!(one.with(&measured(5, 20.0, Quality::Good), 0.7), one);
        assert_eq!(one.with(&measured(6, 20.0, Quality::Idle), 0.7), one);
    }
}
