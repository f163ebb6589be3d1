// SPDX-License-Identifier: GPL-2.0

//! The rules that are loaded. What they mean is `pure::policy`.

use crate::{
    link::Counter,
    pure::{
        directory::{self, End},
        policy::{BuiltIn, Cause, Entry, Rule, RuleError, Rules, Table, Verdict, MAX_TEXT},
        route::VmName, //
    },
    wire::Kind, //
};
use core::cell::Cell;
use kernel::{
    prelude::*,
    sync::Arc, //
};

/// Why rules were not loaded.
pub(crate) enum LoadError {
    /// A line is no rule.
    Rule {
        line: u32,
        column: u32,
    },
    Other(Error),
}

impl<E: Into<Error>> From<E> for LoadError {
    fn from(error: E) -> Self {
        Self::Other(error.into())
    }
}

/// Rules, how often each has decided, and the text that they are from.
pub(crate) struct Policy {
    table: Table<KVVec<Rule>, KVVec<Entry>>,
    hits: KVVec<Counter>,
    built_in_hits: [Counter; BuiltIn::TABLE.len()],
    text: KVVec<u8>,
}

impl Policy {
    /// Reads rules.
    pub(crate) fn new(text: KVVec<u8>) -> Result<Arc<Self>, LoadError> {
        if text.len() > MAX_TEXT {
            return Err(EMSGSIZE.into());
        }
        let mut rules = KVVec::new();
        for rule in Rules::new(&text) {
            let rule =
                rule.map_err(|RuleError { line, column, .. }| LoadError::Rule { line, column })?;
            rules.push(rule, GFP_KERNEL)?;
        }
        let mut hits = KVVec::with_capacity(rules.len(), GFP_KERNEL)?;
        for _ in 0..rules.len() {
            hits.push(Counter::default(), GFP_KERNEL)?;
        }
        let entries = KVVec::from_elem(Entry::default(), rules.len(), GFP_KERNEL)?;
        let table = Table::compile(rules, entries).map_err(|_| EINVAL)?;
        Ok(Arc::new(
            Self {
                table,
                hits,
                built_in_hits: Default::default(),
                text,
            },
            GFP_KERNEL,
        )?)
    }

    pub(crate) fn text(&self) -> &[u8] {
        &self.text
    }

    /// How many rules there are.
    pub(crate) fn len(&self) -> usize {
        self.hits.len()
    }

    /// Every rule, and how often it has decided.
    pub(crate) fn rules(&self) -> impl Iterator<Item = (&Rule, u64)> {
        let hits = self.hits.iter().map(Counter::get);
        self.table.rules().iter().zip(hits)
    }

    /// The line of a rule, and how often it has decided.
    pub(crate) fn rule(&self, number: usize) -> Option<(u32, u64)> {
        let rule = self.table.rules().get(number)?;
        Some((rule.line, self.hits.get(number)?.get()))
    }

    /// Counts that a rule has decided.
    pub(crate) fn count(&self, cause: Cause) {
        let counter = match cause {
            Cause::Rule(number) => self.hits.get(usize::from(number)),
            Cause::BuiltIn(which) => self.built_in_hits.get(which as usize),
        };
        if let Some(counter) = counter {
            counter.add(1);
        }
    }

    /// How often a built-in rule has decided.
    pub(crate) fn built_in(&self, number: usize) -> Option<u64> {
        Some(self.built_in_hits.get(number)?.get())
    }
}

impl directory::Rules for Policy {
    fn decide(&self, mvm: VmName, source: &End<'_>, destination: &End<'_>, kind: Kind) -> Verdict {
        let asked = Asked::new(self);
        asked.decide(mvm, source, destination, kind)
    }
}

/// The rules, asked about one message.
pub(crate) struct Asked<'a> {
    policy: &'a Policy,
    times: Cell<u32>,
    cause: Cell<Option<Cause>>,
}

impl<'a> Asked<'a> {
    pub(crate) fn new(policy: &'a Policy) -> Self {
        Self {
            policy,
            times: Cell::new(0),
            cause: Cell::new(None),
        }
    }

    /// The rule that decided, if any was asked; `None` if several did.
    pub(crate) fn cause(&self) -> Option<Option<Cause>> {
        (self.times.get() <= 1).then(|| self.cause.get())
    }
}

impl directory::Rules for Asked<'_> {
    fn decide(&self, mvm: VmName, source: &End<'_>, destination: &End<'_>, kind: Kind) -> Verdict {
        let table = &self.policy.table;
        let Some(decision) = table.decide_between(mvm, source, destination, kind) else {
            // No rule is about it.
            self.times.set(u32::MAX);
            return Verdict::Deny;
        };
        self.times.set(self.times.get().saturating_add(1));
        self.cause.set(Some(decision.cause));
        self.policy.count(decision.cause);
        decision.verdict
    }
}
