//! Waiting for a condition, never for a time: with a deadline, and with the last seen state when it passes.

use std::fmt::Display;
use std::thread;
use std::time::{Duration, Instant};

use crate::guest;

/// For what happens at once on a machine that is not overloaded.
pub const SHORT: Duration = Duration::from_secs(20);
/// For what takes a timeout of RIK's own first, such as a node found missing (15 s).
pub const LONG: Duration = Duration::from_secs(60);
/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(50);

/// Looks at a condition again and again. `look` gives `Ok(value)` when it holds, else a description of what it saw.
///
/// # Panics
/// When `deadline` passes; the message says what was waited for and what was seen last.
#[track_caller]
pub fn wait_until<T, S: Display>(
    deadline: Duration,
    what: &str,
    mut look: impl FnMut() -> Result<T, S>,
) -> T {
    let started = Instant::now();
    let deadline = deadline * guest::patience();
    loop {
        match look() {
            Ok(value) => return value,
            Err(seen) if started.elapsed() >= deadline => {
                panic!("waited {deadline:?} for {what}; last seen: {seen}")
            }
            Err(_) => thread::sleep(POLL),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn condition_that_comes_true_gives_its_value() {
        let mut looks = 0;
        let value = wait_until(SHORT, "three looks", || {
            looks += 1;
            if looks == 3 { Ok(looks) } else { Err(format!("{looks} looks")) }
        });
        assert_eq!(value, 3);
    }

    #[test]
    #[should_panic(expected = "waited 1ms for the moon; last seen: a cloud")]
    fn condition_that_never_holds_tells_what_was_seen() {
        wait_until(Duration::from_millis(1), "the moon", || Err::<(), _>("a cloud"));
    }
}
