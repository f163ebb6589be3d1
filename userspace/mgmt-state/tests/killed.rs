// SPDX-License-Identifier: MIT OR Apache-2.0

//! What was acknowledged is there, whenever the process is killed or the power goes.

use mgmt_control::{AuditRecord, Who};
use mgmt_state::{Entry, Limits, State};
use redb::StorageBackend;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

/// Set in a child that writes until it is killed.
const CHILD: &str = "MGMT_STATE_CHILD";

fn directory(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("mgmt-state-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    path
}

/// One change of each kind, numbered.
fn change(state: &State, number: u64) {
    let text = number.to_string();
    let entry = || Entry::done("test", "change", &text, "");
    match number % 3 {
        0 => {
            let goal = state.set_goal("App", "goal", Some(&text), entry());
            assert!(goal.unwrap());
        }
        1 => {
            let rules = format!("# {number}\n");
            let who = Who::program("test");
            state
                .begin_policy(rules.as_bytes(), &who, "test", 0)
                .unwrap();
            state.finish_policy(None, entry()).unwrap();
        }
        _ => state.audit(entry()).unwrap(),
    }
}

fn changes(record: &AuditRecord) -> bool {
    record.action == "change"
}

/// The state must be that after `done` changes, or after one more.
fn check(state: &State, done: u64) -> u64 {
    let last = state.records(0, 1, changes).unwrap();
    let last: u64 = last
        .first()
        .map_or(0, |record| record.subject.parse().unwrap());
    assert!(
        last == done || last == done + 1,
        "{done} acknowledged, {last} found"
    );
    let records = state.records(0, 1000, changes).unwrap();
    let expected = last.saturating_sub(records.len() as u64) + 1..=last;
    assert!(
        records
            .iter()
            .map(|r| r.subject.parse::<u64>().unwrap())
            .eq(expected)
    );
    let newest = |rest: u64| (1..=last).rev().find(|n| n % 3 == rest);
    let goals = state.goals(Some("App")).unwrap();
    let goal = goals.first().map(|goal| goal.value.parse().unwrap());
    assert_eq!(goal, newest(0));
    let active = state.active().unwrap();
    let text = active.map(|version| state.policy_text(version).unwrap().unwrap());
    assert_eq!(text, newest(1).map(|n| format!("# {n}\n").into_bytes()));
    last
}

/// Not a test: the child of the next one.
#[test]
fn child() {
    let Some(path) = std::env::var_os(CHILD) else {
        return;
    };
    let state = State::open(Path::new(&path), Limits::default()).unwrap();
    let next = state.records(0, 1, changes).unwrap();
    let mut next = next
        .first()
        .map_or(1, |r| r.subject.parse::<u64>().unwrap() + 1);
    if state.unfinished().unwrap().is_some() {
        state
            .abandon_policy(Entry::done("test", "abandon", "", ""))
            .unwrap();
    }
    loop {
        change(&state, next);
        println!("\ndone {next}");
        std::io::stdout().flush().unwrap();
        next += 1;
    }
}

/// The next change that the child says is done.
fn acknowledged(lines: &mut impl Iterator<Item = std::io::Result<String>>) -> Option<u64> {
    lines.find_map(|line| line.unwrap().strip_prefix("done ")?.parse().ok())
}

#[test]
fn a_process_that_is_killed_forgets_nothing() {
    let path = directory("killed");
    let mut done = 0;
    let mut random = Random(7);
    for _ in 0..50 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture", "--test-threads=1"])
            .env(CHILD, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        for _ in 0..1 + random.below(12) {
            done = acknowledged(&mut lines).expect("the child goes on");
        }
        // Somewhere within the next change, or the one after it.
        std::thread::sleep(std::time::Duration::from_micros(random.below(3000)));
        child.kill().unwrap();
        while let Some(number) = acknowledged(&mut lines) {
            done = number;
        }
        child.wait().unwrap();
        let state = State::open(&path, Limits::default()).unwrap();
        done = check(&state, done);
    }
    std::fs::remove_dir_all(&path).unwrap();
}

/// xorshift64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// A disk that keeps what was synced, and of what was written since whatever it likes.
#[derive(Clone, Debug, Default)]
struct Disk(Arc<Mutex<Content>>);

#[derive(Debug, Default)]
struct Content {
    /// As the program sees it.
    now: Vec<u8>,
    /// As it was at the last sync.
    synced: Vec<u8>,
    /// Writes since.
    writes: Vec<(usize, Vec<u8>)>,
    /// Calls until the power goes.
    left: u64,
}

impl Content {
    fn call(&mut self) -> std::io::Result<()> {
        self.left = self.left.saturating_sub(1);
        if self.left == 0 {
            return Err(std::io::Error::other("no power"));
        }
        Ok(())
    }
}

impl Disk {
    /// What is on it when the power is back: some of the unsynced writes, in parts of 512 bytes.
    fn after_power_failure(&self, random: &mut Random) -> Self {
        let content = self.0.lock().unwrap();
        let mut now = content.synced.clone();
        for (offset, bytes) in &content.writes {
            for (number, part) in bytes.chunks(512).enumerate() {
                let at = offset + number * 512;
                if random.below(2) == 0 && at + part.len() <= now.len().max(content.now.len()) {
                    now.resize(now.len().max(at + part.len()), 0);
                    now[at..at + part.len()].copy_from_slice(part);
                }
            }
        }
        let synced = now.clone();
        Self(Arc::new(Mutex::new(Content {
            now,
            synced,
            ..Content::default()
        })))
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> std::io::Result<u64> {
        Ok(self.0.lock().unwrap().now.len() as u64)
    }

    fn read(&self, offset: u64, len: usize) -> std::io::Result<Vec<u8>> {
        let content = self.0.lock().unwrap();
        Ok(content.now[offset as usize..][..len].to_vec())
    }

    fn set_len(&self, len: u64) -> std::io::Result<()> {
        let mut content = self.0.lock().unwrap();
        content.call()?;
        content.now.resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self, _eventual: bool) -> std::io::Result<()> {
        let mut content = self.0.lock().unwrap();
        content.call()?;
        content.synced = content.now.clone();
        content.writes.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        let mut content = self.0.lock().unwrap();
        content.call()?;
        let at = offset as usize;
        content.now[at..at + data.len()].copy_from_slice(data);
        content.writes.push((at, data.to_vec()));
        Ok(())
    }
}

/// fsync comes before the acknowledgement, which being killed alone would not show.
#[test]
fn a_power_failure_forgets_nothing() {
    let mut random = Random(11);
    for _ in 0..60 {
        let disk = Disk::default();
        disk.0.lock().unwrap().left = u64::MAX;
        let state = State::open_on(disk.clone(), Limits::default()).unwrap();
        disk.0.lock().unwrap().left = 2 + random.below(400);
        let mut done = 0;
        while disk.0.lock().unwrap().left > 0 {
            let number = done + 1;
            let text = number.to_string();
            let entry = Entry::done("test", "change", &text, "");
            let written = match number % 3 {
                0 => state
                    .set_goal("App", "goal", Some(&text), entry)
                    .map(|_| ()),
                1 => {
                    let rules = format!("# {number}\n");
                    let who = Who::program("test");
                    let begun = state.begin_policy(rules.as_bytes(), &who, "test", 0);
                    begun.and_then(|_| state.finish_policy(None, entry))
                }
                _ => state.audit(entry),
            };
            if written.is_ok() {
                done = number;
            }
        }
        let back = disk.after_power_failure(&mut random);
        back.0.lock().unwrap().left = u64::MAX;
        // What is left of it must not write.
        drop(state);
        let state = State::open_on(back, Limits::default()).unwrap();
        check(&state, done);
    }
}

#[test]
fn two_daemons_do_not_share_it() {
    let path = directory("shared");
    let first = State::open(&path, Limits::default()).unwrap();
    let second = State::open(&path, Limits::default());
    assert!(matches!(second, Err(mgmt_state::Error::InUse)));
    drop(first);
    State::open(&path, Limits::default()).unwrap();
    std::fs::remove_dir_all(&path).unwrap();
}

#[test]
fn the_log_is_bounded_in_size_and_age_and_each_class_for_itself() {
    use mgmt_control::{Class, Outcome};
    let disk = Disk::default();
    disk.0.lock().unwrap().left = u64::MAX;
    let limits = Limits {
        bytes: 2000,
        age_ms: 3_600_000,
    };
    let state = State::open_on(disk.clone(), limits).unwrap();
    state
        .audit(Entry::done("ann", "goal.set", "mine", ""))
        .unwrap();
    for number in 0..200 {
        let text = number.to_string();
        state
            .audit(Entry {
                class: Class::Actuation,
                who: "Power",
                action: "actuate",
                subject: &text,
                detail: "",
                outcome: Outcome::Done,
            })
            .unwrap();
    }
    let (count, bytes) = state.audit_size().unwrap();
    assert!(
        (10..200).contains(&count) && bytes <= 2 * 2000,
        "{count}, {bytes}"
    );
    let records = state.records(0, 1000, |_| true).unwrap();
    assert_eq!(records.len() as u64, count);
    assert_eq!(records[0].subject, "mine");
    assert_eq!(records.last().unwrap().subject, "199");
    assert_eq!(state.records(0, 3, |_| true).unwrap().len(), 3);
    drop(state);
    let old = Limits {
        age_ms: 0,
        ..limits
    };
    std::thread::sleep(std::time::Duration::from_millis(2));
    let state = State::open_on(disk, old).unwrap();
    state.prune().unwrap();
    assert_eq!(state.audit_size().unwrap(), (0, 0));
}

#[test]
fn policies_are_kept_and_those_that_failed_are_not() {
    let disk = Disk::default();
    disk.0.lock().unwrap().left = u64::MAX;
    let state = State::open_on(disk, Limits::default()).unwrap();
    let who = Who::program("test");
    let entry = || Entry::done("test", "policy.load", "", "");
    let versions = |state: &State| -> Vec<(u64, bool)> {
        let policies = state.policies().unwrap().into_iter();
        policies
            .map(|policy| (policy.version, policy.active))
            .collect()
    };
    for _ in 0..2 {
        state.begin_policy(b"x", &who, "test", 1).unwrap();
        state.finish_policy(None, entry()).unwrap();
    }
    assert_eq!(state.begin_policy(b"y", &who, "test", 1).unwrap(), 3);
    assert_eq!(versions(&state), [(1, false), (2, true)]);
    assert_eq!(state.unfinished().unwrap().unwrap().text, b"y");
    state.abandon_policy(entry()).unwrap();
    assert_eq!(
        (versions(&state).len(), state.policy_text(3).unwrap()),
        (2, None)
    );
    // Back, and not back again: both stay.
    state.begin_rollback(1).unwrap();
    state.finish_policy(Some(5), entry()).unwrap();
    state.begin_rollback(2).unwrap();
    state.abandon_policy(entry()).unwrap();
    assert_eq!(versions(&state), [(1, true), (2, false)]);
    assert_eq!(state.policy_file().unwrap(), Some(5));
    for _ in 0..20 {
        state.begin_policy(b"z", &who, "test", 1).unwrap();
        state.finish_policy(None, entry()).unwrap();
    }
    let kept = versions(&state);
    assert_eq!(
        (kept.len(), kept.last()),
        (mgmt_state::HISTORY, Some(&(23, true)))
    );
}
