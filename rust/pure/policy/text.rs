// SPDX-License-Identifier: GPL-2.0

//! Reads rules, one from each line.

use super::{Action, ComponentPattern, Kinds, Pattern, Rule, MAX_RULES};
use crate::{
    pure::uuid,
    wire::{AppId, Serial}, //
};
use core::{
    fmt,
    net::{IpAddr, Ipv4Addr},
    str, //
};

/// The most bytes of a text.
pub const MAX_TEXT: usize = 4 << 20;
/// The most bytes of a line, its end not counted.
pub const MAX_LINE: usize = 1024;

/// What is wrong with a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// The text is longer than [`MAX_TEXT`].
    TextTooLong,
    /// The line is longer than [`MAX_LINE`].
    LineTooLong,
    /// There are more than [`MAX_RULES`].
    TooManyRules,
    /// It begins with no action.
    Action,
    /// The broker is missing, or is not one application of the management VM.
    Broker,
    /// The source is missing.
    Source,
    /// The arrow is missing.
    Arrow,
    /// The destination is missing.
    Destination,
    /// This is no App_ID.
    App,
    /// This is no component.
    Component,
    /// `self` is a component, but says nothing in a rule.
    SelfDomain,
    /// This is no domain id.
    VmId,
    /// This is no address of a management VM.
    Ip,
    /// This is no UUID.
    Uuid,
    /// This is no serial number.
    Serial,
    /// What follows the destination is not `kinds`.
    Kinds,
    /// This is no kind.
    Kind,
    /// This kind was named before.
    KindTwice,
    /// Something follows a complete rule.
    Trailing,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TextTooLong => write!(f, "the rules are longer than {MAX_TEXT} bytes"),
            Self::LineTooLong => write!(f, "the line is longer than {MAX_LINE} bytes"),
            Self::TooManyRules => write!(f, "there are more than {MAX_RULES} rules"),
            Self::Action => f.write_str("allow, deny or through is expected"),
            Self::Broker => f.write_str("a broker of the management VM is expected: APP@mvm"),
            Self::Source => f.write_str("a source is expected, such as vm:3, Power@vm:* or *"),
            Self::Arrow => f.write_str("-> is expected, with blanks around it"),
            Self::Destination => {
                f.write_str("a destination is expected, such as mvm, Power@vm:* or *")
            }
            Self::App => f.write_str("an App_ID is expected: *, or 1 to 31 of A-Z a-z 0-9 . _ -"),
            Self::Component => f.write_str(
                "a component is expected: *, mvm, vm:*, vm:ID, vm:IP/*, vm:IP/ID, uuid:UUID, hw:* \
                 or hw:SERIAL",
            ),
            Self::SelfDomain => {
                f.write_str("self says nothing in a rule: within one domain all is allowed")
            }
            Self::VmId => f.write_str("a domain id is expected: * or a decimal number"),
            Self::Ip => f.write_str("the IP address of a management VM is expected"),
            Self::Uuid => {
                f.write_str("a UUID is expected: 32 hexadecimal digits, with or without dashes")
            }
            Self::Serial => {
                f.write_str("a serial number is expected: *, or 1 to 28 visible ASCII characters")
            }
            Self::Kinds => f.write_str("kinds, or the end of the line, is expected"),
            Self::Kind => f.write_str(
                "a kind is expected: discover, establish, data, terminate, presence or reply",
            ),
            Self::KindTwice => f.write_str("this kind is named twice"),
            Self::Trailing => f.write_str("the end of the line is expected"),
        }
    }
}

/// A line that is no rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleError {
    /// The line, from 1.
    pub line: u32,
    /// Where in it, from 1. What stands before it is ASCII.
    pub column: u32,
    /// What is wrong there.
    pub mistake: Mistake,
}

impl fmt::Display for RuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "line {}, column {}: {}",
            self.line, self.column, self.mistake
        )
    }
}

/// What is wrong, and at which byte of what was looked at.
type At<T> = Result<T, (usize, Mistake)>;

/// The rules of a text. Goes on after a line that is none.
#[derive(Clone, Debug)]
pub struct Rules<'a> {
    rest: Option<&'a [u8]>,
    line: u32,
    rules: usize,
}

impl<'a> Rules<'a> {
    /// Reads rules from a text.
    pub fn new(text: &'a [u8]) -> Self {
        Self {
            rest: Some(text),
            line: 0,
            rules: 0,
        }
    }
}

impl Iterator for Rules<'_> {
    type Item = Result<Rule, RuleError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let rest = self.rest?;
            self.line += 1;
            let error = |column: usize, mistake| RuleError {
                line: self.line,
                column: column as u32 + 1,
                mistake,
            };
            if rest.len() > MAX_TEXT {
                self.rest = None;
                return Some(Err(error(0, Mistake::TextTooLong)));
            }
            let end = rest.iter().position(|&byte| byte == b'\n');
            let line = &rest[..end.unwrap_or(rest.len())];
            self.rest = end.map(|end| &rest[end + 1..]);
            if line.len() > MAX_LINE {
                return Some(Err(error(MAX_LINE, Mistake::LineTooLong)));
            }
            match parse_line(line) {
                Ok(None) => {}
                Ok(Some(_)) if self.rules == MAX_RULES => {
                    self.rest = None;
                    return Some(Err(error(0, Mistake::TooManyRules)));
                }
                Ok(Some(rule)) => {
                    self.rules += 1;
                    return Some(Ok(Rule {
                        line: self.line,
                        ..rule
                    }));
                }
                Err((column, mistake)) => return Some(Err(error(column, mistake))),
            }
        }
    }
}

/// A word of a line, and where it begins.
#[derive(Clone, Copy)]
struct Word<'a> {
    at: usize,
    bytes: &'a [u8],
}

impl Word<'_> {
    /// What is left of it from a byte on.
    fn from(self, start: usize) -> Self {
        Self {
            at: self.at + start,
            bytes: &self.bytes[start..],
        }
    }

    /// What stands before and after the first such byte.
    fn split_at_first(self, byte: u8) -> Option<(Self, Self)> {
        let at = self.bytes.iter().position(|&b| b == byte)?;
        Some(self.split(at))
    }

    /// What stands before and after the last such byte.
    fn split_at_last(self, byte: u8) -> Option<(Self, Self)> {
        let at = self.bytes.iter().rposition(|&b| b == byte)?;
        Some(self.split(at))
    }

    fn split(self, at: usize) -> (Self, Self) {
        let before = Self {
            at: self.at,
            bytes: &self.bytes[..at],
        };
        (before, self.from(at + 1))
    }

    fn is_not<T>(self, mistake: Mistake) -> At<T> {
        Err((self.at, mistake))
    }
}

/// The words of a line, up to a comment.
struct Words<'a> {
    line: &'a [u8],
    at: usize,
}

impl<'a> Words<'a> {
    fn next(&mut self) -> Option<Word<'a>> {
        let blank = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\r');
        let rest = &self.line[self.at..];
        let start = self.at + rest.iter().position(|byte| !blank(byte))?;
        let rest = &self.line[start..];
        if rest[0] == b'#' {
            return None;
        }
        let len = rest.iter().position(blank).unwrap_or(rest.len());
        self.at = start + len;
        Some(Word {
            at: start,
            bytes: &rest[..len],
        })
    }

    /// The next word, which is missing behind the last one otherwise.
    fn expect(&mut self, mistake: Mistake) -> At<Word<'a>> {
        self.next().ok_or((self.at, mistake))
    }
}

fn parse_line(line: &[u8]) -> At<Option<Rule>> {
    let mut words = Words { line, at: 0 };
    let Some(word) = words.next() else {
        return Ok(None);
    };
    let action = match word.bytes {
        b"allow" => Action::Allow,
        b"deny" => Action::Deny,
        b"through" => Action::Through(broker(words.expect(Mistake::Broker)?)?),
        _ => return word.is_not(Mistake::Action),
    };
    let word = words.expect(Mistake::Source)?;
    if word.bytes == b"->" {
        return word.is_not(Mistake::Source);
    }
    let source = pattern(word)?;
    let word = words.expect(Mistake::Arrow)?;
    if word.bytes != b"->" {
        return word.is_not(Mistake::Arrow);
    }
    let destination = pattern(words.expect(Mistake::Destination)?)?;
    let kinds = match words.next() {
        None => Kinds::ALL,
        Some(word) if word.bytes == b"kinds" => kinds(words.expect(Mistake::Kind)?)?,
        Some(word) => return word.is_not(Mistake::Kinds),
    };
    if let Some(word) = words.next() {
        return word.is_not(Mistake::Trailing);
    }
    Ok(Some(Rule {
        action,
        source,
        destination,
        kinds,
        line: 0,
    }))
}

fn broker(word: Word<'_>) -> At<AppId> {
    match pattern(word)? {
        Pattern {
            component: ComponentPattern::Mvm,
            app: Some(app),
        } => Ok(app),
        _ => word.is_not(Mistake::Broker),
    }
}

fn pattern(word: Word<'_>) -> At<Pattern> {
    // A serial number may have an @, but then `hw:` stands before it.
    let (app, component) = match word.split_at_first(b'@') {
        Some((app, component)) if !app.bytes.contains(&b':') => (Some(app), component),
        _ => (None, word),
    };
    let app = match app {
        None => None,
        Some(app) if app.bytes == b"*" => None,
        Some(app) => Some(AppId::new(app.bytes).map_err(|_| (app.at, Mistake::App))?),
    };
    Ok(Pattern {
        component: self::component(component)?,
        app,
    })
}

fn component(word: Word<'_>) -> At<ComponentPattern> {
    match word.bytes {
        b"*" => return Ok(ComponentPattern::Any),
        b"mvm" => return Ok(ComponentPattern::Mvm),
        b"self" => return word.is_not(Mistake::SelfDomain),
        _ => {}
    }
    let Some((class, name)) = word.split_at_first(b':') else {
        return word.is_not(Mistake::Component);
    };
    match class.bytes {
        b"vm" => vm(name),
        b"uuid" => uuid(name),
        b"hw" if name.bytes == b"*" => Ok(ComponentPattern::AllHardware),
        b"hw" => Serial::new(name.bytes)
            .map(ComponentPattern::Hardware)
            .map_err(|_| (name.at, Mistake::Serial)),
        _ => word.is_not(Mistake::Component),
    }
}

fn vm(word: Word<'_>) -> At<ComponentPattern> {
    let Some((ip, id)) = word.split_at_last(b'/') else {
        if word.bytes == b"*" {
            return Ok(ComponentPattern::Guests);
        }
        return Ok(ComponentPattern::Guest(vm_id(word)?));
    };
    let mvm_ip = mvm_ip(ip)?;
    if id.bytes == b"*" {
        return Ok(ComponentPattern::Platform(mvm_ip));
    }
    Ok(ComponentPattern::Vm {
        mvm_ip,
        vm_id: vm_id(id)?,
    })
}

fn vm_id(word: Word<'_>) -> At<u32> {
    let digit = |id: u32, &byte: &u8| {
        let digit = char::from(byte).to_digit(10)?;
        id.checked_mul(10)?.checked_add(digit)
    };
    if word.bytes.is_empty() {
        return word.is_not(Mistake::VmId);
    }
    let id = word.bytes.iter().try_fold(0, digit);
    id.ok_or((word.at, Mistake::VmId))
}

fn mvm_ip(word: Word<'_>) -> At<[u8; 16]> {
    let text = str::from_utf8(word.bytes).ok();
    let ip = match text.and_then(|text| text.parse().ok()) {
        Some(IpAddr::V4(ip)) => Ipv4Addr::to_ipv6_mapped(&ip).octets(),
        Some(IpAddr::V6(ip)) => ip.octets(),
        None => return word.is_not(Mistake::Ip),
    };
    // No platform has the unspecified address: `vm:ID` is how a VM of this one is written.
    if ip == [0; 16] {
        return word.is_not(Mistake::Ip);
    }
    Ok(ip)
}

fn uuid(word: Word<'_>) -> At<ComponentPattern> {
    match uuid::parse(word.bytes) {
        Some(uuid) => Ok(ComponentPattern::Stable(uuid)),
        None => word.is_not(Mistake::Uuid),
    }
}

fn kinds(mut word: Word<'_>) -> At<Kinds> {
    let mut kinds = Kinds::NONE;
    loop {
        let (name, rest) = match word.split_at_first(b',') {
            Some((name, rest)) => (name, Some(rest)),
            None => (word, None),
        };
        let known = Kinds::NAMES
            .iter()
            .find(|(_, known)| known.as_bytes() == name.bytes);
        let Some(&(kind, _)) = known else {
            return name.is_not(Mistake::Kind);
        };
        if kinds.contains(kind) {
            return name.is_not(Mistake::KindTwice);
        }
        kinds = kinds.with(kind);
        match rest {
            Some(rest) => word = rest,
            None => return Ok(kinds),
        }
    }
}
