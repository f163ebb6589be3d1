// SPDX-License-Identifier: MIT OR Apache-2.0

//! The platform's BMC, through the hardware M-channel (`mgmt_ipmi.ko`).

use crate::table;
use anyhow::{Context, Result, bail};
use mgmt_channel::{
    Address, AppId, Channel, Component, ComponentName, Error, Kind, Message, show_address,
};
use mgmt_ipmi::{
    Answer, App, Bytes, EVENTS, Limit, Operation, Reading, Request, SensorReading, SensorRecord,
    Status,
};
use std::time::Duration;

#[derive(clap::Args)]
pub struct Options {
    /// The hardware, as hw:SERIAL; by default what is found on this platform.
    #[arg(long, global = true, value_name = "COMPONENT")]
    at: Option<ComponentName>,
    /// Wait so many milliseconds for an answer.
    #[arg(long, global = true, default_value_t = 15_000, value_name = "MS")]
    wait: u64,
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Show what the platform draws.
    Power,
    /// Show the power limit; or set it, have it hold, or no longer, and read it back.
    Limit {
        /// The limit, W.
        #[arg(long)]
        watts: Option<u16>,
        /// How long it may be exceeded, ms.
        #[arg(long, default_value_t = 1000, value_name = "MS", requires = "watts")]
        correction: u32,
        /// The period that the mean is taken of, s.
        #[arg(long, default_value_t = 1, value_name = "S", requires = "watts")]
        sampling: u16,
        /// What is done when it is exceeded for longer.
        #[arg(long, value_enum, default_value_t = Action::Log, requires = "watts")]
        action: Action,
        /// Have it hold.
        #[arg(long, conflicts_with = "off")]
        on: bool,
        /// Have it hold no longer.
        #[arg(long)]
        off: bool,
    },
    /// Show the sensors.
    Sensors,
    /// Show the system event log.
    Sel,
    /// Show the chassis' status, or have it do something.
    Chassis {
        /// What: without it, the status is shown.
        #[arg(value_enum)]
        control: Option<Control>,
    },
    /// Send an IPMI request and print the response: its completion code, then its data, in hexadecimal.
    Raw {
        /// Network function, command and data; hexadecimal with 0x.
        #[arg(required = true, num_args = 2.., value_parser = byte, value_name = "BYTE")]
        bytes: Vec<u8>,
        /// By the App_ID that passes every command.
        #[arg(long)]
        admin: bool,
    },
    /// Print the BMC's events.
    Events {
        /// Stop after so many.
        #[arg(long)]
        count: Option<u64>,
    },
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Action {
    None,
    Off,
    Log,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Control {
    Off,
    On,
    Cycle,
    Reset,
    Diagnostic,
    SoftOff,
}

fn byte(text: &str) -> Result<u8> {
    let (digits, radix) = match text.strip_prefix("0x") {
        Some(digits) => (digits, 16),
        None => (text, 10),
    };
    u8::from_str_radix(digits, radix).with_context(|| format!("{text} is no byte"))
}

pub fn run(path: &str, options: &Options) -> Result<()> {
    let own = match options.command {
        Command::Events { .. } => EVENTS.to_owned(),
        _ => format!("mgmtctl.{}", std::process::id()),
    };
    let channel = Channel::open_at(path)?.bound(&own)?;
    if let Command::Events { count } = options.command {
        return events(&channel, count);
    }
    let bmc = Bmc {
        at: options
            .at
            .map(|at| anyhow::Ok(at.resolve(channel.info()?.component)))
            .transpose()?,
        wait: Duration::from_millis(options.wait),
        channel,
    };
    match &options.command {
        Command::Power => power(&bmc),
        Command::Limit {
            watts,
            correction,
            sampling,
            action,
            on,
            off,
        } => {
            let limit = watts.map(|watts| Limit {
                action: match action {
                    Action::None => 0,
                    Action::Off => 1,
                    Action::Log => 0x11,
                },
                watts,
                correction_ms: *correction,
                sampling_s: *sampling,
            });
            set_limit(&bmc, limit, (*on || *off).then_some(*on))
        }
        Command::Sensors => sensors(&bmc),
        Command::Sel => sel(&bmc),
        Command::Chassis { control: None } => chassis(&bmc),
        Command::Chassis {
            control: Some(control),
        } => {
            let number = match control {
                Control::Off => 0,
                Control::On => 1,
                Control::Cycle => 2,
                Control::Reset => 3,
                Control::Diagnostic => 4,
                Control::SoftOff => 5,
            };
            bmc.ask(App::ChassisControl, Operation::ChassisControl(number))?;
            Ok(())
        }
        Command::Raw { bytes, admin } => raw(&bmc, bytes, *admin),
        Command::Events { .. } => unreachable!("done above"),
    }
}

/// A BMC, and how long it may take.
struct Bmc {
    channel: Channel,
    at: Option<Component>,
    wait: Duration,
}

impl Bmc {
    /// Where this App_ID of the hardware is.
    fn address(&self, app: App) -> Result<Address> {
        let id = AppId::new(app.name().as_bytes()).map_err(Error::from)?;
        if let Some(at) = self.at {
            return Ok(Address::new(at, id));
        }
        let wait = Duration::from_millis(500);
        let found = self.channel.discover(Component::Platform, id, wait)?;
        let is_hardware = |found: &Address| matches!(found.component, Component::Hardware(_));
        found
            .into_iter()
            .find(is_hardware)
            .context("no hardware answers here (is mgmt_ipmi.ko loaded?): say which by --at")
    }

    /// What became of a request.
    fn answer(&self, app: App, operation: Operation) -> Result<Answer> {
        let to = self.address(app)?;
        let question = Message::new(Kind::Data, to, operation.encode().to_vec());
        let reply = self
            .channel
            .request(question, self.wait)
            .with_context(|| show_address(&to))?;
        let answer = Answer::decode(&reply.payload)
            .with_context(|| format!("{} answered nonsense", show_address(&to)))?;
        if answer.status != Status::Answered {
            bail!("{}: {}", show_address(&to), answer.status.text());
        }
        Ok(answer)
    }

    /// The data of an answer whose completion code is 0.
    fn ask(&self, app: App, operation: Operation) -> Result<Bytes> {
        done(self.answer(app, operation)?)
    }
}

/// The data of an answer whose completion code is 0.
fn done(answer: Answer) -> Result<Bytes> {
    if answer.code != 0 {
        bail!("the BMC refused, with completion code {:#04x}", answer.code);
    }
    Ok(answer.data)
}

fn power(bmc: &Bmc) -> Result<()> {
    let data = bmc.ask(App::Power, Operation::PowerReading)?;
    let reading = Reading::decode(&data).context("no power reading")?;
    println!("now      {} W", reading.current);
    println!("least    {} W", reading.minimum);
    println!("greatest {} W", reading.maximum);
    println!("mean     {} W", reading.average);
    println!("period   {} ms", reading.period_ms);
    println!("time     {} s since 1970", reading.time);
    if !reading.is_active {
        println!("(power is not measured now)");
    }
    Ok(())
}

fn set_limit(bmc: &Bmc, limit: Option<Limit>, hold: Option<bool>) -> Result<()> {
    let mut steps: Vec<_> = limit.map(Operation::SetPowerLimit).into_iter().collect();
    steps.extend(hold.map(Operation::ActivatePowerLimit));
    if steps.is_empty() {
        steps.push(Operation::PowerLimit);
    }
    let mut last = Bytes::EMPTY;
    for step in steps {
        last = bmc.ask(App::Power, step)?;
    }
    let (active, limit) = last.split_first().context("no power limit")?;
    let limit = Limit::decode(limit).context("no power limit")?;
    println!("holds      {}", if *active != 0 { "yes" } else { "no" });
    println!("limit      {} W", limit.watts);
    println!("correction {} ms", limit.correction_ms);
    println!("sampling   {} s", limit.sampling_s);
    let action = match limit.action {
        0 => "nothing".into(),
        1 => "power off".into(),
        0x11 => "log".into(),
        other => format!("{other:#04x}"),
    };
    println!("exceeded   {action}");
    Ok(())
}

/// The last record's, and the last entry's, successor.
const NO_MORE: u16 = 0xffff;

/// The completion code for what is not there (table 5-2).
const NOT_PRESENT: u8 = 0xcb;

/// A sensor's record, and the next one's id; none where the repository is empty.
fn record(bmc: &Bmc, id: u16) -> Result<Option<(Vec<u8>, u16)>> {
    const HEAD: usize = 5;
    const AT_ONCE: usize = 32;
    let mut next = NO_MORE;
    let mut record = Vec::new();
    let mut length = HEAD;
    while record.len() < length {
        let count = (length - record.len()).min(AT_ONCE);
        let offset = u8::try_from(record.len())?;
        let part = Operation::SensorRecord(id, offset, count as u8);
        let answer = bmc.answer(App::Sensors, part)?;
        if answer.code == NOT_PRESENT && id == 0 && record.is_empty() {
            return Ok(None);
        }
        let data = done(answer)?;
        let Some((after, bytes)) = data.split_first_chunk() else {
            bail!("no sensor record");
        };
        if bytes.is_empty() {
            bail!("the record {id:#x} has an end before its length");
        }
        next = u16::from_le_bytes(*after);
        record.extend_from_slice(bytes);
        if let Some(rest) = record.get(HEAD - 1) {
            length = HEAD + usize::from(*rest);
        }
    }
    Ok(Some((record, next)))
}

fn sensors(bmc: &Bmc) -> Result<()> {
    let mut lines = Vec::new();
    let mut id = 0;
    // A BMC whose records have no end is not followed for ever.
    for _ in 0..1024 {
        let Some((bytes, next)) = record(bmc, id)? else {
            break;
        };
        if let Some(record) = SensorRecord::decode(&bytes) {
            lines.push(sensor(bmc, &record)?);
        }
        if next == NO_MORE {
            break;
        }
        id = next;
    }
    table::print(&lines);
    Ok(())
}

fn sensor(bmc: &Bmc, record: &SensorRecord<'_>) -> Result<Vec<String>> {
    let answer = bmc.answer(App::Sensors, Operation::Sensor(record.number))?;
    let reading = SensorReading::decode(&answer.data).filter(|reading| reading.is_valid);
    let value = match reading {
        Some(reading) => format!("{} {}", record.value(reading.raw), record.unit_text()),
        None => "no reading".into(),
    };
    let states = reading.map_or(0, |reading| reading.state & 0x3f);
    let name: String = record.name.chars().filter(|c| !c.is_control()).collect();
    let passed = match states {
        0 => String::new(),
        states => format!("thresholds passed: {states:#04x}"),
    };
    Ok(vec![name, value, passed])
}

fn sel(bmc: &Bmc) -> Result<()> {
    let info = bmc.ask(App::Sel, Operation::SelInfo)?;
    let &[_, low, high, ..] = &*info else {
        bail!("nothing is said of the log");
    };
    let entries = u16::from_le_bytes([low, high]);
    let mut id = 0;
    for _ in 0..entries {
        let data = bmc.ask(App::Sel, Operation::SelEntry(id))?;
        let Some((next, entry)) = data.split_first_chunk() else {
            bail!("no entry of the log");
        };
        println!("{}", hex(entry));
        id = u16::from_le_bytes(*next);
        if id == NO_MORE {
            break;
        }
    }
    println!("{entries} entries");
    Ok(())
}

fn chassis(bmc: &Bmc) -> Result<()> {
    let data = bmc.ask(App::Chassis, Operation::ChassisStatus)?;
    let power = *data.first().context("nothing is said of the chassis")?;
    println!("power    {}", if power & 1 != 0 { "on" } else { "off" });
    for (bit, text) in [
        (0x02, "overload"),
        (0x04, "interlock"),
        (0x08, "fault"),
        (0x10, "control fault"),
    ] {
        if power & bit != 0 {
            println!("power    {text}");
        }
    }
    println!("bytes    {}", hex(&data));
    Ok(())
}

fn raw(bmc: &Bmc, bytes: &[u8], admin: bool) -> Result<()> {
    let &[netfn, command, ref data @ ..] = bytes else {
        bail!("a request has a network function and a command");
    };
    let data = Bytes::new(data).context("too long")?;
    let request = Request {
        netfn,
        command,
        data,
    };
    let app = if admin { App::Admin } else { App::Raw };
    let answer = bmc.answer(app, Operation::Raw(request))?;
    println!("{:02x} {}", answer.code, hex(&answer.data));
    Ok(())
}

fn events(channel: &Channel, count: Option<u64>) -> Result<()> {
    let mut seen = 0;
    while count.is_none_or(|count| seen < count) {
        if let Some(message) = channel.recv(None)? {
            let from = show_address(&message.header.source);
            println!("{from} {}", hex(&message.payload));
            seen += 1;
        }
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    let bytes: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    bytes.join(" ")
}
