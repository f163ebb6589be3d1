// SPDX-License-Identifier: GPL-2.0

//! What finding a receiver costs, counted in comparisons of keys.

use super::*;
use std::{cell::Cell, cmp::Ordering};

thread_local! {
    static COMPARED: Cell<u32> = const { Cell::new(0) };
}

/// A key that counts how often it is compared.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Counted<K>(K);

impl<K: Ord> Ord for Counted<K> {
    fn cmp(&self, other: &Self) -> Ordering {
        COMPARED.set(COMPARED.get() + 1);
        self.0.cmp(&other.0)
    }
}

impl<K: Ord> PartialOrd for Counted<K> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

struct CountingMap<K, V>(BTreeMap<Counted<K>, V>);

impl<K: Ord, V> Default for CountingMap<K, V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Copy + Ord, V: Clone> Map<K, V> for CountingMap<K, V> {
    type Entry = (Counted<K>, V);

    fn get(&self, key: &K) -> Option<&V> {
        self.0.get(&Counted(*key))
    }

    fn lower_bound(&self, key: &K) -> Option<(K, V)> {
        let (key, value) = Map::lower_bound(&self.0, &Counted(*key))?;
        Some((key.0, value))
    }

    fn insert(&mut self, entry: Self::Entry) -> Option<Self::Entry> {
        Map::insert(&mut self.0, entry)
    }

    fn remove(&mut self, key: &K) -> Option<Self::Entry> {
        Map::remove(&mut self.0, &Counted(*key))
    }
}

struct Counting;

impl Parts for Counting {
    type Endpoint = u64;
    type Link = u32;
    type Fabric = ();
    type Map<K: Copy + Ord, V: Clone> = CountingMap<K, V>;

    fn stable_name(_: &Self::Link) -> Option<Uuid> {
        None
    }

    fn is_arriving(_: &Self::Link) -> bool {
        false
    }
}

/// Runs this and returns how often keys were compared.
fn compared(run: impl FnOnce()) -> u32 {
    COMPARED.set(0);
    run();
    COMPARED.get()
}

fn directory(endpoints: u64, guests: u32) -> Directory<Counting> {
    let mut directory = Directory::new(NAMES);
    for number in 0..endpoints {
        let (key, bound) = entry(app(number), number, false);
        directory.bind((Counted(key), bound));
    }
    for vm_id in 1..=guests {
        directory.add_guest((Counted(vm_id), vm_id));
    }
    directory
}

/// A B-tree compares with up to 11 keys on each level, and has a level for each 6-fold; to search a
/// range it goes down twice.
fn most(n: u64) -> u32 {
    22 * (2 + n.ilog(6))
}

#[test]
fn finding_a_receiver_takes_the_logarithm_of_their_number() {
    let rules = Always::new(Verdict::Allow);
    for n in [10, 100, 1_000, 10_000, 100_000] {
        let guests = (n / 20 + 1) as u32;
        let directory = directory(n, guests);
        for number in [0, n / 2, n - 1] {
            let header = to(app(number), Component::SelfDomain);
            let cost = compared(|| {
                let found = directory.find(&rules, Origin::Local, &header);
                assert_eq!(found.unwrap().0, Receiver::Endpoint(number));
            });
            assert!(cost <= most(n), "an endpoint of {n}: {cost}");
        }
        for vm_id in [1, guests / 2 + 1, guests] {
            let header = to(app(1), guest(vm_id));
            let cost = compared(|| {
                let found = directory.find(&rules, Origin::Local, &header);
                assert_eq!(found.unwrap().0, Receiver::Link(vm_id));
            });
            assert!(cost <= most(n), "a guest of {guests}: {cost}");
        }
    }
}

#[test]
fn binding_an_app_id_that_many_share_does_not_look_at_them_all() {
    let mut directory = directory(0, 0);
    let n = 10_000;
    for number in 0..n {
        let cost = compared(|| assert!(directory.may_bind(app(1).into(), true)));
        assert!(cost <= most(n), "{number} share it: {cost}");
        let (key, bound) = entry(app(1), number, true);
        directory.bind((Counted(key), bound));
    }
    let cost = compared(|| assert!(!directory.may_bind(app(1).into(), false)));
    assert!(cost <= most(n), "{cost}");
}

#[test]
fn a_broadcast_costs_for_whom_it_reaches_and_not_for_others() {
    let others = 100_000;
    let mut directory = directory(others, 0);
    let shared = app(others);
    let numbers = others..others + 10;
    for number in numbers.clone() {
        let (key, bound) = entry(shared, number, true);
        directory.bind((Counted(key), bound));
    }
    let header = to(shared, Component::SelfDomain);
    let mut reached = 0;
    let cost = compared(|| {
        let rules = Always::new(Verdict::Allow);
        let count = |_, _| {
            reached += 1;
            Ok::<(), NoReceiver>(())
        };
        let sent = directory.find_all(&rules, Origin::Local, &header, numbers.start, count);
        sent.unwrap();
    });
    assert_eq!(reached, 9);
    assert!(cost <= 12 * most(others), "{cost}");
}
