// SPDX-License-Identifier: MIT OR Apache-2.0

//! The work behind one request: a hash over so many kilobytes that it costs a chosen time.

use std::hash::{DefaultHasher, Hasher as _};
use std::time::{Duration, Instant};

/// Bytes hashed in one round.
const BLOCK: usize = 16 << 10;

/// Work of a fixed size.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    rounds: u32,
}

impl Work {
    /// Work that costs about `target` on this CPU.
    ///
    /// The time that a fifth of many tries did not exceed: those during which another VM had the
    /// CPU are too long, and on a virtual machine whose clock jumps a few may be far too short.
    pub fn calibrate(target: Duration) -> Self {
        const TRIES: usize = 101;
        let mut probe = Self { rounds: 1 };
        // A try must be long against the clock's steps.
        while probe.time() < target / 4 && probe.rounds < 1 << 20 {
            probe.rounds *= 2;
        }
        let mut times: Vec<Duration> = (0..TRIES).map(|_| probe.time()).collect();
        times.sort_unstable();
        let round = times[TRIES / 5].as_secs_f64() / f64::from(probe.rounds);
        Self {
            rounds: (target.as_secs_f64() / round.max(1e-9)).clamp(1.0, 1e6) as u32,
        }
    }

    fn time(&self) -> Duration {
        let start = Instant::now();
        std::hint::black_box(self.run(1));
        start.elapsed()
    }

    /// Does it.
    pub fn run(&self, seed: u64) -> u64 {
        let block = [seed as u8; BLOCK];
        let mut hasher = DefaultHasher::new();
        for _ in 0..self.rounds {
            hasher.write(&block);
        }
        hasher.finish()
    }

    /// Kilobytes hashed.
    pub fn kib(&self) -> u64 {
        u64::from(self.rounds) * (BLOCK as u64 >> 10)
    }
}
