// SPDX-License-Identifier: MIT OR Apache-2.0

//! The live table: one line per second, the guests side by side.

use crate::trace::Row;

/// Lines between two heads.
const HEAD_EVERY: usize = 20;

/// The table, and how far it is.
pub struct Table {
    guests: Vec<String>,
    lines: usize,
}

impl Table {
    /// For these guests.
    pub fn new(guests: Vec<String>) -> Self {
        Self { guests, lines: 0 }
    }

    fn head(&self) {
        print!("{:>13}", "");
        for name in &self.guests {
            print!(" | {name:<34.34}");
        }
        print!("\n{:>4} {:<8}", "s", "phase");
        for _ in &self.guests {
            print!(
                " | {:>2} {:>4} {:>5} {:>7} {:>6} {:>5}",
                "P", "cap", "req/s", "p95 ms", "viol%", "util%"
            );
        }
        println!();
    }

    /// Prints the line of second `second` of `phase`, whose reports are `rows`; `progress` is how
    /// far the whole run is, in percent.
    pub fn line(&mut self, second: u64, phase: &str, progress: u32, rows: &[Row]) {
        if self.lines % HEAD_EVERY == 0 {
            self.head();
        }
        self.lines += 1;
        print!("{second:>4} {phase:<8}");
        for name in &self.guests {
            let own: Vec<&Row> = rows.iter().filter(|row| row.name == *name).collect();
            let Some(last) = own.last() else {
                print!(" | {:>34}", "(no report)");
                continue;
            };
            let sum = |field: fn(&Row) -> u32| own.iter().map(|row| field(row)).sum::<u32>();
            let seconds = f64::from(sum(|row| row.epoch_ms).max(1)) / 1000.0;
            let requests = sum(|row| row.requests);
            let violations = f64::from(sum(|row| row.violations)) * 100.0;
            let p95_us = own.iter().map(|row| row.p95_us).max().unwrap_or(0);
            print!(
                " | {:>2} {:>3}% {:>5.0} {:>7.0} {:>6.1} {:>5.0}",
                format!("P{}", last.state),
                last.cap,
                f64::from(requests) / seconds,
                f64::from(p95_us) / 1000.0,
                violations / f64::from(requests.max(1)),
                f64::from(sum(|row| row.utilization)) / 10.0 / own.len() as f64,
            );
        }
        println!(" | {progress:>3}%");
    }
}
