//! How long a record waits before it is tried again: exponential backoff with jitter, as in
//! <https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/>.

use crate::manifest::{Jitter, RetrySpec};

/// The pause in ms after the `attempt_count`th failure, the first being 1. `random` is uniform in
/// `0.0..1.0`.
pub(in crate::pipeline) fn backoff_ms(retry: &RetrySpec, attempt_count: u32, random: f64) -> u64 {
    let exponent = attempt_count.saturating_sub(1).min(10_000) as i32;
    if retry.initial.is_zero() {
        return 0;
    }
    let initial_ms = retry.initial.as_millis() as f64;
    let max_ms = retry.max.as_millis() as f64;
    // A power that is too large is infinite, and then the cap counts.
    let full_ms = (initial_ms * retry.multiplier.powi(exponent)).min(max_ms);
    let pause_ms = match retry.jitter {
        Jitter::None => full_ms,
        Jitter::Full => full_ms * random,
        Jitter::Equal => full_ms / 2.0 + full_ms / 2.0 * random,
    };
    pause_ms as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::RetryOrder;
    use proptest::prelude::*;
    use std::time::Duration;

    fn retry(jitter: Jitter) -> RetrySpec {
        RetrySpec {
            max_attempts: 5,
            initial: Duration::from_secs(1),
            multiplier: 2.0,
            max: Duration::from_secs(60),
            jitter,
            order: RetryOrder::Key,
        }
    }

    #[test]
    fn pauses_double_up_to_the_cap() {
        let retry = retry(Jitter::None);
        let pauses: Vec<u64> = (1..=8)
            .map(|count| backoff_ms(&retry, count, 0.9))
            .collect();
        assert_eq!(pauses, [1000, 2000, 4000, 8000, 16000, 32000, 60000, 60000]);
        assert_eq!(backoff_ms(&retry, u32::MAX, 0.0), 60_000);
    }

    #[test]
    fn each_pause_is_the_one_before_it_times_the_multiplier() {
        let mut retry = retry(Jitter::None);
        retry.multiplier = 3.0;
        let pauses: Vec<u64> = (1..=5)
            .map(|count| backoff_ms(&retry, count, 0.9))
            .collect();
        assert_eq!(pauses, [1000, 3000, 9000, 27000, 60000]);
    }

    #[test]
    fn no_pause_stays_none_however_often_it_fails() {
        let mut retry = retry(Jitter::None);
        retry.initial = Duration::ZERO;
        assert_eq!(backoff_ms(&retry, 5000, 0.5), 0);
    }

    proptest! {
        #[test]
        fn jitter_stays_in_its_range(count in 1u32..100, random in 0.0f64..1.0) {
            let full = backoff_ms(&retry(Jitter::None), count, random);
            prop_assert!(backoff_ms(&retry(Jitter::Full), count, random) <= full);
            let equal = backoff_ms(&retry(Jitter::Equal), count, random);
            prop_assert!((full / 2..=full).contains(&equal));
        }
    }

    #[test]
    fn full_jitter_reaches_from_nothing_to_everything() {
        assert_eq!(backoff_ms(&retry(Jitter::Full), 3, 0.0), 0);
        assert_eq!(backoff_ms(&retry(Jitter::Full), 3, 0.999_999), 3_999);
    }

    #[test]
    fn equal_jitter_reaches_from_half_to_everything() {
        assert_eq!(backoff_ms(&retry(Jitter::Equal), 3, 0.0), 2_000);
        assert_eq!(backoff_ms(&retry(Jitter::Equal), 3, 0.999_999), 3_999);
    }
}
