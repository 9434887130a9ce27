//! Durations as Go writes them: `15s`, `2m30s`, `1.5h`, `100ms`. Bare integers are none.

use std::time::Duration;

/// Text that is not a Go duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// The operator must add a unit.
    #[error("{text:?} has no unit; write for example \"15s\" or \"2m30s\"")]
    MissingUnit {
        /// What was given.
        text: String,
    },
    /// The operator must correct it.
    #[error("{text:?} is not a duration; write for example \"15s\", \"2m30s\" or \"1h\"")]
    Malformed {
        /// What was given.
        text: String,
    },
    /// Go allows it, nothing here can wait for it.
    #[error("{text:?} is negative")]
    Negative {
        /// What was given.
        text: String,
    },
}

/// Reads a duration after Go's `time.ParseDuration`: decimal numbers, each with a unit out of
/// `ns us µs ms s m h`; `0` alone needs none.
///
/// # Errors
/// Says what is wrong and how it is written.
pub fn parse_go_duration(text: &str) -> Result<Duration, DurationError> {
    let malformed = || DurationError::Malformed { text: text.to_owned() };
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if text.starts_with('-') {
        return Err(DurationError::Negative { text: text.to_owned() });
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest.is_empty() {
        return Err(malformed());
    }
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, tail) = rest.split_at(number_end);
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, after) = tail.split_at(unit_end);
        if unit.is_empty() {
            return Err(DurationError::MissingUnit { text: text.to_owned() });
        }
        let nanos = term_nanos(number, unit).ok_or_else(malformed)?;
        total = total.checked_add(Duration::from_nanos(nanos)).ok_or_else(malformed)?;
        rest = after;
    }
    Ok(total)
}

/// `number` times `unit` in nanoseconds, in whole numbers: the fraction is cut at the nanosecond as Go does.
fn term_nanos(number: &str, unit: &str) -> Option<u64> {
    let unit_nanos: u64 = match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut nanos = whole.checked_mul(unit_nanos)?;
    let mut place = unit_nanos;
    for digit in fraction.chars() {
        place /= 10;
        nanos = nanos.checked_add(u64::from(digit.to_digit(10)?).checked_mul(place)?)?;
    }
    Some(nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what the original's values files hold is read as Go reads it.
    #[test]
    fn go_durations_are_read() {
        for (text, expected) in [
            ("15s", Duration::from_secs(15)),
            ("2m30s", Duration::from_secs(150)),
            ("1h", Duration::from_secs(3600)),
            ("1.5h", Duration::from_secs(5400)),
            (".5s", Duration::from_millis(500)),
            ("100ms", Duration::from_millis(100)),
            ("7us", Duration::from_micros(7)),
            ("1h1ns", Duration::from_secs(3600) + Duration::from_nanos(1)),
            ("0", Duration::ZERO),
        ] {
            assert_eq!(parse_go_duration(text), Ok(expected), "{text}");
        }
    }

    /// Goal: nothing else is, and the message says how to write it.
    #[test]
    fn everything_else_is_refused() {
        for (text, message) in [
            ("15", "\"15\" has no unit; write for example \"15s\" or \"2m30s\""),
            ("", "\"\" is not a duration; write for example \"15s\", \"2m30s\" or \"1h\""),
            ("15x", "\"15x\" is not a duration; write for example \"15s\", \"2m30s\" or \"1h\""),
            ("s", "\"s\" is not a duration; write for example \"15s\", \"2m30s\" or \"1h\""),
            ("1..5s", "\"1..5s\" is not a duration; write for example \"15s\", \"2m30s\" or \"1h\""),
            (
                "99999999999999999999h",
                "\"99999999999999999999h\" is not a duration; write for example \"15s\", \"2m30s\" or \"1h\"",
            ),
            ("-5s", "\"-5s\" is negative"),
        ] {
            assert_eq!(parse_go_duration(text).unwrap_err().to_string(), message);
        }
    }
}
