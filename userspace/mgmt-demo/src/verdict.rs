// SPDX-License-Identifier: MIT OR Apache-2.0

//! Whether coordination helped.

use crate::trace::{Phase, Row, guests};
use mgmt_agent::EPOCH;
use std::fmt;

/// Violations per epoch with coordination must be below this part of those without.
const PART: f64 = 0.25;
/// Fewer epochs than this in a phase tell nothing.
const EPOCHS_MIN: usize = 20;

/// A phase of a guest, on average per epoch of 500 ms: a starved agent's epochs may be longer.
#[derive(Clone, Copy, Debug, Default)]
struct Mean {
    /// Reports.
    epochs: usize,
    requests: f64,
    violations: f64,
    cap: f64,
}

/// A guest's phases and what is wrong with them.
#[derive(Debug)]
struct Guest {
    name: String,
    without: Mean,
    with: Mean,
    relaxed: Mean,
    /// Violations per epoch in the last third of the phase with coordination.
    settled: f64,
    faults: Vec<String>,
}

/// The verdict on a run.
#[derive(Debug)]
pub struct Verdict {
    guests: Vec<Guest>,
}

fn mean<'a>(rows: impl Iterator<Item = &'a Row>) -> Mean {
    let mut sum = Mean::default();
    let mut length = 0.0;
    for row in rows {
        let epochs = f64::from(row.epoch_ms) / EPOCH.as_millis() as f64;
        length += epochs;
        sum.epochs += 1;
        sum.requests += f64::from(row.requests);
        sum.violations += f64::from(row.violations);
        sum.cap += f64::from(row.cap) * epochs;
    }
    let n = f64::max(length, 1e-3);
    Mean {
        epochs: sum.epochs,
        requests: sum.requests / n,
        violations: sum.violations / n,
        cap: sum.cap / n,
    }
}

/// The part of the epochs of the guest that reported most of which each must have reported.
const REPORTED: f64 = 0.5;

/// Judges a trace.
pub fn judge(rows: &[Row]) -> Verdict {
    let guests = guests(rows).into_iter().map(|name| {
        let of = |phase| rows.iter().filter(move |row| row.phase == phase);
        let of = |phase| of(phase).filter(|row| row.name == name);
        let (without, with) = (mean(of(Phase::Without)), mean(of(Phase::With)));
        let last = of(Phase::With).skip(with.epochs * 2 / 3);
        let mut guest = Guest {
            settled: mean(last).violations,
            relaxed: mean(of(Phase::Relaxed)),
            faults: Vec::new(),
            name,
            without,
            with,
        };
        guest.faults = faults(&guest);
        guest
    });
    let mut guests: Vec<Guest> = guests.collect();
    for (phase, mean) in [
        (
            "without coordination",
            (|guest| &guest.without) as fn(&Guest) -> &Mean,
        ),
        ("with coordination", |guest| &guest.with),
        ("when the load had dropped", |guest| &guest.relaxed),
    ] {
        let most = guests.iter().map(|guest| mean(guest).epochs).max();
        let most = most.unwrap_or(0);
        for guest in &mut guests {
            let epochs = mean(guest).epochs;
            if (epochs as f64) < most as f64 * REPORTED {
                guest.faults.push(format!(
                    "it fell silent: {epochs} of {most} epochs were reported {phase}"
                ));
            }
        }
    }
    Verdict { guests }
}

fn faults(guest: &Guest) -> Vec<String> {
    let Guest { without, with, .. } = guest;
    let mut faults = Vec::new();
    for (mean, phase) in [(without, "without"), (with, "with")] {
        if mean.epochs < EPOCHS_MIN {
            faults.push(format!(
                "only {} epochs were reported {phase} coordination, {EPOCHS_MIN} are needed",
                mean.epochs
            ));
        }
    }
    if !faults.is_empty() {
        return faults;
    }
    if without.violations < 1.0 {
        faults.push(format!(
            "it did not starve without coordination ({:.2} violations per epoch), so there was \
             nothing to recover from",
            without.violations
        ));
    }
    // The same load: what the server answered or turned away may differ by what waits at the ends.
    if with.requests < 0.75 * without.requests || with.requests > 1.5 * without.requests {
        faults.push(format!(
            "the load was not the same: {:.1} requests per epoch without, {:.1} with",
            without.requests, with.requests
        ));
    }
    if with.violations >= PART * without.violations {
        faults.push(format!(
            "{:.2} violations per epoch with coordination are not under a quarter of {:.2} without",
            with.violations, without.violations
        ));
    }
    faults
}

impl Verdict {
    /// Whether coordination helped every guest.
    pub fn passed(&self) -> bool {
        !self.guests.is_empty() && self.guests.iter().all(|guest| guest.faults.is_empty())
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:10} {:>22} {:>22} {:>7} {:>9} {:>20}",
            "guest", "violations per epoch", "requests per epoch", "ratio", "settled", "mean cap"
        )?;
        writeln!(
            f,
            "{:10} {:>11}{:>11} {:>11}{:>11} {:>7} {:>9} {:>7}{:>6}{:>7}",
            "", "without", "with", "without", "with", "", "with", "without", "with", "relaxed"
        )?;
        for guest in &self.guests {
            let Guest {
                name,
                without,
                with,
                relaxed,
                settled,
                ..
            } = guest;
            let ratio = with.violations / without.violations.max(f64::MIN_POSITIVE);
            writeln!(
                f,
                "{name:10} {:>11.2}{:>11.2} {:>11.1}{:>11.1} {:>6.1}% {settled:>9.2} \
                 {:>6.0}%{:>5.0}%{:>6.0}%",
                without.violations,
                with.violations,
                without.requests,
                with.requests,
                (ratio * 100.0).min(999.0),
                without.cap,
                with.cap,
                relaxed.cap,
            )?;
        }
        for guest in &self.guests {
            for fault in &guest.faults {
                writeln!(f, "{}: {fault}", guest.name)?;
            }
        }
        let text = match (self.guests.is_empty(), self.passed()) {
            (true, _) => "FAIL: the trace holds no reports",
            (_, true) => "PASS: with coordination under a quarter of the violations of without",
            (_, false) => "FAIL: see above",
        };
        writeln!(f, "{text}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::tests::row;

    fn phase(phase: Phase, epochs: u64, requests: u32, violations: u32) -> Vec<Row> {
        let rows = (0..epochs).map(|epoch| row(phase, "pv1", epoch, requests, violations));
        rows.collect()
    }

    #[test]
    fn verdicts_and_their_reasons() {
        // without: epochs, requests, violations; with: the same; a part of the reason
        for (without, with, reason) in [
            ((80, 25, 25), (80, 25, 6), ""),
            ((80, 25, 24), (80, 25, 6), "not under a quarter"),
            ((80, 25, 0), (80, 25, 0), "did not starve"),
            ((80, 25, 25), (80, 10, 0), "not the same"),
            ((80, 25, 25), (5, 25, 0), "only 5 epochs"),
            ((0, 0, 0), (80, 25, 0), "only 0 epochs"),
        ] {
            let mut rows = phase(Phase::Without, without.0, without.1, without.2);
            rows.extend(phase(Phase::With, with.0, with.1, with.2));
            let verdict = judge(&rows);
            assert_eq!(verdict.passed(), reason.is_empty(), "{verdict}");
            assert!(verdict.to_string().contains(reason), "{verdict}");
        }
        assert!(!judge(&[]).passed());
    }

    #[test]
    fn a_guest_that_falls_silent_is_a_failure() {
        for silent in [Phase::Without, Phase::With, Phase::Relaxed] {
            let mut rows = phase(Phase::Without, 80, 25, 25);
            rows.extend(phase(Phase::With, 80, 25, 1));
            rows.extend(phase(Phase::Relaxed, 40, 5, 0));
            let other = |row: &Row| Row {
                name: "pvh1".into(),
                ..row.clone()
            };
            let others: Vec<_> = rows.iter().map(other).collect();
            let verdict = judge(&[&rows[..], &others[..]].concat());
            assert!(verdict.passed(), "{verdict}");
            let mut left = 15;
            let heard = others.into_iter().filter(|row| {
                left -= i32::from(row.phase == silent);
                row.phase != silent || left >= 0
            });
            rows.extend(heard);
            let verdict = judge(&rows);
            assert!(!verdict.passed(), "{verdict}");
            assert!(
                verdict.to_string().contains("it fell silent: 15 of"),
                "{verdict}"
            );
        }
    }

    #[test]
    fn one_guest_that_was_not_helped_is_enough_to_fail() {
        let mut rows = phase(Phase::Without, 80, 25, 25);
        rows.extend(phase(Phase::With, 80, 25, 1));
        assert!(judge(&rows).passed());
        let other = |row: &Row| Row {
            name: "pvh1".into(),
            violations: 25,
            ..row.clone()
        };
        rows.extend(rows.iter().map(other).collect::<Vec<_>>());
        assert!(!judge(&rows).passed());
    }
}
