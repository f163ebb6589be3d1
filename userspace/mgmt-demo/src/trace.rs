// SPDX-License-Identifier: MIT OR Apache-2.0

//! The trace of a run: the power broker's records, each with the phase that it came in.

use anyhow::{Context, Result, bail};
use mgmt_broker::power;
use std::path::Path;

/// The phases, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Before the load: the servers' capacity is measured.
    Prepare,
    /// Load, and nobody who answers violations.
    Without,
    /// The same load, and the power broker.
    With,
    /// Less load, and the power broker: what is saved.
    Relaxed,
}

impl Phase {
    const ALL: [Self; 4] = [Self::Prepare, Self::Without, Self::With, Self::Relaxed];

    /// As written in the trace.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Without => "without",
            Self::With => "with",
            Self::Relaxed => "relaxed",
        }
    }
}

/// One epoch of one guest, as far as it is shown.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The phase in which the report came.
    pub phase: Phase,
    /// Since the phase began, milliseconds.
    pub phase_ms: u64,
    /// The guest's domain id.
    pub domain: u32,
    /// What its agent calls itself.
    pub name: String,
    /// Length of the epoch, milliseconds.
    pub epoch_ms: u32,
    /// Performance state, 0 is the lowest.
    pub state: usize,
    /// Its cap, percent.
    pub cap: u32,
    /// Requests answered or turned away.
    pub requests: u32,
    /// Those that took longer than the SLA or were turned away.
    pub violations: u32,
    /// Utilization of the allotted CPU, per mille.
    pub utilization: u32,
    /// 95th percentile of the response time, microseconds.
    pub p95_us: u32,
    /// The SLA, microseconds.
    pub sla_us: u32,
    /// What the policy decided.
    pub decision: String,
}

/// The first line of a trace.
pub fn header() -> String {
    format!("phase,phase_ms,{}", power::HEADER)
}

/// A line of a trace.
pub fn line(phase: Phase, phase_ms: u64, record: &str) -> String {
    format!("{},{phase_ms},{record}", phase.name())
}

impl Row {
    /// Reads a line of a trace.
    pub fn parse(line: &str) -> Result<Self> {
        let columns: Vec<&str> = "phase,phase_ms"
            .split(',')
            .chain(power::HEADER.split(','))
            .collect();
        let values: Vec<&str> = line.split(',').collect();
        if values.len() != columns.len() {
            bail!("{} columns, {} expected", values.len(), columns.len());
        }
        let text = |name: &str| -> &str {
            let index = columns.iter().position(|&column| column == name);
            index.map_or("", |index| values[index])
        };
        let number = |name: &str| -> Result<u64> {
            text(name)
                .parse()
                .with_context(|| format!("column {name}: {:?}", text(name)))
        };
        let short = |name: &str| -> Result<u32> {
            u32::try_from(number(name)?).with_context(|| format!("column {name}"))
        };
        Ok(Self {
            phase: Phase::ALL
                .into_iter()
                .find(|phase| phase.name() == text("phase"))
                .with_context(|| format!("unknown phase {:?}", text("phase")))?,
            phase_ms: number("phase_ms")?,
            domain: short("domain")?,
            name: text("name").to_owned(),
            epoch_ms: short("epoch_ms")?,
            state: short("state")? as usize,
            cap: short("cap")?,
            requests: short("requests")?,
            violations: short("violations")?,
            utilization: short("utilization_permille")?,
            p95_us: short("p95_us")?,
            sla_us: short("sla_us")?,
            decision: text("decision").to_owned(),
        })
    }
}

/// Reads a trace.
pub fn read(path: &Path) -> Result<Vec<Row>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let mut lines = text.lines().enumerate();
    if lines.next().map(|(_, line)| line) != Some(&header()) {
        bail!("{}: not a trace of this version", path.display());
    }
    lines
        .map(|(number, line)| {
            Row::parse(line).with_context(|| format!("{}:{}", path.display(), number + 1))
        })
        .collect()
}

/// The guests of a trace, by name.
pub fn guests(rows: &[Row]) -> Vec<String> {
    let mut names: Vec<String> = rows.iter().map(|row| row.name.clone()).collect();
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// An epoch for the tests of what reads traces.
    pub fn row(phase: Phase, name: &str, epoch: u64, requests: u32, violations: u32) -> Row {
        Row {
            phase,
            phase_ms: epoch * 500,
            domain: 1,
            name: name.into(),
            epoch_ms: 500,
            state: 1,
            cap: 40,
            requests,
            violations,
            utilization: 700,
            p95_us: 30_000,
            sla_us: 100_000,
            decision: "keep".into(),
        }
    }

    #[test]
    fn a_line_is_read_by_the_names_of_its_columns() {
        let record = "1500,3,pv1,3,501,active,2,60,25,2,1,1,850,9000,40000,90000,80000,4,raise";
        let row = Row::parse(&line(Phase::With, 700, record)).unwrap();
        let expected = Row {
            phase_ms: 700,
            domain: 3,
            epoch_ms: 501,
            state: 2,
            cap: 60,
            utilization: 850,
            p95_us: 40_000,
            sla_us: 80_000,
            decision: "raise".into(),
            ..self::row(Phase::With, "pv1", 0, 25, 2)
        };
        assert_eq!(row, expected);
        assert!(Row::parse("with,700").is_err());
        assert!(Row::parse(&line(Phase::With, 700, &record.replace("60", "x"))).is_err());
    }
}
