// SPDX-License-Identifier: GPL-2.0

//! Who may talk to whom: the rules that an administrator writes, and what is decided by them.
//!
//! `docs/policy.md` describes the language. Nothing here allocates: the parser is an iterator over
//! a text, and a [`Table`] works in storage that its caller brings.
//!
//! - `text`: reads rules.
//! - `party`: the ends of a message, as a bridge knows them.
//! - `built_in`: what holds where no rule does.
//! - `table`: finds the first rule that matches, whatever their number.

use crate::wire::{AppId, Kind, Serial};
use core::{
    fmt,
    net::Ipv6Addr, //
};

mod built_in;
mod party;
mod table;
mod text;

pub use built_in::BuiltIn;
pub use party::Party;
pub use table::{Cause, CompileError, Decision, Entry, Shadow, Table, Verdict, MAX_RULES};
pub use text::{Mistake, RuleError, Rules, MAX_LINE, MAX_TEXT};

/// Which components a rule is about. Each variant is a *form*: see `table`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ComponentPattern {
    /// `*`
    Any,
    /// `mvm`: the management VM that decides.
    Mvm,
    /// `vm:*`: every guest of this platform, the management VM not among them.
    Guests,
    /// `vm:ID`: the VM of this platform with this domain id.
    Guest(u32),
    /// `vm:IP/*`: every VM of the platform whose management VM has this address.
    Platform([u8; 16]),
    /// `vm:IP/ID`: one of them.
    Vm {
        /// IPv6 address of the management VM.
        mvm_ip: [u8; 16],
        /// The domain id on that platform.
        vm_id: u32,
    },
    /// `uuid:UUID`: the VM with this stable name.
    Stable([u8; 16]),
    /// `hw:*`: all of this platform.
    AllHardware,
    /// `hw:SERIAL`: wherever it is.
    Hardware(Serial),
}

/// A [`ComponentPattern`] without what it says of a single component.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Form {
    Any,
    Mvm,
    Guests,
    Guest,
    Platform,
    Vm,
    Stable,
    AllHardware,
    Hardware,
}

impl ComponentPattern {
    fn form(&self) -> Form {
        match self {
            Self::Any => Form::Any,
            Self::Mvm => Form::Mvm,
            Self::Guests => Form::Guests,
            Self::Guest(_) => Form::Guest,
            Self::Platform(_) => Form::Platform,
            Self::Vm { .. } => Form::Vm,
            Self::Stable(_) => Form::Stable,
            Self::AllHardware => Form::AllHardware,
            Self::Hardware(_) => Form::Hardware,
        }
    }
}

/// Which addresses a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pattern {
    /// The components.
    pub component: ComponentPattern,
    /// The App_ID; `None` for every one.
    pub app: Option<AppId>,
}

/// Which kinds of messages a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kinds(u8);

impl Kinds {
    /// No kind.
    pub const NONE: Self = Self(0);
    /// All that a rule can be about.
    pub const ALL: Self = Self(0b11_1111);
    /// Each that a rule can be about, and its name: all but undeliverable.
    pub const NAMES: [(Kind, &'static str); 6] = [
        (Kind::Discover, "discover"),
        (Kind::Establish, "establish"),
        (Kind::Data, "data"),
        (Kind::Terminate, "terminate"),
        (Kind::Presence, "presence"),
        (Kind::Reply, "reply"),
    ];

    const fn bit(kind: Kind) -> u8 {
        (1 << (kind as u8 - 1)) & Self::ALL.0
    }

    /// These kinds and another one.
    #[must_use]
    pub const fn with(self, kind: Kind) -> Self {
        Self(self.0 | Self::bit(kind))
    }

    /// Whether the kind is among them.
    pub const fn contains(self, kind: Kind) -> bool {
        self.0 & Self::bit(kind) != 0
    }

    /// Each kind among them.
    pub fn iter(self) -> impl Iterator<Item = Kind> {
        Self::NAMES
            .into_iter()
            .map(|(kind, _)| kind)
            .filter(move |&kind| self.contains(kind))
    }
}

/// What a rule does with the messages that it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// They pass.
    Allow,
    /// They are undeliverable.
    Deny,
    /// They go to the broker of the management VM with this App_ID; to and from that itself they
    /// pass. (One elsewhere could not tell what a message was meant for.)
    Through(AppId),
}

/// One rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What is done.
    pub action: Action,
    /// With messages from these.
    pub source: Pattern,
    /// To these.
    pub destination: Pattern,
    /// Of these kinds.
    pub kinds: Kinds,
    /// The line that it stands on, from 1.
    pub line: u32,
}

impl fmt::Display for ComponentPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Mvm => f.write_str("mvm"),
            Self::Guests => f.write_str("vm:*"),
            Self::Guest(id) => write!(f, "vm:{id}"),
            Self::Platform(ip) => write!(f, "vm:{}/*", Ipv6Addr::from(*ip).to_canonical()),
            Self::Vm { mvm_ip, vm_id } => {
                write!(f, "vm:{}/{vm_id}", Ipv6Addr::from(*mvm_ip).to_canonical())
            }
            Self::Stable(uuid) => {
                f.write_str("uuid:")?;
                for (i, byte) in uuid.iter().enumerate() {
                    if matches!(i, 4 | 6 | 8 | 10) {
                        f.write_str("-")?;
                    }
                    write!(f, "{byte:02x}")?;
                }
                Ok(())
            }
            Self::AllHardware => f.write_str("hw:*"),
            Self::Hardware(serial) => {
                f.write_str("hw:")?;
                f.write_str(core::str::from_utf8(serial.as_bytes()).unwrap_or("?"))
            }
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(app) = &self.app {
            write!(f, "{}@", app.as_str())?;
        }
        self.component.fmt(f)
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allow => f.write_str("allow"),
            Self::Deny => f.write_str("deny"),
            Self::Through(broker) => write!(f, "through {}@mvm", broker.as_str()),
        }
    }
}

/// As it is written, in its shortest form.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} -> {}", self.action, self.source, self.destination)?;
        if self.kinds == Kinds::ALL {
            return Ok(());
        }
        let mut separator = " kinds ";
        for (kind, name) in Kinds::NAMES {
            if self.kinds.contains(kind) {
                f.write_str(separator)?;
                f.write_str(name)?;
                separator = ",";
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
