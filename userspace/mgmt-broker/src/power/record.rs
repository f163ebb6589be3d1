// SPDX-License-Identifier: MIT OR Apache-2.0

//! The broker's trace: one line of CSV for each report.

use super::proto::Report;
use std::fmt;

/// The names of the columns.
pub const HEADER: &str = "time_ms,domain,name,epoch,epoch_ms,mode,state,cap,requests,violations,\
rejected,notification,utilization_permille,p50_us,p95_us,max_us,sla_us,queued,decision";

/// One report, and what the policy made of it.
#[derive(Clone, Debug)]
pub struct Record {
    /// Since the broker started, milliseconds.
    pub time_ms: u64,
    /// The VM.
    pub domain: u32,
    /// What its agent calls itself.
    pub name: String,
    /// `active` or `observe`.
    pub mode: &'static str,
    /// The performance state in the epoch: an index, 0 is the lowest.
    pub state: usize,
    /// Its cap, percent of a CPU.
    pub cap: u32,
    /// The report.
    pub report: Report,
    /// What the policy decided.
    pub decision: &'static str,
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let r = &self.report;
        // The name is the guest's: it must not make columns or lines.
        let safe = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let name: String = self.name.chars().filter(safe).collect();
        write!(
            f,
            "{},{},{name},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{}",
            self.time_ms,
            self.domain,
            r.epoch,
            r.epoch_ms,
            self.mode,
            self.state,
            self.cap,
            r.requests,
            r.violations,
            r.rejected,
            u8::from(r.notification),
            r.utilization,
            r.p50_us,
            r.p95_us,
            r.max_us,
            r.sla_us,
            r.queued,
            self.decision,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_the_columns_of_the_header() {
        let record = Record {
            time_ms: 1,
            domain: 3,
            name: "we,b\n1".into(),
            mode: "active",
            state: 2,
            cap: 60,
            report: Report::default(),
            decision: "keep",
        };
        let line = record.to_string();
        assert_eq!(line.split(',').count(), HEADER.split(',').count());
        assert!(line.starts_with("1,3,web1,"), "{line}");
    }
}
