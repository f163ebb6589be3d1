// SPDX-License-Identifier: MIT OR Apache-2.0

//! The policy against a simulated server: the claim of the paper's §5.1.1 without a machine.

use super::policy::{Basic, Observation};
use proptest::prelude::*;
use std::collections::VecDeque;

/// xorshift64*: the same load for the same seed.
struct Random(u64);

impl Random {
    fn unit(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// One server with a bounded queue in a VM with a capped CPU. Times in milliseconds.
struct Server {
    queue: VecDeque<f64>,
    now: f64,
    next_arrival: f64,
    /// Work left of the request at the head of the queue.
    left: f64,
    random: Random,
}

const SERVICE: f64 = 8.0;
const SLA: f64 = 160.0;
const QUEUE: usize = 64;
const EPOCH: f64 = 500.0;

impl Server {
    fn new(seed: u64) -> Self {
        Self {
            queue: VecDeque::new(),
            now: 0.0,
            next_arrival: 0.0,
            left: SERVICE,
            random: Random(seed | 1),
        }
    }

    /// Runs an epoch; (requests, violations, utilization per mille).
    fn epoch(&mut self, cap: u32, load: f64) -> (u32, u32, u32) {
        let speed = f64::from(cap) / 100.0;
        let end = self.now + EPOCH;
        let (mut requests, mut violations, mut idle) = (0, 0, 0.0);
        while self.now < end {
            let finish = match self.queue.front() {
                Some(_) => self.now + self.left / speed,
                None => f64::INFINITY,
            };
            let next = self.next_arrival.min(finish).min(end);
            if self.queue.is_empty() {
                idle += next - self.now;
            } else {
                self.left -= (next - self.now) * speed;
            }
            self.now = next;
            if next == finish {
                requests += 1;
                violations += u32::from(next - self.queue.pop_front().unwrap_or(next) > SLA);
                self.left = SERVICE;
            } else if next == self.next_arrival {
                if self.queue.len() < QUEUE {
                    self.queue.push_back(next);
                } else {
                    requests += 1;
                    violations += 1;
                }
                self.next_arrival = next - (1.0 - self.random.unit()).ln() * SERVICE / load;
            }
        }
        let utilization = ((1.0 - idle / EPOCH) * 1000.0).clamp(0.0, 1000.0) as u32;
        (requests, violations, utilization)
    }
}

/// Violations and the mean cap over `epochs`, from the lowest state on.
fn run(policy: Option<&Basic>, seed: u64, load: f64, epochs: u32) -> (u32, f64) {
    let caps = [20, 40, 60, 80, 100];
    let mut server = Server::new(seed);
    let mut vm = Basic::default().vm(0);
    let (mut violations, mut sum) = (0, 0);
    for _ in 0..epochs {
        let cap = caps[vm.state];
        sum += cap;
        let (requests, violated, utilization) = server.epoch(cap, load);
        violations += violated;
        if let Some(policy) = policy {
            let notification = violated * 100 > requests;
            let seen = Observation {
                notification,
                utilization,
            };
            policy.decide(&mut vm, caps.len(), seen);
        }
    }
    (violations, f64::from(sum) / f64::from(epochs))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A VM that starves in the lowest state recovers: under a quarter of the violations, and not
    /// by simply staying at the top.
    #[test]
    fn coordination_ends_starvation(seed in any::<u64>(), load in 0.35f64..0.62) {
        let (without, _) = run(None, seed, load, 120);
        let (with, mean_cap) = run(Some(&Basic::default()), seed, load, 120);
        prop_assert!(with * 4 < without, "{with} with, {without} without");
        prop_assert!(mean_cap < 95.0, "mean cap {mean_cap}");
    }

    /// With little to do, power is saved without violations to speak of.
    #[test]
    fn an_idle_vm_is_lowered(seed in any::<u64>()) {
        let (with, mean_cap) = run(Some(&Basic::default()), seed, 0.05, 120);
        prop_assert!(mean_cap < 30.0, "mean cap {mean_cap}");
        prop_assert!(with < 50, "{with} violations");
    }
}
