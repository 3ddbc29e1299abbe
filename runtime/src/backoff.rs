//! Growing, jittered delays between attempts.

use std::time::Duration;

/// Doubles from `first` to `most`; each delay is drawn from the upper half, so that many clients spread out.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
    random: u64,
}

impl Backoff {
    /// Starts at `first`, never exceeds `most`.
    pub fn new(first: Duration, most: Duration) -> Self {
        // seeded from the address-space layout and clock: spreading needs no better
        let seed = crate::clock::since_epoch().as_nanos() as u64 ^ (&raw const first as u64);
        Self {
            first,
            most,
            next: first,
            random: seed | 1,
        }
    }

    /// The next delay.
    pub fn delay(&mut self) -> Duration {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let fraction = 0.5 + (self.random >> 11) as f64 / (1_u64 << 54) as f64;
        let delay = self.next.mul_f64(fraction);
        self.next = (self.next * 2).min(self.most);
        delay
    }

    /// After a success: begin anew.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_most_and_begin_anew() {
        let (first, most) = (Duration::from_millis(100), Duration::from_secs(1));
        let mut backoff = Backoff::new(first, most);
        let delays: Vec<_> = (0..20).map(|_| backoff.delay()).collect();
        assert!(delays[0] >= first / 2 && delays[0] <= first);
        assert!(delays[19] >= most / 2 && delays[19] <= most);
        backoff.reset();
        assert!(backoff.delay() <= first);
    }
}
