// SPDX-License-Identifier: GPL-2.0

//! Finds the first rule that matches a message, at a cost that hardly grows with their number.
//!
//! Tuple-space search: rules whose four fields (source component and App_ID, destination component
//! and App_ID) have the same forms make a *run*, sorted by what the fields say. In a run, only one
//! key can match a message, and a binary search finds it; the lowest rule of all runs decides. There
//! are at most 324 runs, and seldom more than a dozen.

use super::{
    party::{Party, Seen},
    Action,
    BuiltIn,
    ComponentPattern,
    Form,
    Kinds,
    Pattern,
    Rule, //
};
use crate::{
    pure::{directory::End, route::VmName},
    wire::{AppId, Kind}, //
};
use core::ops::{Deref, DerefMut};

/// The most rules of a table.
pub const MAX_RULES: usize = 16384;

/// The kinds of a message that can have asked for a reply, the usual one first.
const REQUESTS: [Kind; 4] = [Kind::Data, Kind::Establish, Kind::Discover, Kind::Terminate];

/// A place in a table's order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    rule: u16,
    /// At the first entry of a run: where the next run begins.
    end: u16,
    /// At the first entry of a run: the lowest rule in it.
    lowest: u16,
}

/// Why there is no table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompileError {
    /// More than [`MAX_RULES`] rules.
    TooManyRules,
    /// Not one entry for each rule.
    Entries,
}

/// What happens with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It passes.
    Allow,
    /// It is undeliverable.
    Deny,
    /// It goes to this broker of the management VM.
    Through(AppId),
}

/// What a decision follows from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The rule with this number, from 0.
    Rule(u16),
    /// No rule.
    BuiltIn(BuiltIn),
}

/// What is decided of a message, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What happens with it.
    pub verdict: Verdict,
    /// What that follows from.
    pub cause: Cause,
    /// If it passes as the reply to what the other end may send: the kind of that. The cause is
    /// then about the other direction.
    pub reply_to: Option<Kind>,
    /// It passes since an end of it is the broker that the rule names.
    pub broker: bool,
}

/// The rules that decide before a rule can, so that it never does: one for each of its kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shadow {
    by: [Option<u16>; Kinds::NAMES.len()],
}

impl Shadow {
    /// The numbers of these rules, each once.
    pub fn rules(&self) -> impl Iterator<Item = u16> + '_ {
        let new = |&(at, rule): &(usize, u16)| !self.by[..at].contains(&Some(rule));
        self.by
            .iter()
            .enumerate()
            .filter_map(|(at, rule)| Some((at, (*rule)?)))
            .filter(new)
            .map(|(_, rule)| rule)
    }
}

/// Rules in an order in which they are found quickly.
///
/// `R` holds the rules, `E` the order: a `KVVec` in the kernel, a `Vec` or a slice elsewhere.
///
/// # Invariants
///
/// The first `len` of `entries` are sorted by mask, key and rule; each names a rule; the first of
/// each mask has the end and the lowest rule of its run. No two of a key decide the same kind
/// only, so that a key has at most one entry for each kind.
#[derive(Clone, Debug)]
pub struct Table<R, E> {
    rules: R,
    entries: E,
    len: usize,
}

/// The forms of a rule's four fields; an App_ID is there or not.
type Mask = (Form, bool, Form, bool);

pub(super) fn mask(rule: &Rule) -> Mask {
    (
        rule.source.component.form(),
        rule.source.app.is_some(),
        rule.destination.component.form(),
        rule.destination.app.is_some(),
    )
}

fn key(rule: &Rule) -> (&Pattern, &Pattern) {
    (&rule.source, &rule.destination)
}

/// What something is called in the rules of this form.
fn seen(what: &impl Seen, component: Form, has_app: bool) -> Option<Pattern> {
    let component: ComponentPattern = what.seen_as(component)?;
    let app: Option<AppId> = if has_app { Some(what.app()?) } else { None };
    Some(Pattern { component, app })
}

/// Heap sort: it needs no memory and hardly any stack. (Core's `sort_unstable` ends, for an order
/// that is none, in a function that objtool does not know not to return.)
pub(super) fn sort<T>(items: &mut [T], is_less: impl Fn(&T, &T) -> bool) {
    let len = items.len();
    // First make a heap, the greatest on top, then take one after the other off it.
    for step in (0..len + len / 2).rev() {
        let mut at = 0;
        if step >= len {
            at = step - len;
        } else {
            items.swap(0, step);
        }
        let heap = &mut items[..step.min(len)];
        loop {
            let mut child = 2 * at + 1;
            if child >= heap.len() {
                break;
            }
            if child + 1 < heap.len() && is_less(&heap[child], &heap[child + 1]) {
                child += 1;
            }
            if !is_less(&heap[at], &heap[child]) {
                break;
            }
            heap.swap(at, child);
            at = child;
        }
    }
}

impl<R: Deref<Target = [Rule]>, E: DerefMut<Target = [Entry]>> Table<R, E> {
    /// Sorts rules into a table. `entries` has as many elements as `rules`, of any value.
    ///
    /// Without rules it is the table that holds where none was loaded.
    pub fn compile(rules: R, mut entries: E) -> Result<Self, CompileError> {
        if rules.len() > MAX_RULES {
            return Err(CompileError::TooManyRules);
        }
        if rules.len() != entries.len() {
            return Err(CompileError::Entries);
        }
        for (rule, entry) in entries.iter_mut().enumerate() {
            *entry = Entry {
                rule: rule as u16,
                ..Entry::default()
            };
        }
        let rule = |entry: &Entry| &rules[usize::from(entry.rule)];
        sort(&mut entries, |a, b| {
            let (x, y) = (rule(a), rule(b));
            (mask(x), key(x), a.rule) < (mask(y), key(y), b.rule)
        });

        // Leave out what an earlier rule of the same key decides.
        let mut len = 0;
        let mut decided = Kinds::NONE;
        for at in 0..entries.len() {
            let entry = entries[at];
            let this = rule(&entry);
            if len == 0 || key(rule(&entries[len - 1])) != key(this) {
                decided = Kinds::NONE;
            }
            if this.kinds.iter().all(|kind| decided.contains(kind)) {
                continue;
            }
            decided = this.kinds.iter().fold(decided, Kinds::with);
            entries[len] = entry;
            len += 1;
        }

        let mut start = 0;
        for at in 0..len {
            if mask(rule(&entries[at])) != mask(rule(&entries[start])) {
                start = at;
            }
            if at == start {
                entries[start].lowest = entries[start].rule;
            }
            entries[start].lowest = entries[start].lowest.min(entries[at].rule);
            entries[start].end = at as u16 + 1;
        }
        // INVARIANT: Sorted, thinned out and marked above.
        Ok(Self {
            rules,
            entries,
            len,
        })
    }

    /// The rules, in their order.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    pub(super) fn order(&self) -> &[Entry] {
        &self.entries[..self.len]
    }

    /// Decides what happens with a message of this kind, and says why.
    pub fn decide(&self, source: &Party, destination: &Party, kind: Kind) -> Decision {
        if kind == Kind::Undeliverable {
            return self.decide_return(source, destination);
        }
        let decision = self.decide_one_way(source, destination, kind);
        if kind != Kind::Reply || decision.verdict == Verdict::Allow {
            return decision;
        }
        // One rule makes a conversation: who may be asked may answer.
        for request in REQUESTS {
            let asked = self.decide_one_way(destination, source, request);
            if asked.verdict == Verdict::Allow {
                return Decision {
                    reply_to: Some(request),
                    ..asked
                };
            }
        }
        decision
    }

    /// What comes back passes to who may have sent something there: a bridge does not remember all that
    /// it let pass, and who says so may be lying.
    fn decide_return(&self, source: &Party, destination: &Party) -> Decision {
        for (kind, _) in Kinds::NAMES {
            let sent = self.decide(destination, source, kind);
            if sent.verdict == Verdict::Allow {
                return Decision {
                    reply_to: Some(kind),
                    ..sent
                };
            }
        }
        Decision {
            verdict: BuiltIn::Undeliverable.verdict(),
            cause: Cause::BuiltIn(BuiltIn::Undeliverable),
            reply_to: None,
            broker: false,
        }
    }

    /// As [`Table::decide`], for addresses that a bridge stamped or resolved, on the platform of the
    /// management VM `mvm`. `None` if one of them is no such address.
    pub fn decide_between(
        &self,
        mvm: VmName,
        source: &End<'_>,
        destination: &End<'_>,
        kind: Kind,
    ) -> Option<Decision> {
        let source = Party::of(mvm, source)?;
        let destination = Party::of(mvm, destination)?;
        Some(self.decide(&source, &destination, kind))
    }

    fn decide_one_way(&self, source: &Party, destination: &Party, kind: Kind) -> Decision {
        let built_in = |built_in: BuiltIn| Decision {
            verdict: built_in.verdict(),
            cause: Cause::BuiltIn(built_in),
            reply_to: None,
            broker: false,
        };
        if let Some(first) = BuiltIn::before_rules(source, destination) {
            return built_in(first);
        }
        let Some(number) = self.find(source, destination, kind, &mut || ()) else {
            return built_in(BuiltIn::after_rules(source, destination));
        };
        let (verdict, broker) = match self.rules[usize::from(number)].action {
            Action::Allow => (Verdict::Allow, false),
            Action::Deny => (Verdict::Deny, false),
            Action::Through(app) if source.is_broker(app) || destination.is_broker(app) => {
                (Verdict::Allow, true)
            }
            Action::Through(app) => (Verdict::Through(app), false),
        };
        Decision {
            verdict,
            cause: Cause::Rule(number),
            reply_to: None,
            broker,
        }
    }

    /// Says which rules keep this one from ever deciding; `None` if it may decide something.
    ///
    /// Rules that only together match all that it matches are not found. A `vm:ID` is taken for a
    /// guest here, though it may be the management VM's own.
    pub fn shadow(&self, number: u16) -> Option<Shadow> {
        let rule = &self.rules[usize::from(number)];
        let mut by = [None; Kinds::NAMES.len()];
        for (by, (kind, _)) in by.iter_mut().zip(Kinds::NAMES) {
            if rule.kinds.contains(kind) {
                let first = self.find(&rule.source, &rule.destination, kind, &mut || ());
                *by = Some(first.filter(|&first| first < number)?);
            }
        }
        Some(Shadow { by })
    }

    /// The lowest rule that matches. Calls `compared` whenever it compares with a rule.
    pub(super) fn find(
        &self,
        source: &impl Seen,
        destination: &impl Seen,
        kind: Kind,
        compared: &mut impl FnMut(),
    ) -> Option<u16> {
        let rule = |entry: &Entry| &self.rules[usize::from(entry.rule)];
        let mut found: Option<u16> = None;
        let mut rest = self.order();
        let mut start = 0;
        while let Some(first) = rest.first() {
            let (run, later) = rest.split_at(usize::from(first.end) - start);
            rest = later;
            start = usize::from(first.end);
            if found.is_some_and(|found| found < first.lowest) {
                continue;
            }
            compared();
            let forms = mask(rule(first));
            let Some(source) = seen(source, forms.0, forms.1) else {
                continue;
            };
            let Some(destination) = seen(destination, forms.2, forms.3) else {
                continue;
            };
            let wanted = (&source, &destination);
            let at = run.partition_point(|entry| {
                compared();
                key(rule(entry)) < wanted
            });
            // At most one for each kind.
            for entry in &run[at..] {
                compared();
                if key(rule(entry)) != wanted {
                    break;
                }
                if rule(entry).kinds.contains(kind) {
                    found = Some(found.map_or(entry.rule, |found| found.min(entry.rule)));
                    break;
                }
            }
        }
        found
    }
}
