// SPDX-License-Identifier: MIT OR Apache-2.0

//! The control protocol: a line in, a line out, which begins with `ok` or `error`.
//!
//! `docs/bmc.md` has all of it.

use crate::bmc::Bmc;
use crate::fault::{Fault, Faults, Kind};
use crate::sel::Event;
use std::fmt::Write as _;
use std::str::FromStr;
use std::time::Duration;

/// What a line asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Command {
    /// What the CPUs do; `None`: all of them.
    Cpu {
        /// Which.
        cpu: Option<usize>,
        /// Percent of the fastest.
        performance: Option<u8>,
        /// Percent of its time.
        utilization: Option<f64>,
    },
    /// The air at the inlet, °C.
    Inlet(f64),
    /// An event of a sensor.
    Event(Event),
    /// A fault.
    Fault(Fault),
    /// No faults, and no hanging.
    Clear,
    /// Answer nothing, read nothing.
    Hang,
    /// Break the connection to the machine, and make a new one after a while.
    Disconnect(Duration),
    /// Start anew, as after Cold Reset.
    Reset,
    /// Tell how things are.
    Status,
}

/// What is left to the owner of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    /// As it is.
    Keep,
    /// Go on reading.
    Resume,
    /// Stop reading.
    Hang,
    /// Break it for a while.
    Break(Duration),
}

/// Does what a line asks for; the answer, and what it means for the connection.
pub fn run(line: &str, bmc: &mut Bmc, faults: &mut Faults) -> (String, Connection) {
    match parse(line).and_then(|command| execute(command, bmc, faults)) {
        Ok((text, connection)) => (format!("ok{text}"), connection),
        Err(why) => (format!("error {why}"), Connection::Keep),
    }
}

fn execute(
    command: Command,
    bmc: &mut Bmc,
    faults: &mut Faults,
) -> Result<(String, Connection), String> {
    match command {
        Command::Cpu {
            cpu,
            performance,
            utilization,
        } => set_cpus(bmc, cpu, performance, utilization)?,
        Command::Inlet(celsius) => bmc.inlet = celsius,
        Command::Event(event) => bmc.event(&event),
        Command::Fault(fault) => faults.add(fault),
        Command::Clear => {
            faults.clear();
            return Ok((String::new(), Connection::Resume));
        }
        Command::Hang => return Ok((String::new(), Connection::Hang)),
        Command::Disconnect(time) => return Ok((String::new(), Connection::Break(time))),
        Command::Reset => bmc.reset(),
        Command::Status => return Ok((status(bmc, faults), Connection::Keep)),
    }
    Ok((String::new(), Connection::Keep))
}

fn set_cpus(
    bmc: &mut Bmc,
    cpu: Option<usize>,
    performance: Option<u8>,
    utilization: Option<f64>,
) -> Result<(), String> {
    let model = &mut bmc.power.model;
    let cpus = match cpu {
        Some(cpu) => cpu..cpu + 1,
        None => 0..model.parameters().cpus,
    };
    let none = |_| "no such CPU, or not in 0 to 100".to_owned();
    for cpu in cpus {
        if let Some(percent) = performance {
            model.set_performance(cpu, percent).map_err(none)?;
        }
        if let Some(percent) = utilization {
            model.set_utilization(cpu, percent).map_err(none)?;
        }
    }
    Ok(())
}

fn status(bmc: &Bmc, faults: &Faults) -> String {
    let model = &bmc.power.model;
    let mut out = String::new();
    let mut add = |name: &str, value: String| {
        let _ = write!(out, " {name}={value}");
    };
    add("reading", format!("{:.1}", bmc.power.reading()));
    add("level", format!("{:.1}", model.level()));
    add("target", format!("{:.1}", model.target()));
    add("throttle", model.throttle().to_string());
    add(
        "limit",
        match bmc.power.limit() {
            Some(limit) if bmc.power.limit_active() => limit.watts.to_string(),
            _ => "none".into(),
        },
    );
    add("sel", bmc.sel.len().to_string());
    add("answered", bmc.answered().to_string());
    add("faults", faults.len().to_string());
    add(
        "chassis",
        match bmc.chassis.asked {
            Some(control) => control.to_string(),
            None => "none".into(),
        },
    );
    out
}

/// Reads a line.
pub fn parse(line: &str) -> Result<Command, String> {
    let mut words = Words(line.split_whitespace());
    let command = match words.next("a command")? {
        "cpu" => cpu(&mut words)?,
        "inlet" => Command::Inlet(words.value("degrees")?),
        "event" => event(&mut words)?,
        "fault" => fault(&mut words)?,
        "clear" => Command::Clear,
        "hang" => Command::Hang,
        "disconnect" => Command::Disconnect(Duration::from_millis(words.value("milliseconds")?)),
        "reset" => Command::Reset,
        "status" => Command::Status,
        other => return Err(format!("unknown command {other}")),
    };
    match words.0.next() {
        None => Ok(command),
        Some(word) => Err(format!("what is {word}?")),
    }
}

struct Words<'a>(std::str::SplitWhitespace<'a>);

impl<'a> Words<'a> {
    fn next(&mut self, what: &str) -> Result<&'a str, String> {
        self.0.next().ok_or_else(|| format!("{what} is missing"))
    }

    fn value<T: FromStr>(&mut self, what: &str) -> Result<T, String> {
        value(self.next(what)?)
    }

    /// The rest, as names and values.
    fn options(&mut self) -> Result<Vec<(&'a str, &'a str)>, String> {
        let pair = |word: &'a str| word.split_once('=').ok_or(format!("what is {word}?"));
        self.0.by_ref().map(pair).collect()
    }
}

fn value<T: FromStr>(word: &str) -> Result<T, String> {
    word.parse().map_err(|_| format!("cannot read {word}"))
}

/// A byte: decimal, or hexadecimal with `0x`.
fn byte(word: &str) -> Result<u8, String> {
    match word.strip_prefix("0x") {
        Some(digits) => u8::from_str_radix(digits, 16).map_err(|_| format!("cannot read {word}")),
        None => value(word),
    }
}

fn cpu(words: &mut Words<'_>) -> Result<Command, String> {
    let cpu = match words.next("a CPU's number, or all,")? {
        "all" => None,
        word => Some(value::<u16>(word)?.into()),
    };
    let (mut performance, mut utilization) = (None, None);
    for (name, word) in words.options()? {
        match name {
            "performance" => performance = Some(value(word)?),
            "utilization" => utilization = Some(value(word)?),
            _ => return Err(format!("unknown option {name}")),
        }
    }
    Ok(Command::Cpu {
        cpu,
        performance,
        utilization,
    })
}

fn event(words: &mut Words<'_>) -> Result<Command, String> {
    let mut bytes = [0; 6];
    for slot in &mut bytes {
        *slot = byte(words.next("one of six bytes")?)?;
    }
    let [sensor_type, sensor, event_type, data @ ..] = bytes;
    Ok(Command::Event(Event {
        sensor_type,
        sensor,
        event_type,
        data,
    }))
}

fn fault(words: &mut Words<'_>) -> Result<Command, String> {
    let kind = match words.next("a kind of fault")? {
        "delay" => Kind::Delay(Duration::from_millis(words.value("milliseconds")?)),
        "drop" => Kind::Drop,
        "late" => Kind::Late,
        "stale" => Kind::Stale,
        "twice" => Kind::Twice,
        "netfn" => Kind::Netfn,
        "command" => Kind::Command,
        "id" => Kind::Id,
        "code" => Kind::Code(byte(words.next("a completion code")?)?),
        "short" => Kind::Short,
        "long" => Kind::Long,
        "garbage" => Kind::Garbage,
        "checksum" => Kind::Checksum,
        other => return Err(format!("unknown fault {other}")),
    };
    let mut fault = Fault {
        kind,
        count: None,
        netfn: None,
        command: None,
    };
    for (name, word) in words.options()? {
        match name {
            "count" => fault.count = Some(value(word)?),
            "netfn" => fault.netfn = Some(byte(word)?),
            "command" => fault.command = Some(byte(word)?),
            _ => return Err(format!("unknown option {name}")),
        }
    }
    if fault.count == Some(0) {
        return Err("count is 0".into());
    }
    Ok(Command::Fault(fault))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bmc::Config;
    use crate::power::Parameters;
    use proptest::prelude::*;

    fn start() -> (Bmc, Faults) {
        let config = Config {
            serial: "LAB0001".into(),
            power: Parameters {
                noise: 0.0,
                ..Parameters::default()
            },
            statistics: Duration::from_secs(60),
            throttles: false,
            chassis: Default::default(),
            epoch: 0,
        };
        (Bmc::new(config), Faults::new(1))
    }

    #[test]
    fn lines() {
        let (mut bmc, mut faults) = start();
        for (line, wanted, connection) in [
            (
                "cpu all performance=80 utilization=50",
                "ok",
                Connection::Keep,
            ),
            ("cpu 1 utilization=0", "ok", Connection::Keep),
            ("inlet 39.5", "ok", Connection::Keep),
            ("event 0x01 2 0x01 0x57 40 38", "ok", Connection::Keep),
            (
                "fault code 0xc0 count=2 netfn=0x06 command=1",
                "ok",
                Connection::Keep,
            ),
            (
                "status",
                "ok reading=80.0 level=80.0 target=92.0 throttle=0 limit=none sel=1 answered=0 \
                 faults=1 chassis=none",
                Connection::Keep,
            ),
            ("clear", "ok", Connection::Resume),
            ("hang", "ok", Connection::Hang),
            (
                "disconnect 500",
                "ok",
                Connection::Break(Duration::from_millis(500)),
            ),
            ("reset", "ok", Connection::Keep),
            (
                "cpu 2 utilization=1",
                "error no such CPU, or not in 0 to 100",
                Connection::Keep,
            ),
            (
                "cpu all utilization=NaN",
                "error no such CPU, or not in 0 to 100",
                Connection::Keep,
            ),
            (
                "cpu all speed=1",
                "error unknown option speed",
                Connection::Keep,
            ),
            (
                "fault delay",
                "error milliseconds is missing",
                Connection::Keep,
            ),
            ("fault drop count=0", "error count is 0", Connection::Keep),
            ("fault drop often", "error what is often?", Connection::Keep),
            ("reset now", "error what is now?", Connection::Keep),
            (
                "event 1 2 3",
                "error one of six bytes is missing",
                Connection::Keep,
            ),
            (
                "event 1 2 3 4 5 0x100",
                "error cannot read 0x100",
                Connection::Keep,
            ),
            ("", "error a command is missing", Connection::Keep),
            ("dance", "error unknown command dance", Connection::Keep),
        ] {
            assert_eq!(
                run(line, &mut bmc, &mut faults),
                (wanted.into(), connection),
                "{line}"
            );
        }
        assert!(faults.is_empty());
    }

    proptest! {
        #[test]
        fn any_line_is_answered(
            line in "(cpu|event|fault|inlet|disconnect)?( [a-z0-9=.x-]{0,12}){0,7}|.{0,60}",
        ) {
            let (mut bmc, mut faults) = start();
            let (answer, _) = run(&line, &mut bmc, &mut faults);
            prop_assert!(answer.starts_with("ok") || answer.starts_with("error "));
            prop_assert!(!answer.contains('\n'));
        }
    }
}
