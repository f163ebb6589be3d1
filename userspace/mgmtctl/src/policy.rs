// SPDX-License-Identifier: MIT OR Apache-2.0

//! Checking rules and asking what they decide, before they are loaded and afterwards.
//!
//! The reader and the table are the bridge's own (`rust/pure/policy.rs`).

use crate::{accounts, daemon};
use anyhow::{Context, Result, anyhow, bail};
use clap::{Args, Subcommand};
use mgmt_channel::{Channel, Component, ComponentName, Destination, Kind, Owner, Serial};
use mgmt_control::ClientError;
use mgmt_pure::pure::directory::End;
use mgmt_pure::pure::policy::{
    BuiltIn, Cause, Decision, Entry, Kinds, Mistake, Party, Rule, RuleError, Rules, Shadow, Table,
    Verdict,
};
use mgmt_pure::pure::route::VmName;
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::IpAddr;

#[derive(Subcommand)]
pub enum Command {
    /// Read rules, and say what is wrong with them.
    ///
    /// Rules that never decide are warned of. Exit status: 0 no mistake, 1 some.
    Check {
        /// The rules; - for standard input.
        file: String,
    },
    /// Check rules, and put them in the place of those that hold.
    ///
    /// By mgmtd, which keeps them and those before, where it runs; else they are only loaded into
    /// the bridge, until its module goes.
    Load {
        /// The rules; - for standard input. Without any, the built-in ones hold alone.
        file: String,
        /// Fail where mgmtd does not run.
        #[arg(long)]
        kept: bool,
    },
    /// Print the rules that hold, each with how often it has decided.
    Show {
        /// Those of a version that mgmtd keeps, as they were loaded.
        #[arg(long)]
        version: Option<u64>,
    },
    /// List the policies that mgmtd keeps.
    History,
    /// Load the policy before the present one again, or another that mgmtd keeps.
    Rollback {
        /// Which version.
        #[arg(long)]
        to: Option<u64>,
    },
    /// Say what rules decide of a message, and by which of them.
    Explain {
        /// The rules; - for standard input; without a file, those that hold.
        #[arg(long, short)]
        file: Option<String>,
        /// Who sends, as APP@COMPONENT.
        source: Destination,
        /// Where to, as APP@COMPONENT.
        destination: Destination,
        /// discover, establish, data, terminate, presence or reply.
        #[arg(default_value = "data", value_parser = parse_kind)]
        kind: Kind,
        #[command(flatten)]
        platform: Platform,
    },
}

/// What the bridge knows of its platform, and a file does not tell.
#[derive(Args, Clone)]
pub struct Platform {
    /// The domain id of the management VM.
    #[arg(long, default_value_t = 0, value_name = "ID")]
    mvm_id: u32,
    /// The address (MVM_IP) of the management VM.
    #[arg(long, value_name = "IP")]
    mvm_ip: Option<IpAddr>,
    /// The stable name of a VM of this platform; may be given for several.
    #[arg(long, value_name = "ID=UUID", value_parser = parse_stable)]
    uuid: Vec<(u32, [u8; 16])>,
    /// The serial number of hardware of another platform; may be given for several.
    #[arg(long, value_name = "SERIAL", value_parser = parse_serial)]
    elsewhere: Vec<Serial>,
}

fn parse_serial(text: &str) -> Result<Serial> {
    match format!("hw:{text}").parse()? {
        ComponentName::Full(Component::Hardware(serial)) => Ok(serial),
        _ => bail!("{text:?} is no serial number"),
    }
}

fn parse_kind(text: &str) -> Result<Kind> {
    let mut names = Kinds::NAMES.iter();
    match names.find(|(_, name)| *name == text) {
        Some(&(kind, _)) => Ok(kind),
        None => Err(anyhow!(
            "a kind is expected: discover, establish, data, terminate, presence or reply"
        )),
    }
}

fn parse_stable(text: &str) -> Result<(u32, [u8; 16])> {
    let (id, uuid) = text.split_once('=').context("ID=UUID is expected")?;
    match format!("uuid:{uuid}").parse()? {
        ComponentName::Full(Component::Stable(uuid)) => Ok((id.parse()?, uuid)),
        _ => bail!("{uuid:?} is no UUID"),
    }
}

impl Platform {
    /// With what the bridge of this domain knows.
    fn of(&self, channel: &Channel) -> Result<Self> {
        let mut known = self.clone();
        if let Some(Component::Vm { mvm_ip, vm_id }) = channel.info()?.component {
            known.mvm_id = vm_id;
            known.mvm_ip = Some(IpAddr::from(mvm_ip));
        }
        Ok(known)
    }

    fn mvm(&self) -> VmName {
        VmName {
            mvm_ip: match self.mvm_ip {
                None => [0; 16],
                Some(IpAddr::V4(ip)) => ip.to_ipv6_mapped().octets(),
                Some(IpAddr::V6(ip)) => ip.octets(),
            },
            vm_id: self.mvm_id,
        }
    }

    /// An end of a message, as the bridge knows it when it decides.
    fn party(&self, end: &Destination) -> Result<Party> {
        let mvm = self.mvm();
        let mut component = end.component.resolve(None);
        // The bridge resolves the stable names that it knows.
        if let Component::Stable(uuid) = component {
            if let Some(&(vm_id, _)) = self.uuid.iter().find(|known| known.1 == uuid) {
                let mvm_ip = mvm.mvm_ip;
                component = Component::Vm { mvm_ip, vm_id };
            }
        }
        let id = match component {
            Component::Mvm => Some(mvm.vm_id),
            Component::Vm { mvm_ip, vm_id } if mvm_ip == [0; 16] || mvm_ip == mvm.mvm_ip => {
                Some(vm_id)
            }
            _ => None,
        };
        let stable = self.uuid.iter().find(|known| id == Some(known.0));
        let elsewhere = match component {
            Component::Hardware(serial) => self.elsewhere.contains(&serial),
            // The way into the fabric; the rest of it is decided for each receiver.
            Component::Everywhere => true,
            _ => false,
        };
        let end = End {
            component,
            app: Some(&end.app),
            stable: stable.map(|known| known.1),
            elsewhere,
        };
        Party::of(mvm, &end).context("self and platform say nothing here: which domain is meant?")
    }
}

/// Rules of a file.
struct Policy {
    name: String,
    text: Vec<u8>,
}

impl Policy {
    fn read(file: &str) -> Result<Self> {
        let (name, text) = if file == "-" {
            let mut text = Vec::new();
            let read = std::io::stdin().read_to_end(&mut text);
            ("standard input", read.map(|_| text))
        } else {
            (file, std::fs::read(file))
        };
        Ok(Self {
            name: name.to_owned(),
            text: text.with_context(|| format!("read {name}"))?,
        })
    }

    /// The rules that hold.
    fn loaded(channel: &Channel) -> Result<Self> {
        Ok(Self {
            name: "the loaded rules".into(),
            text: channel.read_policy()?,
        })
    }

    fn rules(&self) -> Result<Vec<Rule>, Vec<RuleError>> {
        let mut rules = Vec::new();
        let mut errors = Vec::new();
        for rule in Rules::new(&self.text) {
            match rule {
                Ok(rule) => rules.push(rule),
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() {
            Ok(rules)
        } else {
            Err(errors)
        }
    }

    /// The table that the bridge would use. Prints all mistakes, and fails if there are any.
    fn compile(&self) -> Result<Table<Vec<Rule>, Vec<Entry>>> {
        match self.rules() {
            Ok(rules) => {
                let entries = vec![Entry::default(); rules.len()];
                Table::compile(rules, entries).map_err(|e| anyhow!("{}: {e:?}", self.name))
            }
            Err(errors) => {
                for error in &errors {
                    eprint!("{}", self.show_error(error));
                }
                bail!("{}: {}", self.name, count(errors.len(), "mistake"))
            }
        }
    }

    /// The place and the mistake, and a mark under the line where it is.
    fn show_error(&self, error: &RuleError) -> String {
        let RuleError {
            line,
            column,
            mistake,
        } = *error;
        let mut shown = format!("{}:{line}:{column}: {mistake}\n", self.name);
        if !matches!(mistake, Mistake::TextTooLong | Mistake::LineTooLong) {
            let text = self.line(line);
            // The same blanks, so that tabs do not matter.
            let before = text.chars().chain(std::iter::repeat(' '));
            let before = before.take(column as usize - 1);
            let margin: String = before.map(|c| if c == '\t' { c } else { ' ' }).collect();
            let _ = writeln!(shown, "  {text}\n  {margin}^");
        }
        shown
    }

    fn show_shadow(&self, rule: &Rule, shadow: &Shadow, rules: &[Rule]) -> String {
        let mut lines: Vec<_> = shadow
            .rules()
            .map(|number| rules[usize::from(number)].line)
            .collect();
        lines.sort_unstable();
        let lines: Vec<_> = lines.iter().map(u32::to_string).collect();
        let (what, verb) = if lines.len() == 1 {
            ("line", "does")
        } else {
            ("lines", "do")
        };
        format!(
            "{}:{}: warning: this rule never decides, since {what} {} {verb}\n  {}\n",
            self.name,
            rule.line,
            lines.join(", "),
            self.line(rule.line)
        )
    }

    /// A line, as it can be shown on a terminal.
    fn line(&self, number: u32) -> String {
        let mut lines = self.text.split(|&byte| byte == b'\n');
        let line = lines.nth(number as usize - 1).unwrap_or_default();
        String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line))
            .replace(|c: char| c.is_control() && c != '\t', "\u{fffd}")
    }
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

fn show_decision(decision: &Decision, rules: &[Rule]) -> String {
    let mut shown = match decision.verdict {
        Verdict::Allow => "allow\n".to_owned(),
        Verdict::Deny => "deny\n".into(),
        Verdict::Through(broker) => format!("through {}@mvm\n", broker.as_str()),
    };
    let _ = match decision.cause {
        Cause::Rule(number) => {
            let rule = &rules[usize::from(number)];
            writeln!(shown, "by line {}: {rule}", rule.line)
        }
        Cause::BuiltIn(built_in) => {
            writeln!(shown, "by the built-in table: {}", built_in.name())
        }
    };
    if decision.broker {
        shown.push_str("since one end is the broker itself\n");
    }
    if let Some(kind) = decision.reply_to {
        let name = Kinds::NAMES.iter().find(|(known, _)| *known == kind);
        let name = name.map_or("?", |(_, name)| name);
        let _ = writeln!(
            shown,
            "as the reply to what that lets pass the other way: {name}"
        );
    }
    shown
}

/// The rules that hold, each behind its number of hits, and then the built-in ones.
fn show(channel: &Channel) -> Result<String> {
    let policy = Policy::loaded(channel)?;
    let table = policy.compile()?;
    let mut shown = format!("{:>10}  rule\n", "hits");
    for (number, rule) in (0..).zip(table.rules()) {
        let hits = channel.rule_hits(number)?.hits;
        let _ = writeln!(shown, "{hits:>10}  line {}: {rule}", rule.line);
    }
    for (number, built_in) in (0..).zip(BuiltIn::TABLE) {
        let hits = channel.built_in_hits(number)?.hits;
        let verdict = match built_in.verdict() {
            Verdict::Deny => "deny",
            _ => "allow",
        };
        let _ = writeln!(shown, "{hits:>10}  built in: {verdict} {}", built_in.name());
    }
    Ok(shown)
}

pub fn run(device: &str, command: &Command) -> Result<()> {
    match command {
        Command::Check { file } => {
            let policy = Policy::read(file)?;
            let table = policy.compile()?;
            let mut warnings = 0;
            for (number, rule) in table.rules().iter().enumerate() {
                if let Some(shadow) = table.shadow(number as u16) {
                    eprint!("{}", policy.show_shadow(rule, &shadow, table.rules()));
                    warnings += 1;
                }
            }
            println!(
                "{}: {}, {}",
                policy.name,
                count(table.rules().len(), "rule"),
                count(warnings, "warning")
            );
            Ok(())
        }
        Command::Load { file, kept } => {
            let policy = Policy::read(file)?;
            let table = policy.compile()?;
            let rules = count(table.rules().len(), "rule");
            let client = daemon::connect(device, None)?;
            let origin = match std::fs::canonicalize(file) {
                Ok(path) => path.display().to_string(),
                Err(_) => policy.name.clone(),
            };
            match client.load_policy(&policy.text, &origin) {
                Ok(loaded) => println!("{}: {rules}, version {}", policy.name, loaded.version),
                Err(ClientError::NotRunning) if !kept => {
                    Channel::open_at(device)?
                        .load_policy(&policy.text)
                        .with_context(|| format!("load {}", policy.name))?;
                    eprintln!("mgmtctl: mgmtd does not run: nobody keeps these rules");
                    println!("{}: {rules}", policy.name);
                }
                Err(error) => return Err(error).context(format!("load {}", policy.name)),
            }
            Ok(())
        }
        Command::History => daemon::history(device),
        Command::Rollback { to } => daemon::rollback(device, *to),
        Command::Show {
            version: Some(version),
        } => Ok(std::io::stdout().write_all(&daemon::policy_text(device, *version)?)?),
        Command::Show { version: None } => {
            print!("{}", show(&Channel::open_at(device)?)?);
            Ok(())
        }
        Command::Explain {
            file,
            source,
            destination,
            kind,
            platform,
        } => {
            let (policy, platform, accounts) = match file {
                Some(file) => (Policy::read(file)?, platform.clone(), Vec::new()),
                None => {
                    let channel = Channel::open_at(device)?;
                    let policy = Policy::loaded(&channel)?;
                    (policy, platform.of(&channel)?, channel.accounts()?)
                }
            };
            let receiver = destination.component;
            let table = policy.compile()?;
            if source.component == ComponentName::Full(Component::Everywhere) {
                bail!("source: nobody sends as everywhere");
            }
            let source = platform.party(source).context("source")?;
            let destination = platform.party(destination).context("destination")?;
            let decision = table.decide(&source, &destination, *kind);
            print!("{}", show_decision(&decision, table.rules()));
            let owner = match receiver {
                ComponentName::LocalVm(id) => Owner::Guest(id),
                _ => return Ok(()),
            };
            if let Some(account) = accounts.iter().find(|account| account.owner == owner) {
                println!("{}", accounts::describe(account));
            }
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mgmt_channel::{Serial, show_component};
    use mgmt_pure::pure::policy::{ComponentPattern, MAX_LINE};

    fn policy(text: &[u8]) -> Policy {
        Policy {
            name: "rules".into(),
            text: text.to_vec(),
        }
    }

    fn first_error(text: &[u8]) -> String {
        let policy = policy(text);
        policy.show_error(&policy.rules().expect_err("a mistake")[0])
    }

    #[test]
    fn a_mistake_is_marked_where_it_is() {
        let shown = first_error(b"# x\n\tallow\tvm:3 -> moon # \xff\x1b[m\r\n");
        let mut lines = shown.lines();
        let first = lines.next().unwrap();
        assert!(
            first.starts_with("rules:2:16: a component is expected"),
            "{first}"
        );
        assert_eq!(
            lines.next(),
            Some("  \tallow\tvm:3 -> moon # \u{fffd}\u{fffd}[m")
        );
        assert_eq!(lines.next(), Some("  \t     \t        ^"));
        assert_eq!(lines.next(), None);
    }

    #[test]
    fn what_is_missing_is_marked_behind_the_line() {
        let shown = first_error(b"allow");
        assert!(shown.ends_with("\n  allow\n       ^\n"), "{shown}");
    }

    #[test]
    fn a_line_that_is_too_long_is_not_shown() {
        assert_eq!(first_error(&[b'#'; MAX_LINE + 1]).lines().count(), 1);
    }

    #[test]
    fn a_warning_names_the_lines_that_decide() {
        let policy = policy(
            b"allow * -> mvm kinds data,reply\n\nallow * -> mvm\ndeny vm:3 -> mvm\n\
              deny vm:3 -> mvm kinds data\n",
        );
        let table = policy.compile().unwrap();
        let shown = |number: u16| {
            let rule = &table.rules()[usize::from(number)];
            let shadow = table.shadow(number)?;
            Some(policy.show_shadow(rule, &shadow, table.rules()))
        };
        assert_eq!(shown(1), None);
        assert_eq!(
            shown(2).as_deref(),
            Some(
                "rules:4: warning: this rule never decides, since lines 1, 3 do\n  deny vm:3 -> mvm\n"
            )
        );
        let last = shown(3).unwrap();
        assert!(last.contains("since line 1 does"), "{last}");
    }

    fn explain(text: &str, options: &[&str], source: &str, to: &str, kind: &str) -> String {
        #[derive(clap::Parser)]
        struct Cli {
            #[command(flatten)]
            platform: Platform,
        }
        let options = ["explain"].iter().chain(options);
        let platform = <Cli as clap::Parser>::parse_from(options).platform;
        let table = policy(text.as_bytes()).compile().unwrap();
        let party = |end: &str| platform.party(&end.parse().unwrap()).unwrap();
        let kind = parse_kind(kind).unwrap();
        let decision = table.decide(&party(source), &party(to), kind);
        show_decision(&decision, table.rules())
    }

    const RULES: &str = "\
allow Power@vm:3 -> Power@vm:4 kinds data

deny uuid:00112233-4455-6677-8899-aabbccddeeff -> *
through Power@mvm vm:* -> Ipmi@hw:*
allow vm:192.0.2.1/5 -> vm:6
";

    #[test]
    fn a_decision_is_explained() {
        const UUID: &[&str] = &["--uuid", "7=00112233445566778899aabbccddeeff"];
        const IP: &[&str] = &["--mvm-ip", "192.0.2.1", "--mvm-id", "1"];
        for (options, source, destination, kind, expected) in [
            (
                &[][..],
                "Power@vm:3",
                "Power@vm:4",
                "data",
                "allow\nby line 1: allow Power@vm:3 -> Power@vm:4 kinds data\n",
            ),
            (
                &[],
                "Power@vm:3",
                "Power@vm:4",
                "discover",
                "deny\nby the built-in table: guest-to-guest\n",
            ),
            (
                &[],
                "Power@vm:4",
                "Power@vm:3",
                "reply",
                "allow\nby line 1: allow Power@vm:3 -> Power@vm:4 kinds data\n\
                 as the reply to what that lets pass the other way: data\n",
            ),
            (
                &[],
                "Power@vm:3",
                "Ipmi@hw:S",
                "data",
                "through Power@mvm\nby line 4: through Power@mvm vm:* -> Ipmi@hw:*\n",
            ),
            (
                &[],
                "Power@mvm",
                "Ipmi@hw:S",
                "data",
                "allow\nby the built-in table: from-mvm\n",
            ),
            // The bridge knows names that the file does not.
            (
                &[],
                "A@vm:7",
                "A@mvm",
                "data",
                "allow\nby the built-in table: to-mvm\n",
            ),
            (
                UUID,
                "A@vm:7",
                "A@mvm",
                "data",
                "deny\nby line 3: deny uuid:00112233-4455-6677-8899-aabbccddeeff -> *\n",
            ),
            (
                UUID,
                "A@uuid:00112233445566778899aabbccddeeff",
                "B@vm:7",
                "data",
                "allow\nby the built-in table: same-domain\n",
            ),
            (
                &[],
                "A@vm:5",
                "A@vm:6",
                "data",
                "deny\nby the built-in table: guest-to-guest\n",
            ),
            (
                &[],
                "A@vm:5",
                "A@everywhere",
                "discover",
                "deny\nby the built-in table: elsewhere\n",
            ),
            (
                &[],
                "A@mvm",
                "A@everywhere",
                "discover",
                "allow\nby the built-in table: from-mvm\n",
            ),
            (
                IP,
                "A@vm:5",
                "A@vm:6",
                "data",
                "allow\nby line 5: allow vm:192.0.2.1/5 -> vm:6\n",
            ),
            (
                IP,
                "A@vm:1",
                "A@vm:6",
                "data",
                "allow\nby the built-in table: from-mvm\n",
            ),
        ] {
            let shown = explain(RULES, options, source, destination, kind);
            assert_eq!(shown, expected, "{source} to {destination}");
        }
    }

    #[test]
    fn a_broker_is_told_from_others() {
        let shown = explain(
            "through P@mvm * -> vm:4",
            &[],
            "P@mvm",
            "A@vm:4",
            "establish",
        );
        assert_eq!(
            shown,
            "allow\nby line 1: through P@mvm * -> vm:4\nsince one end is the broker itself\n"
        );
    }

    #[test]
    fn an_end_without_a_domain_is_refused() {
        let platform = Platform {
            mvm_id: 0,
            mvm_ip: None,
            uuid: Vec::new(),
            elsewhere: Vec::new(),
        };
        for end in ["A@self", "A@platform"] {
            assert!(platform.party(&end.parse().unwrap()).is_err());
        }
    }

    /// What is shown of an address can be put into a rule.
    #[test]
    fn a_component_is_written_as_in_an_address() {
        let ip = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
        let vm = |mvm_ip, vm_id| Component::Vm { mvm_ip, vm_id };
        for (component, expected) in [
            (Component::Mvm, ComponentPattern::Mvm),
            (vm([0; 16], 7), ComponentPattern::Guest(7)),
            (
                vm(ip, 7),
                ComponentPattern::Vm {
                    mvm_ip: ip,
                    vm_id: 7,
                },
            ),
            (Component::Stable(ip), ComponentPattern::Stable(ip)),
            (
                Component::Hardware(Serial::new(b"CZ3/4@:x").unwrap()),
                ComponentPattern::Hardware(Serial::new(b"CZ3/4@:x").unwrap()),
            ),
        ] {
            let written = show_component(&component);
            let rule = policy(format!("deny {written} -> *").as_bytes());
            let rule = rule.rules().expect(&written)[0];
            assert_eq!(rule.source.component, expected);
            assert_eq!(rule.source.to_string(), written);
        }
    }
}
