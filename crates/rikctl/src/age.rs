//! Time as people read it: ages such as `5m`, and durations such as `60s` on the command line.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// The time since `then` in its largest unit: `12s`, `5m`, `3h`, `9d`. A time to come has age `0s`.
pub(crate) fn since(now: Timestamp, then: Timestamp) -> String {
    let seconds = now.duration_since(then).as_secs().max(0);
    match seconds {
        0..=119 => format!("{seconds}s"),
        120..=7_199 => format!("{}m", seconds / 60),
        7_200..=172_799 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// A time in full with its age, for describing.
pub(crate) fn stamp(now: Timestamp, then: Timestamp) -> String {
    format!("{then:.0} ({} ago)", since(now, then))
}

/// Longest time that a command waits: a day. A longer wait belongs into a script's loop.
const MAX_WAIT: Duration = Duration::from_secs(86_400);

/// Reads `60s`, `5m`, `1h30m`, or a bare number of seconds.
///
/// # Errors
/// A sentence for the person who typed it.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let seconds =
        text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok().map(Duration::from_secs));
    let length = match seconds {
        Some(length) => length,
        None => text.parse::<SignedDuration>().ok().and_then(|signed| Duration::try_from(signed).ok()),
    };
    length
        .filter(|length| *length <= MAX_WAIT)
        .ok_or_else(|| "allowed are 0s to 24h, such as 90s, 5m or 1h".to_owned())
}

/// A duration as it would be typed.
pub(crate) fn spelled(length: Duration) -> String {
    let seconds = length.as_secs();
    match seconds {
        0 => format!("{}ms", length.as_millis()),
        _ if seconds.is_multiple_of(3_600) => format!("{}h", seconds / 3_600),
        _ if seconds.is_multiple_of(60) => format!("{}m", seconds / 60),
        _ => format!("{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("60s"), Ok(Duration::from_secs(60)));
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5_400)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        for text in ["", "-5s", "soon", "25h", "99999999999999999999", "1y"] {
            assert!(duration(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_age_is_told_in_its_largest_unit() {
        let then = Timestamp::UNIX_EPOCH;
        let after = |seconds| since(Timestamp::from_second(seconds).unwrap(), then);
        assert_eq!(
            [after(-5), after(119), after(120), after(7_200), after(172_800)],
            ["0s", "119s", "2m", "2h", "2d"]
        );
    }
}
