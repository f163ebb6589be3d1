// SPDX-License-Identifier: MIT OR Apache-2.0

//! Applications and their goals: an application's settings of the file, with what an administrator
//! has set by `mgmtctl goal` over them.

use anyhow::{Context, Result, anyhow, bail};
use mgmt_broker::power;
use mgmt_control::{Goal, Who};
use mgmt_maker::Governor;
use mgmt_state::{Entry, State};
use std::sync::{Arc, Mutex, PoisonError};
use toml::{Table, Value};

/// The actuator of the power broker.
pub const CPU_CAP: &str = "cpu-cap";

/// The applications that this daemon knows.
pub struct Apps {
    state: Arc<State>,
    governor: Arc<Governor>,
    /// The power broker's settings of the file.
    power: power::Config,
    /// Settings that the power broker has not taken yet.
    news: Mutex<Option<power::Config>>,
    /// One change at a time.
    changing: Mutex<()>,
}

impl Apps {
    pub fn new(state: Arc<State>, governor: Arc<Governor>, power: power::Config) -> Self {
        Self {
            state,
            governor,
            power,
            news: Mutex::default(),
            changing: Mutex::default(),
        }
    }

    /// The power broker's settings as they are now.
    pub fn power(&self) -> Result<power::Config> {
        let goals = self.state.goals(Some(power::APP))?;
        let config = merged(&self.power, &goals)?;
        self.governor.set_safe(CPU_CAP, i64::from(config.safe_cap));
        Ok(config)
    }

    /// Settings that have changed since the last call.
    pub fn power_news(&self) -> Option<power::Config> {
        let mut news = self.news.lock().unwrap_or_else(PoisonError::into_inner);
        news.take()
    }

    /// Sets or removes a goal. An application that this daemon knows must be able to follow it.
    /// False if there was nothing to remove.
    pub fn set_goal(&self, app: &str, key: &str, value: Option<&str>, who: &Who) -> Result<bool> {
        let _turn = self.changing.lock();
        let mut goals = self.state.goals(Some(app))?;
        let former = goals.iter().position(|goal| goal.key == key);
        let former = former.map(|at| goals.remove(at).value);
        goals.extend(value.map(|value| Goal {
            app: app.to_owned(),
            key: key.to_owned(),
            value: value.to_owned(),
        }));
        let known = app == power::APP;
        let config = if known {
            Some(merged(&self.power, &goals)?)
        } else {
            None
        };
        let who = who.to_string();
        let show = |value: Option<&str>| value.unwrap_or("(none)").to_owned();
        let detail = format!("{} -> {}", show(former.as_deref()), show(value));
        let subject = format!("{app} {key}");
        let action = if value.is_some() {
            "goal.set"
        } else {
            "goal.unset"
        };
        let entry = Entry::done(&who, action, &subject, &detail);
        let changed = self.state.set_goal(app, key, value, entry)?;
        if let Some(config) = config {
            self.governor.set_safe(CPU_CAP, i64::from(config.safe_cap));
            *self.news.lock().unwrap_or_else(PoisonError::into_inner) = Some(config);
        }
        Ok(changed)
    }
}

/// Settings with goals over them. A goal's name is that of a setting, its parts separated by dots.
fn merged(base: &power::Config, goals: &[Goal]) -> Result<power::Config> {
    let mut table = Table::try_from(base).context("settings")?;
    for Goal { key, value, .. } in goals {
        let mut place = &mut table;
        let mut parts = key.split('.').peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                place.insert(part.to_owned(), read(value));
                break;
            }
            match place.get_mut(part) {
                Some(Value::Table(inner)) => place = inner,
                _ => bail!("{key}: there is no such setting"),
            }
        }
    }
    let config: power::Config = table.try_into().map_err(|error: toml::de::Error| {
        // The place in a file says nothing here.
        anyhow!("{}", error.message())
    })?;
    config.check().map_err(|wrong| anyhow!("{wrong}"))?;
    Ok(config)
}

/// A value as in a file; what is none there is a text.
fn read(value: &str) -> Value {
    let parsed = format!("value = {value}").parse::<Table>().ok();
    let only = parsed.filter(|table| table.len() == 1);
    let value_of = only.and_then(|mut table| table.remove("value"));
    value_of.unwrap_or_else(|| Value::String(value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn goals(pairs: &[(&str, &str)]) -> Vec<Goal> {
        let goal = |&(key, value): &(&str, &str)| Goal {
            app: power::APP.into(),
            key: key.into(),
            value: value.into(),
        };
        pairs.iter().map(goal).collect()
    }

    #[test]
    fn goals_are_laid_over_settings() {
        let base = power::Config {
            sla_ms: 20,
            ..power::Config::default()
        };
        let set = [
            ("sla_ms", "40"),
            ("policy.hold", "3"),
            ("start", "lowest"),
            ("states", "[10, 90]"),
        ];
        let merged = merged(&base, &goals(&set)).unwrap();
        assert_eq!((merged.sla_ms, merged.policy.hold), (40, 3));
        assert_eq!(merged.start, power::StartState::Lowest);
        assert_eq!(merged.states, [10, 90]);
        assert_eq!(merged.policy.probation, base.policy.probation);
    }

    #[test]
    fn goals_that_cannot_be_are_refused() {
        for (key, value, part) in [
            ("colour", "1", "colour"),
            ("policy.colour", "1", "colour"),
            ("light.colour", "1", "light"),
            ("sla_ms", "soon", "string"),
            ("states", "[50, 20]", "lowest"),
            ("policy.lower_below", "2000", "lower_below"),
            ("sla_ms", "1\nstates = []", "string"),
        ] {
            let error = merged(&power::Config::default(), &goals(&[(key, value)]));
            let error = format!("{:#}", error.unwrap_err());
            assert!(error.contains(part), "{key} = {value}: {error}");
        }
    }
}
