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
    /// Work that costs about `target` on this CPU while nothing else holds it up: the smallest
    /// time of many tries is taken, as whatever disturbs only adds.
    pub fn calibrate(target: Duration) -> Self {
        let probe = Self { rounds: 8 };
        let mut least = Duration::MAX;
        let end = Instant::now() + Duration::from_millis(800);
        while Instant::now() < end {
            let start = Instant::now();
            std::hint::black_box(probe.run(1));
            least = least.min(start.elapsed());
        }
        let round = least.as_secs_f64() / f64::from(probe.rounds);
        Self {
            rounds: (target.as_secs_f64() / round).clamp(1.0, 1e6) as u32,
        }
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
