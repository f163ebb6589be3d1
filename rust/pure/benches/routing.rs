// SPDX-License-Identifier: GPL-2.0

//! What it costs the bridge to find the receiver of a message, as endpoints, guests and rules grow.
//!
//! `scripts/bench routing` runs this. The code is that of the module, `Directory::find`: route, ask
//! the rules, locate. Every round measures every case once, so that what drifts on this host hits
//! all alike; a ratio is of two cases in the same round. Printed are medians and quartiles.

use mgmt_pure::{
    pure::{
        directory::{Bound, Directory, End, Parts, Rules},
        policy::{self, Entry, Rule, Table, Verdict},
        route::{Above, Names, Origin, VmName},
        uuid::Uuid,
    },
    wire::{Address, AppId, Component, Header, Kind},
};
use std::{collections::BTreeMap, hint::black_box, time::Instant};

const ROUNDS: usize = 512;
/// Messages of one measurement: it is over before the host gives its CPU to others, mostly.
const BATCH: usize = 128;
/// Different messages, of which each measurement takes the next.
const MESSAGES: usize = 64 * BATCH;

const MVM: VmName = VmName {
    mvm_ip: [0; 16],
    vm_id: 0,
};
const NAMES: Names = Names {
    mvm: MVM,
    above: Above::Nobody,
    stable: None,
};

/// Endpoints and links are told apart by numbers.
struct Numbers;

impl Parts for Numbers {
    type Endpoint = usize;
    type Link = usize;
    type Fabric = ();
    type Map<K: Copy + Ord, V: Clone> = BTreeMap<K, V>;

    fn stable_name(_: &Self::Link) -> Option<Uuid> {
        None
    }

    fn is_arriving(_: &Self::Link) -> bool {
        false
    }
}

struct Loaded(Table<Vec<Rule>, Vec<Entry>>);

impl Rules for Loaded {
    fn decide(&self, mvm: VmName, source: &End<'_>, destination: &End<'_>, kind: Kind) -> Verdict {
        match self.0.decide_between(mvm, source, destination, kind) {
            Some(decision) => decision.verdict,
            None => Verdict::Deny,
        }
    }
}

fn app(number: usize) -> AppId {
    AppId::new(format!("App{number}").as_bytes()).expect("it is short")
}

fn vm(vm_id: usize) -> Component {
    NAMES.guest(vm_id as u32)
}

/// As many rules of many forms; the last one lets everything pass.
fn rules(count: usize) -> Loaded {
    let mut text = String::new();
    for number in 1..count {
        text += &match number % 5 {
            0 => format!("deny X{number}@vm:* -> *\n"),
            1 => format!("allow vm:{} -> X{number}@mvm\n", 100_000 + number),
            2 => format!("through Broker@mvm X{number}@vm:{number} -> *@vm:* kinds data\n"),
            3 => format!("allow X{number}@* -> X{number}@*\n"),
            _ => format!("deny * -> vm:2001:db8::{number:x}/*\n"),
        };
    }
    text += "allow * -> *\n";
    let rules: Result<Vec<Rule>, _> = policy::Rules::new(text.as_bytes()).collect();
    let rules = rules.expect("they are rules");
    let entries = vec![Entry::default(); count];
    Loaded(Table::compile(rules, entries).expect("they are not too many"))
}

/// Which messages are sent.
#[derive(Clone, Copy)]
enum Traffic {
    /// From guests to endpoints of this domain.
    ToEndpoints,
    /// From an endpoint of this domain to guests.
    ToGuests,
}

/// A bridge of one size, and messages for it.
struct Case {
    size: usize,
    directory: Directory<Numbers>,
    rules: Loaded,
    messages: Vec<(Origin, Header)>,
}

impl Case {
    fn new(
        size: usize,
        endpoints: usize,
        guests: usize,
        rule_count: usize,
        traffic: Traffic,
    ) -> Self {
        let mut directory = Directory::new(NAMES);
        for number in 0..endpoints {
            let bound = Bound {
                endpoint: number,
                shared: false,
            };
            directory.bind(((app(number).into(), number as u64), bound));
        }
        for vm_id in 1..=guests {
            directory.add_guest((vm_id as u32, vm_id));
        }
        let mut random = Random(size as u64);
        let messages = (0..MESSAGES).map(|_| {
            let guest = 1 + random.below(guests);
            let endpoint = app(random.below(endpoints));
            let (origin, source, to) = match traffic {
                Traffic::ToEndpoints => (Origin::Guest(guest as u32), vm(guest), Component::Mvm),
                Traffic::ToGuests => (Origin::Local, MVM.into(), vm(guest)),
            };
            let header = Header {
                source: Address::new(source, endpoint),
                ..Header::new(Kind::Data, Address::new(to, endpoint), 64)
            };
            (origin, header)
        });
        Self {
            size,
            messages: messages.collect(),
            directory,
            rules: rules(rule_count),
        }
    }

    /// Nanoseconds for each message.
    fn measure(&self, round: usize) -> f64 {
        let at = round * BATCH % MESSAGES;
        let start = Instant::now();
        for (origin, header) in &self.messages[at..at + BATCH] {
            let found = self.directory.find(&self.rules, *origin, black_box(header));
            match black_box(found) {
                Ok(_) => {}
                Err(error) => panic!("no receiver: {error:?}"),
            }
        }
        start.elapsed().as_nanos() as f64 / BATCH as f64
    }
}

/// Marsaglia's xorshift: the same messages in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.max(1);
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}

/// The lower quartile, the median and the upper quartile.
fn quartiles(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| values[(values.len() - 1) * quarter / 4])
}

/// Measures a curve and prints it.
fn curve(what: &str, cases: Vec<Case>) {
    let mut times = vec![Vec::new(); cases.len()];
    for round in 0..ROUNDS {
        for (case, times) in cases.iter().zip(&mut times) {
            times.push(case.measure(round));
        }
    }
    println!(
        "\n| {what} | ns for a message: median (quartiles) | to the smallest: median (quartiles) |"
    );
    println!("|---|---|---|");
    for (case, of_case) in cases.iter().zip(&times) {
        let ratios = of_case
            .iter()
            .zip(&times[0])
            .map(|(time, first)| time / first);
        let [low, median, high] = quartiles(of_case.clone());
        let [less, ratio, more] = quartiles(ratios.collect());
        println!(
            "| {} | {median:.0} ({low:.0} to {high:.0}) | {ratio:.2} ({less:.2} to {more:.2}) |",
            case.size
        );
    }
}

fn main() {
    let sizes = [10, 100, 1_000, 10_000, 100_000];
    let of_endpoints = sizes.map(|n| Case::new(n, n, 16, 100, Traffic::ToEndpoints));
    curve("endpoints (16 guests, 100 rules)", of_endpoints.into());
    let sizes = [1, 16, 256, 4_096];
    let of_guests = sizes.map(|n| Case::new(n, 100, n, 100, Traffic::ToGuests));
    curve("guests (100 endpoints, 100 rules)", of_guests.into());
    let sizes = [10, 100, 1_000, 10_000];
    let of_rules = sizes.map(|n| Case::new(n, 100, 16, n, Traffic::ToEndpoints));
    curve("rules (100 endpoints, 16 guests)", of_rules.into());
}
