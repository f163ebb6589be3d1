// SPDX-License-Identifier: MIT OR Apache-2.0

//! The one line of JSON that each run ends with.

use std::fmt::Write as _;
use std::time::Instant;

/// A flat JSON object in the making.
pub struct Report {
    text: String,
    start: Instant,
}

impl Report {
    /// A report of the subcommand `test`, which starts now.
    pub fn new(test: &str) -> Self {
        Self {
            text: format!("{{\"test\":\"{test}\""),
            start: Instant::now(),
        }
    }

    /// Adds a number.
    pub fn number(&mut self, name: &str, value: u64) -> &mut Self {
        let _ = write!(self.text, ",\"{name}\":{value}");
        self
    }

    /// Adds how long it took and a rate of `messages`, and prints the line.
    pub fn finish(mut self, ok: bool, messages: u64) {
        let elapsed = self.start.elapsed();
        self.number("ms", elapsed.as_millis() as u64);
        let rate = messages as f64 / elapsed.as_secs_f64().max(1e-6);
        self.number("per_second", rate as u64);
        println!("{},\"ok\":{ok}}}", self.text);
    }
}
