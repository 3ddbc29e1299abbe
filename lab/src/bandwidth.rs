//! How Cilium's agent reads the annotation `kubernetes.io/egress-bandwidth`.
//!
//! This copies its behaviour, flaws included, so that the lab shows what a malformed limit does there: no error and
//! no protection.

/// The annotation that carries a pod's egress limit.
pub const EGRESS_BANDWIDTH: &str = "kubernetes.io/egress-bandwidth";

/// What an annotation means to the data plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Egress {
    /// At most this many bytes per second.
    BytesPerSecond(u64),
    /// No limit: there is no annotation, or its value counts as none.
    Unlimited(Because),
}

/// Why a pod is not limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Because {
    /// The pod has no annotation.
    Absent,
    /// The value is no Kubernetes quantity; the agent fails open.
    Malformed,
    /// Less than eight bits per second: the division by eight leaves zero, which means no limit.
    Tiny,
    /// Negative: as an unsigned number it is huge.
    Negative,
}

/// Reads the annotation's value as `uint64(quantity.Value() / 8)` does.
#[must_use]
pub fn egress(annotation: Option<&str>) -> Egress {
    // An empty value counts as an absent one.
    let Some(text) = annotation.filter(|text| !text.is_empty()) else {
        return Egress::Unlimited(Because::Absent);
    };
    match quantity(text).map(|bits| bits / 8) {
        None => Egress::Unlimited(Because::Malformed),
        Some(0) => Egress::Unlimited(Because::Tiny),
        Some(bytes) => u64::try_from(bytes)
            .map_or(Egress::Unlimited(Because::Negative), Egress::BytesPerSecond),
    }
}

/// The integer value of a Kubernetes quantity, fractions rounded away from zero, saturating at 64 bits.
fn quantity(text: &str) -> Option<i64> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let end = unsigned
        .find(|letter: char| !letter.is_ascii_digit() && letter != '.')
        .unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let (decimal, binary) = exponents(suffix)?;
    let places = i32::try_from(fraction.len()).ok()?;
    let digits: i128 = match format!("{whole}{fraction}").trim_start_matches('0') {
        "" => 0,
        // Longer than any 64-bit value in any unit: saturate instead of overflowing.
        long if long.len() > 30 => {
            return Some(if text.starts_with('-') {
                i64::MIN
            } else {
                i64::MAX
            });
        }
        digits => digits.parse().ok()?,
    };
    let scaled = digits
        .checked_shl(binary)
        .filter(|value| value >> binary == digits);
    let exponent = decimal - places;
    let power = 10_i128.checked_pow(exponent.unsigned_abs());
    let magnitude = match (scaled, power) {
        (Some(value), Some(power)) if exponent >= 0 => value.checked_mul(power),
        (Some(value), Some(power)) => Some(value / power + i128::from(value % power != 0)),
        // Divided by more than any number: what is left is a fraction, rounded up.
        (Some(value), None) if exponent < 0 => Some(i128::from(value != 0)),
        _ => None,
    };
    let magnitude = i64::try_from(magnitude.unwrap_or(i128::MAX)).unwrap_or(i64::MAX);
    Some(if text.starts_with('-') {
        -magnitude
    } else {
        magnitude
    })
}

/// The power of ten and the power of two that a suffix stands for.
fn exponents(suffix: &str) -> Option<(i32, u32)> {
    Some(match suffix {
        "n" => (-9, 0),
        "u" => (-6, 0),
        "m" => (-3, 0),
        "" => (0, 0),
        "k" => (3, 0),
        "M" => (6, 0),
        "G" => (9, 0),
        "T" => (12, 0),
        "P" => (15, 0),
        "E" => (18, 0),
        "Ki" => (0, 10),
        "Mi" => (0, 20),
        "Gi" => (0, 30),
        "Ti" => (0, 40),
        "Pi" => (0, 50),
        "Ei" => (0, 60),
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            (exponent.clamp(-100, 100), 0)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_bits_per_second_divided_by_eight() {
        for (text, bytes) in [
            ("115M", 14_375_000),
            ("10Mi", 1_310_720),
            ("115000k", 14_375_000),
            ("1.5M", 187_500),
            (".5M", 62_500),
            ("1e6", 125_000),
            ("1E6", 125_000),
            ("+8", 1),
            ("9", 1),
            ("7500m", 1), // rounds up to 8 bits
            ("99E", i64::MAX as u64 / 8),
            ("99999999999999999999999999999999999", i64::MAX as u64 / 8),
        ] {
            assert_eq!(egress(Some(text)), Egress::BytesPerSecond(bytes), "{text}");
        }
    }

    #[test]
    fn what_cilium_cannot_use_means_no_limit() {
        for (text, because) in [
            ("", Because::Absent),
            ("10Mbit", Because::Malformed),
            ("abc", Because::Malformed),
            ("1.2.3M", Because::Malformed),
            ("10 M", Because::Malformed),
            ("M", Because::Malformed),
            ("1", Because::Tiny),
            ("7", Because::Tiny),
            ("0", Because::Tiny),
            ("100m", Because::Tiny),
            ("1e-200", Because::Tiny),
            ("-1", Because::Tiny),
            ("-10M", Because::Negative),
        ] {
            assert_eq!(egress(Some(text)), Egress::Unlimited(because), "{text:?}");
        }
        assert_eq!(egress(None), Egress::Unlimited(Because::Absent));
    }
}
