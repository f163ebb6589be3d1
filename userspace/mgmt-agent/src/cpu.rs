// SPDX-License-Identifier: MIT OR Apache-2.0

//! The utilization of the VM's *allotted* CPU.
//!
//! A capped VM that wants to run is kept from it by the hypervisor; the guest sees that as stolen
//! time. To the guest's work a cap of 40 % is a CPU of 40 % of the speed, and its share of that is
//! busy as long as there is something to do, stolen or not. So utilization is the part of the epoch
//! that was *not idle*: an overloaded VM shows 100 %, an idle one 0 %, at every cap. Busy time over
//! busy and idle would call a VM almost idle that needs half of a cap of 20 %.
//!
//! Idle time is taken against the clock, not against the sum of the other columns of `/proc/stat`:
//! stolen time that begins while the VM is idle is counted in both.

use std::time::{Duration, Instant};

/// `USER_HZ`: the unit of `/proc/stat`, on every Linux of this architecture.
const TICKS_PER_SECOND: u64 = 100;

/// Measures utilization between two calls.
#[derive(Debug)]
pub struct Utilization {
    last: Instant,
    /// Idle time of all CPUs together, ticks.
    idle: u64,
}

impl Utilization {
    /// Starts to measure. `None` if there is no `/proc/stat`.
    pub fn start() -> Option<Self> {
        let idle = read(&std::fs::read_to_string("/proc/stat").ok()?)?.0;
        Some(Self {
            last: Instant::now(),
            idle,
        })
    }

    /// Utilization since the last call, per mille.
    pub fn since_last(&mut self) -> Option<u32> {
        let (idle, cpus) = read(&std::fs::read_to_string("/proc/stat").ok()?)?;
        let now = Instant::now();
        let part = busy(idle.saturating_sub(self.idle), cpus, now - self.last);
        (self.last, self.idle) = (now, idle);
        Some(part)
    }
}

/// The part of `elapsed` in which the CPUs were not idle, per mille.
fn busy(idle_ticks: u64, cpus: u64, elapsed: Duration) -> u32 {
    let idle_us = idle_ticks * (1_000_000 / TICKS_PER_SECOND);
    let all_us = (elapsed.as_micros() as u64 * cpus.max(1)).max(1);
    1000 - (idle_us * 1000 / all_us).min(1000) as u32
}

/// Idle ticks (waiting for input and output included) and the number of CPUs.
fn read(stat: &str) -> Option<(u64, u64)> {
    let mut fields = stat
        .lines()
        .next()?
        .strip_prefix("cpu ")?
        .split_whitespace();
    let idle: u64 = fields.nth(3)?.parse().ok()?;
    let waiting: u64 = fields.next()?.parse().ok()?;
    let is_cpu = |line: &&str| line.starts_with("cpu") && !line.starts_with("cpu ");
    Some((idle + waiting, stat.lines().filter(is_cpu).count() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_table_is_read() {
        let stat = "cpu  10 20 30 400 5 6 7 800 0 0\ncpu0 5 10\ncpu1 5 10\nintr 1 2\n";
        assert_eq!(read(stat), Some((405, 2)));
        assert_eq!(read("nonsense"), None);
        assert_eq!(read(""), None);
    }

    #[test]
    fn what_is_not_idle_is_used() {
        let half = Duration::from_millis(500);
        // idle ticks of 50, CPUs: per mille
        for (idle, cpus, expected) in [
            (0, 1, 1000), // overloaded, at whatever cap: never idle
            (50, 1, 0),
            (60, 1, 0), // counted coarsely
            (20, 1, 600),
            (50, 2, 500),
            (0, 0, 1000),
        ] {
            assert_eq!(busy(idle, cpus, half), expected, "{idle} {cpus}");
        }
    }

    #[test]
    fn this_machine_can_be_measured() {
        let mut utilization = Utilization::start().unwrap();
        std::thread::sleep(Duration::from_millis(20));
        assert!(utilization.since_last().unwrap() <= 1000);
    }
}
