// SPDX-License-Identifier: MIT OR Apache-2.0

//! Leases, limits, and the observe-only switch.
//!
//! Locks: an actuator's first, then the governor's own. The own is never held while an actuator or
//! the disk works, except to keep the leases in memory and on disk alike.

use crate::actuator::{Actuator, ActuatorError, Description, vm_target};
use mgmt_broker::power::cap::{CapError, CpuCap};
use mgmt_control::{Class, Intent, Lease, Outcome, Plan, Refusal, RefusalKind, Verdict};
use mgmt_state::{Entry, State};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Leases are not shorter, milliseconds.
const TTL_LEAST: u32 = 1000;
/// Nor longer: a day.
const TTL_MOST: u32 = 24 * 3600 * 1000;
/// What is withheld again and again for the same reason is written down so often, milliseconds.
const REPEAT_MS: u64 = 60_000;
/// A return to the safe default that failed is tried again after this, milliseconds.
const RETRY_MS: u64 = 5000;
/// So often, and then it is given up.
const TRIES: u32 = 12;
/// Intents that are remembered for the plan.
const INTENTS: usize = 4096;

/// Milliseconds since the host was started, suspends included: no clock that can be set.
pub fn since_boot_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
}

/// What tells this boot from others.
pub fn boot_id() -> std::io::Result<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok(id.trim().to_owned())
}

/// How fast an actuator may be changed, for each target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Time from one change to the next, milliseconds.
    pub min_interval_ms: u64,
    /// Hysteresis: smaller changes are not made, in the actuator's unit; but those from and to the
    /// safe default are.
    pub min_step: i64,
    /// Hysteresis: time from a change to one in the other direction, milliseconds.
    pub reverse_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            min_interval_ms: 250,
            min_step: 2,
            reverse_ms: 500,
        }
    }
}

/// What a broker wants.
#[derive(Clone, Copy, Debug)]
pub struct Want<'a> {
    /// Who: an App_ID.
    pub holder: &'a str,
    /// Which kind of actuator.
    pub actuator: &'a str,
    /// Of what.
    pub target: &'a str,
    /// To what.
    pub value: i64,
    /// How long it holds the actuator without renewing, milliseconds.
    pub ttl_ms: u32,
    /// The cause.
    pub why: &'a str,
}

/// How often what came of it.
#[derive(Debug, Default)]
pub struct Counters {
    /// Set and read back.
    pub done: AtomicU64,
    /// Kept from being set by the observe-only switch.
    pub observed: AtomicU64,
    /// Kept from being set by a limit, or another's lease.
    pub withheld: AtomicU64,
    /// Tried in vain.
    pub failed: AtomicU64,
    /// Back at the safe default.
    pub returned: AtomicU64,
}

struct Slot {
    limits: Limits,
    description: Description,
    /// In place of the description's.
    safe: AtomicI64,
    actuator: Mutex<Box<dyn Actuator>>,
}

impl Slot {
    fn safe(&self) -> i64 {
        self.safe.load(Ordering::Relaxed)
    }
}

/// By actuator and target.
type Key = (String, String);

/// The last change of a target.
#[derive(Clone, Copy)]
struct Change {
    at: u64,
    up: bool,
}

struct Noted {
    intent: Intent,
    at: u64,
    /// When it was written down.
    written: u64,
}

#[derive(Default)]
struct Inner {
    observe: bool,
    leases: BTreeMap<Key, Lease>,
    changes: BTreeMap<Key, Change>,
    intents: BTreeMap<Key, Noted>,
    /// Returns that failed: how often, and when the next try is.
    tries: BTreeMap<Key, (u32, u64)>,
}

/// Stands between brokers and actuators.
pub struct Governor {
    state: Arc<State>,
    clock: Box<dyn Fn() -> u64 + Send + Sync>,
    slots: BTreeMap<String, Slot>,
    inner: Mutex<Inner>,
    /// For metrics.
    pub counters: Counters,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn failed(error: &mgmt_state::Error) -> Refusal {
    Refusal::new(RefusalKind::Failed, error.to_string())
}

fn withheld(text: impl Into<String>) -> Refusal {
    Refusal::new(RefusalKind::Withheld, text)
}

impl Governor {
    /// With the leases that `state` has of this boot. The clock counts milliseconds of this boot.
    pub fn new(
        state: Arc<State>,
        boot: &str,
        clock: Box<dyn Fn() -> u64 + Send + Sync>,
    ) -> mgmt_state::Result<Self> {
        let forgotten = state.keep_leases_of(boot)?;
        if forgotten > 0 {
            tracing::info!(forgotten, "leases of another boot");
        }
        let leases = state.leases()?.into_iter();
        let leases = leases.map(|lease| ((lease.actuator.clone(), lease.target.clone()), lease));
        let inner = Inner {
            observe: state.observe()?,
            leases: leases.collect(),
            ..Inner::default()
        };
        Ok(Self {
            state,
            clock,
            slots: BTreeMap::new(),
            inner: Mutex::new(inner),
            counters: Counters::default(),
        })
    }

    /// Adds a kind of actuator.
    pub fn add(&mut self, name: &str, limits: Limits, actuator: Box<dyn Actuator>) {
        let description = actuator.description();
        let slot = Slot {
            limits,
            safe: AtomicI64::new(description.safe),
            description,
            actuator: Mutex::new(actuator),
        };
        self.slots.insert(name.to_owned(), slot);
    }

    /// Has an actuator go to another value when nobody holds it.
    pub fn set_safe(&self, actuator: &str, value: i64) {
        if let Some(slot) = self.slots.get(actuator) {
            slot.safe.store(value, Ordering::Relaxed);
        }
    }

    /// The kinds of actuators.
    pub fn actuators(&self) -> Vec<String> {
        self.slots.keys().cloned().collect()
    }

    /// Whether the platform is only observed.
    pub fn observe(&self) -> bool {
        lock(&self.inner).observe
    }

    /// Switches that. Done when what is being set now is set.
    pub fn set_observe(&self, on: bool, who: &str) -> mgmt_state::Result<()> {
        let mut inner = lock(&self.inner);
        let (subject, detail) = if on {
            ("on", "nothing is set")
        } else {
            ("off", "")
        };
        let entry = Entry::done(who, "observe", subject, detail);
        self.state.set_observe(on, entry)?;
        inner.observe = on;
        drop(inner);
        // Whoever has passed the switch holds an actuator's lock until it is done.
        for slot in self.slots.values() {
            drop(lock(&slot.actuator));
        }
        Ok(())
    }

    /// Who holds what.
    pub fn leases(&self) -> Vec<Lease> {
        lock(&self.inner).leases.values().cloned().collect()
    }

    fn slot(&self, actuator: &str) -> Result<&Slot, Refusal> {
        self.slots.get(actuator).ok_or_else(|| {
            let text = format!("there is no actuator {actuator:?}");
            Refusal::new(RefusalKind::Missing, text)
        })
    }

    /// Reads an actuator.
    pub fn get(&self, actuator: &str, target: &str) -> Result<i64, Refusal> {
        let mut reader = lock(&self.slot(actuator)?.actuator);
        reader.get(target).map_err(|error| refusal(&error))
    }

    /// Sets an actuator as a broker wants it, if it may be done now. Its lease is taken, or renewed.
    pub fn actuate(&self, want: Want<'_>) -> Result<(), Refusal> {
        let slot = self.slot(want.actuator)?;
        let Description { least, most, .. } = slot.description;
        if !(least..=most).contains(&want.value) {
            let text = format!("a value from {least} to {most} is expected");
            return Err(Refusal::new(RefusalKind::Invalid, text));
        }
        if want.target.is_empty() || want.target.len() > 128 || want.holder.is_empty() {
            return Err(Refusal::new(RefusalKind::Invalid, "no such target"));
        }
        let mut actuator = lock(&slot.actuator);
        let key = (want.actuator.to_owned(), want.target.to_owned());
        let now = (self.clock)();
        let (lease, change, observe) = {
            let inner = lock(&self.inner);
            let lease = inner.leases.get(&key).cloned();
            (lease, inner.changes.get(&key).copied(), inner.observe)
        };
        if let Some(other) = lease.as_ref().filter(|lease| lease.holder != want.holder) {
            let left = other.ends_ms.saturating_sub(now) / 1000;
            let text = format!("{} holds it, for {left} s more", other.holder);
            return self.note(slot, want, other.value, Verdict::Withheld(text), now);
        }
        // What was read back last is trusted to tell a change; that there is none is looked up.
        let known = lease.as_ref().and_then(|lease| lease.value);
        let from = match known.filter(|&known| known != want.value) {
            Some(known) => Ok(known),
            None => actuator.get(want.target),
        };
        let from = match from {
            Ok(from) => from,
            Err(error) => {
                return self.note(slot, want, known, Verdict::Failed(error.to_string()), now);
            }
        };
        if observe {
            let verdict = if from == want.value {
                Verdict::Same
            } else {
                Verdict::Observed
            };
            return self.note(slot, want, Some(from), verdict, now);
        }
        if from != want.value {
            if let Some(why) = slot
                .limits
                .forbid(slot.safe(), from, want.value, change, now)
            {
                self.hold(&key, want, lease.as_ref(), now)?;
                return self.note(slot, want, Some(from), Verdict::Withheld(why), now);
            }
        }
        // On disk before it is set: whoever comes after a crash knows that it has to go back.
        self.hold(&key, want, lease.as_ref(), now)?;
        if from == want.value {
            return self.note(slot, want, Some(from), Verdict::Same, now);
        }
        let change = Change {
            at: now,
            up: want.value > from,
        };
        let verdict = match actuator.set(want.target, want.value) {
            Ok(()) => {
                lock(&self.inner).changes.insert(key, change);
                Verdict::Done
            }
            Err(error) => Verdict::Failed(error.to_string()),
        };
        self.note(slot, want, Some(from), verdict, now)
    }

    /// Takes or renews a lease, on disk and in memory.
    fn hold(
        &self,
        key: &Key,
        want: Want<'_>,
        lease: Option<&Lease>,
        now: u64,
    ) -> Result<(), Refusal> {
        let ttl_ms = want.ttl_ms.clamp(TTL_LEAST, TTL_MOST);
        let lease = Lease {
            actuator: key.0.clone(),
            target: key.1.clone(),
            holder: want.holder.to_owned(),
            ttl_ms,
            ends_ms: now + u64::from(ttl_ms),
            value: lease.and_then(|lease| lease.value),
        };
        let mut inner = lock(&self.inner);
        let stored = self.state.put_leases(std::slice::from_ref(&lease), None);
        stored.map_err(|error| failed(&error))?;
        inner.leases.insert(key.clone(), lease);
        Ok(())
    }

    /// Renews all leases of a holder, and says which these are.
    pub fn renew(&self, holder: &str) -> mgmt_state::Result<Vec<Lease>> {
        let now = (self.clock)();
        let mut inner = lock(&self.inner);
        let mut renewed = Vec::new();
        for lease in inner.leases.values().filter(|lease| lease.holder == holder) {
            let ends_ms = now + u64::from(lease.ttl_ms);
            renewed.push(Lease {
                ends_ms,
                ..lease.clone()
            });
        }
        if renewed.is_empty() {
            return Ok(renewed);
        }
        self.state.put_leases(&renewed, None)?;
        for lease in &renewed {
            let key = (lease.actuator.clone(), lease.target.clone());
            inner.leases.insert(key, lease.clone());
        }
        Ok(renewed)
    }

    /// Writes down what came of a want, and says it to the broker.
    fn note(
        &self,
        slot: &Slot,
        want: Want<'_>,
        from: Option<i64>,
        verdict: Verdict,
        now: u64,
    ) -> Result<(), Refusal> {
        let key = (want.actuator.to_owned(), want.target.to_owned());
        let intent = Intent {
            actuator: key.0.clone(),
            target: key.1.clone(),
            unit: slot.description.unit.to_owned(),
            holder: want.holder.to_owned(),
            from,
            to: want.value,
            why: want.why.to_owned(),
            verdict: verdict.clone(),
            age_ms: 0,
        };
        let (outcome, result, counter) = match &verdict {
            Verdict::Done => (Outcome::Done, Ok(()), Some(&self.counters.done)),
            Verdict::Same => (Outcome::Done, Ok(()), None),
            Verdict::Observed | Verdict::Due => {
                let text = "observe-only";
                let counter = Some(&self.counters.observed);
                (Outcome::Refused(text.into()), Err(withheld(text)), counter)
            }
            Verdict::Withheld(why) => {
                let counter = Some(&self.counters.withheld);
                (Outcome::Refused(why.clone()), Err(withheld(why)), counter)
            }
            Verdict::Failed(why) => {
                let refusal = Refusal::new(RefusalKind::Failed, why.clone());
                let counter = Some(&self.counters.failed);
                (Outcome::Failed(why.clone()), Err(refusal), counter)
            }
        };
        if let Some(counter) = counter {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        let mut inner = lock(&self.inner);
        let before = inner.intents.get(&key);
        let same = before.filter(|noted| {
            let kind = std::mem::discriminant::<Verdict>;
            let old = &noted.intent;
            old.to == intent.to
                && old.holder == intent.holder
                && kind(&old.verdict) == kind(&verdict)
                && now < noted.written + REPEAT_MS
        });
        let write = match verdict {
            Verdict::Done | Verdict::Failed(_) => true,
            Verdict::Same => false,
            _ => same.is_none(),
        };
        let written = if write {
            now
        } else {
            before.map_or(0, |noted| noted.written)
        };
        // What holds now is in the lease, with the record, in one transaction.
        let mut lease = None;
        if matches!(verdict, Verdict::Done | Verdict::Same) && !inner.observe {
            lease = inner.leases.get(&key).cloned();
            if let Some(lease) = &mut lease {
                lease.value = Some(want.value);
            }
        }
        let show = |value: Option<i64>| value.map_or("?".into(), |value: i64| value.to_string());
        let detail = format!("{} -> {}: {}", show(from), want.value, want.why);
        let subject = format!("{} {}", key.0, key.1);
        let entry = Entry {
            class: Class::Actuation,
            who: want.holder,
            action: "actuate",
            subject: &subject,
            detail: &detail,
            outcome,
        };
        let stored = match (&lease, write) {
            (Some(lease), _) => self
                .state
                .put_leases(std::slice::from_ref(lease), write.then_some(entry)),
            (None, true) => self.state.audit(entry),
            (None, false) => Ok(()),
        };
        if let Some(lease) = lease {
            inner.leases.insert(key.clone(), lease);
        }
        inner.intents.insert(
            key,
            Noted {
                intent,
                at: now,
                written,
            },
        );
        if inner.intents.len() > INTENTS {
            let oldest = inner.intents.iter().min_by_key(|(_, noted)| noted.at);
            if let Some(key) = oldest.map(|(key, _)| key.clone()) {
                inner.intents.remove(&key);
                inner.changes.remove(&key);
            }
        }
        stored.map_err(|error| failed(&error))?;
        result
    }

    /// A broker gives an actuator back: it returns to its safe default. Nothing happens if the broker
    /// does not hold it.
    pub fn release(
        &self,
        holder: &str,
        actuator: &str,
        target: &str,
        why: &str,
    ) -> Result<(), Refusal> {
        self.give_back(actuator, target, why, |lease| lease.holder == holder)
    }

    /// Takes back what is not renewed any more. To be called about twice a second.
    pub fn expire(&self) {
        let now = (self.clock)();
        let due: Vec<Lease> = {
            let inner = lock(&self.inner);
            let ended = inner.leases.iter().filter(|(key, lease)| {
                let wait = inner.tries.get(*key).map_or(0, |tries| tries.1);
                lease.ends_ms <= now && wait <= now
            });
            ended.map(|(_, lease)| lease.clone()).collect()
        };
        for lease in due {
            let why = format!(
                "the lease of {} ended: not renewed for {}.{} s",
                lease.holder,
                lease.ttl_ms / 1000,
                lease.ttl_ms % 1000 / 100
            );
            // Failures are counted and written down; observe-only is no failure.
            let _ = self.give_back(&lease.actuator, &lease.target, &why, |lease| {
                lease.ends_ms <= now
            });
        }
    }

    fn give_back(
        &self,
        actuator: &str,
        target: &str,
        why: &str,
        still: impl Fn(&Lease) -> bool,
    ) -> Result<(), Refusal> {
        let slot = self.slot(actuator)?;
        let mut setter = lock(&slot.actuator);
        let key = (actuator.to_owned(), target.to_owned());
        let lease = {
            let inner = lock(&self.inner);
            match inner.leases.get(&key).filter(|lease| still(lease)) {
                // Renewed, or given back, in between.
                None => return Ok(()),
                Some(_) if inner.observe => return Err(withheld("observe-only")),
                Some(lease) => lease.clone(),
            }
        };
        let safe = slot.safe();
        let done = setter.set(target, safe);
        let mut inner = lock(&self.inner);
        let now = (self.clock)();
        let subject = format!("{actuator} {target}");
        let from = lease.value.map_or("?".into(), |value| value.to_string());
        let detail = format!("{from} -> {safe} (safe default): {why}");
        let entry = |outcome| Entry {
            class: Class::Actuation,
            who: &lease.holder,
            action: "return",
            subject: &subject,
            detail: &detail,
            outcome,
        };
        let outcome = match done {
            Ok(()) => {
                self.counters.returned.fetch_add(1, Ordering::Relaxed);
                tracing::info!(actuator, target, safe, why, "returned to the safe default");
                Outcome::Done
            }
            Err(error @ ActuatorError::NoTarget(_)) => Outcome::Refused(error.to_string()),
            Err(error) => {
                self.counters.failed.fetch_add(1, Ordering::Relaxed);
                let tries = inner.tries.get(&key).map_or(0, |tries| tries.0) + 1;
                tracing::error!(actuator, target, %error, tries, "cannot return to the safe default");
                if tries < TRIES {
                    if tries == 1 {
                        let first = self.state.audit(entry(Outcome::Failed(error.to_string())));
                        first.map_err(|error| failed(&error))?;
                    }
                    inner.tries.insert(key, (tries, now + RETRY_MS));
                    return Err(refusal(&error));
                }
                Outcome::Failed(format!("given up after {tries} tries: {error}"))
            }
        };
        let removed = self.state.remove_lease(actuator, target, entry(outcome));
        removed.map_err(|error| failed(&error))?;
        inner.leases.remove(&key);
        inner.tries.remove(&key);
        inner.changes.remove(&key);
        inner.intents.remove(&key);
        Ok(())
    }

    /// What brokers want now, and what is due.
    pub fn plan(&self) -> Plan {
        let now = (self.clock)();
        let inner = lock(&self.inner);
        let mut intents: BTreeMap<&Key, Intent> = BTreeMap::new();
        for (key, noted) in &inner.intents {
            let age_ms = now.saturating_sub(noted.at);
            intents.insert(
                key,
                Intent {
                    age_ms,
                    ..noted.intent.clone()
                },
            );
        }
        for (key, lease) in inner
            .leases
            .iter()
            .filter(|(_, lease)| lease.ends_ms <= now)
        {
            let slot = self.slots.get(&key.0);
            let due = Intent {
                actuator: key.0.clone(),
                target: key.1.clone(),
                unit: slot.map_or("", |slot| slot.description.unit).to_owned(),
                holder: lease.holder.clone(),
                from: lease.value,
                to: slot.map_or(0, Slot::safe),
                why: "the lease has ended: the safe default".into(),
                verdict: Verdict::Due,
                age_ms: now - lease.ends_ms,
            };
            intents.insert(key, due);
        }
        Plan {
            observe: inner.observe,
            intents: intents.into_values().collect(),
        }
    }
}

impl Limits {
    /// Why a change is not to be made now.
    fn forbid(
        &self,
        safe: i64,
        from: i64,
        to: i64,
        last: Option<Change>,
        now: u64,
    ) -> Option<String> {
        if from != safe && to != safe && from.abs_diff(to) < self.min_step.unsigned_abs() {
            return Some(format!("a smaller change than {}", self.min_step));
        }
        let last = last?;
        let age = now.saturating_sub(last.at);
        if age < self.min_interval_ms {
            return Some(format!(
                "changed {age} ms ago, and may be every {} ms",
                self.min_interval_ms
            ));
        }
        if last.up != (to > from) && age < self.reverse_ms {
            return Some(format!(
                "changed the other way {age} ms ago, and may be turned after {} ms",
                self.reverse_ms
            ));
        }
        None
    }
}

fn refusal(error: &ActuatorError) -> Refusal {
    let kind = match error {
        ActuatorError::NoTarget(_) => RefusalKind::Missing,
        ActuatorError::Failed(_) => RefusalKind::Failed,
    };
    Refusal::new(kind, error.to_string())
}

/// A scheduler's cap over the governor, for a broker that knows nothing of it.
pub struct Governed {
    governor: Arc<Governor>,
    holder: String,
    actuator: String,
    ttl_ms: u32,
}

impl Governed {
    /// For the broker `holder`, which holds what it sets for `ttl_ms` without renewing.
    pub fn new(governor: Arc<Governor>, holder: &str, actuator: &str, ttl_ms: u32) -> Self {
        Self {
            governor,
            holder: holder.to_owned(),
            actuator: actuator.to_owned(),
            ttl_ms,
        }
    }

    fn error(&self, refusal: Refusal) -> CapError {
        match refusal.kind {
            RefusalKind::Withheld => CapError::Withheld(refusal.text),
            _ => CapError::Failed {
                tool: self.actuator.clone(),
                message: refusal.text,
            },
        }
    }
}

impl CpuCap for Governed {
    fn set(&mut self, domain: u32, cap: u32) -> Result<(), CapError> {
        self.set_for(domain, cap, "no reason given")
    }

    fn set_for(&mut self, domain: u32, cap: u32, why: &str) -> Result<(), CapError> {
        let target = vm_target(domain);
        let slot = self.governor.slot(&self.actuator);
        let safe = slot.is_ok_and(|slot| slot.safe() == i64::from(cap));
        let done = if safe {
            self.governor
                .release(&self.holder, &self.actuator, &target, why)
        } else {
            self.governor.actuate(Want {
                holder: &self.holder,
                actuator: &self.actuator,
                target: &target,
                value: i64::from(cap),
                ttl_ms: self.ttl_ms,
                why,
            })
        };
        done.map_err(|refusal| self.error(refusal))
    }

    fn get(&mut self, domain: u32) -> Result<u32, CapError> {
        let found = self.governor.get(&self.actuator, &vm_target(domain));
        let found = found.map_err(|refusal| self.error(refusal))?;
        u32::try_from(found).map_err(|_| CapError::Output(self.actuator.clone()))
    }
}
