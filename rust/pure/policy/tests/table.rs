// SPDX-License-Identifier: GPL-2.0

use super::{super::table::mask, *};
use crate::pure::directory::End;
use std::cell::Cell;
use std::time::Instant;

/// An end of a message, written as in a rule.
fn party(text: &str) -> Party {
    let Pattern { component, app } = rules(&format!("deny {text} -> *"))[0].source;
    let component = match component {
        ComponentPattern::Mvm => Component::Mvm,
        // As the bridge takes it, a VM without an address is on this platform.
        ComponentPattern::Guest(id) => vm([0; 16], id),
        ComponentPattern::Vm { mvm_ip, vm_id } => vm(mvm_ip, vm_id),
        ComponentPattern::Stable(uuid) => Component::Stable(uuid),
        ComponentPattern::Hardware(serial) => Component::Hardware(serial),
        _ => panic!("{text} is more than one component"),
    };
    Party::new(MVM, &Address { component, app }, None).expect("a party")
}

/// The application A of a component of other platforms.
fn elsewhere(component: Component) -> Party {
    let app = app("A");
    let end = End {
        component,
        app: Some(&app),
        stable: None,
        elsewhere: true,
    };
    Party::of(MVM, &end).expect("a party")
}

fn verdict(table: &VecTable, from: &str, to: &str, kind: Kind) -> Verdict {
    table.decide(&party(from), &party(to), kind).verdict
}

#[test]
fn hardware_of_another_platform_passes_only_by_its_name() {
    let (here, there) = (party("A@hw:S"), elsewhere(Component::Hardware(serial("S"))));
    let (mvm, guest) = (party("B@mvm"), party("B@vm:3"));
    for (text, expected) in [
        ("", [true, false, false]),
        ("allow * -> hw:*\nallow hw:* -> *", [true, false, false]),
        ("allow vm:3 -> hw:S", [true, true, false]),
        ("allow hw:S -> mvm", [true, false, true]),
        ("allow * -> *", [true, true, true]),
        ("deny mvm -> hw:S", [false, false, false]),
    ] {
        let table = compile(rules(text));
        let passes = |from, to| table.decide(from, to, Kind::Data).verdict == Verdict::Allow;
        let got = [
            passes(&mvm, &there),
            passes(&guest, &there),
            passes(&there, &mvm),
        ];
        assert_eq!(got, expected, "{text}");
    }
    // Two of one name are not one.
    let table = compile(vec![]);
    let cause = |from, to| table.decide(from, to, Kind::Data).cause;
    assert_eq!(cause(&there, &here), Cause::BuiltIn(BuiltIn::Elsewhere));
    assert_eq!(cause(&here, &here), Cause::BuiltIn(BuiltIn::SameDomain));
    // A VM's address says where it is.
    assert_eq!(elsewhere(vm([0; 16], 3)), party("A@vm:3"));
}

#[test]
fn without_rules_the_built_in_table_decides() {
    // from, to, which of it
    const CASES: &[(&str, &str, BuiltIn)] = &[
        ("A@mvm", "B@mvm", BuiltIn::SameDomain),
        ("A@vm:0", "B@mvm", BuiltIn::SameDomain),
        ("A@vm:3", "A@vm:3", BuiltIn::SameDomain),
        (
            "A@vm:3",
            "B@vm:101:101:101:101:101:101:101:101/3",
            BuiltIn::SameDomain,
        ),
        ("A@mvm", "B@vm:3", BuiltIn::FromMvm),
        ("A@mvm", "B@hw:S", BuiltIn::FromMvm),
        ("A@mvm", "B@vm:192.0.2.1/0", BuiltIn::FromMvm),
        ("A@vm:3", "B@mvm", BuiltIn::ToMvm),
        ("A@vm:3", "B@vm:0", BuiltIn::ToMvm),
        ("A@hw:S", "B@mvm", BuiltIn::ToMvm),
        ("A@vm:3", "B@vm:4", BuiltIn::GuestToGuest),
        ("A@vm:3", "B@hw:S", BuiltIn::GuestToHardware),
        ("A@vm:192.0.2.1/0", "B@mvm", BuiltIn::Elsewhere),
        ("A@vm:192.0.2.1/3", "B@vm:3", BuiltIn::Elsewhere),
        ("A@vm:3", "B@vm:192.0.2.1/3", BuiltIn::Elsewhere),
        (
            "A@vm:3",
            "B@uuid:abababab-abab-abab-abab-abababababab",
            BuiltIn::Elsewhere,
        ),
        ("A@hw:S", "B@vm:3", BuiltIn::Elsewhere),
        ("A@hw:S", "B@hw:T", BuiltIn::Elsewhere),
    ];
    let table = compile(vec![]);
    for &(from, to, expected) in CASES {
        let allowed = matches!(
            expected,
            BuiltIn::SameDomain | BuiltIn::FromMvm | BuiltIn::ToMvm
        );
        for (kind, _) in Kinds::NAMES {
            if kind == Kind::Reply && !allowed {
                continue;
            }
            let decision = table.decide(&party(from), &party(to), kind);
            assert_eq!(decision.cause, Cause::BuiltIn(expected), "{from} to {to}");
            assert_eq!(
                decision.verdict == Verdict::Allow,
                allowed,
                "{from} to {to}"
            );
            assert_eq!((decision.reply_to, decision.broker), (None, false));
        }
    }
}

#[test]
fn no_rule_changes_what_stays_in_one_domain() {
    let table = compile(rules("deny * -> *"));
    for (from, to) in [("A@vm:3", "B@vm:3"), ("A@mvm", "B@mvm")] {
        for kind in [Kind::Data, Kind::Undeliverable] {
            let decision = table.decide(&party(from), &party(to), kind);
            assert_eq!(decision.verdict, Verdict::Allow);
            assert_eq!(decision.cause, Cause::BuiltIn(BuiltIn::SameDomain));
        }
    }
    assert_eq!(
        verdict(&table, "A@mvm", "B@vm:3", Kind::Data),
        Verdict::Deny
    );
}

#[test]
fn what_comes_back_passes_to_who_may_have_sent_it() {
    let table = compile(rules(
        "allow A@vm:3 -> B@vm:4 kinds data
         through P@mvm vm:5 -> vm:6
         deny mvm -> vm:7",
    ));
    let denied = Cause::BuiltIn(BuiltIn::Undeliverable);
    for (from, to, allowed, cause) in [
        ("B@vm:4", "A@vm:3", true, Cause::Rule(0)),
        // A reply may come back, too.
        ("A@vm:3", "B@vm:4", true, Cause::Rule(0)),
        ("C@vm:4", "A@vm:3", false, denied),
        ("B@vm:4", "C@vm:3", false, denied),
        // What went through a broker was the broker's.
        ("A@vm:6", "A@vm:5", false, denied),
        ("A@vm:8", "A@vm:9", false, denied),
        ("A@vm:8", "A@mvm", true, Cause::BuiltIn(BuiltIn::FromMvm)),
        ("A@mvm", "A@vm:8", true, Cause::BuiltIn(BuiltIn::ToMvm)),
        // The answers to what it asks.
        ("A@vm:7", "A@mvm", true, Cause::BuiltIn(BuiltIn::ToMvm)),
        ("A@hw:S", "A@mvm", true, Cause::BuiltIn(BuiltIn::FromMvm)),
        ("A@hw:S", "A@vm:8", false, denied),
        ("A@vm:192.0.2.1/3", "A@vm:8", false, denied),
    ] {
        let decision = table.decide(&party(from), &party(to), Kind::Undeliverable);
        assert_eq!(
            decision.verdict == Verdict::Allow,
            allowed,
            "{from} to {to}"
        );
        assert_eq!(decision.cause, cause, "{from} to {to}");
        assert_eq!(decision.reply_to.is_some(), allowed, "{from} to {to}");
    }
}

#[test]
fn the_first_rule_that_matches_decides() {
    let table = compile(rules(
        "deny vm:7 -> *
         allow vm:* -> vm:*
         deny Power@vm:3 -> Power@vm:4
         deny * -> mvm kinds establish
         allow Power@* -> *
         deny vm:8 -> mvm",
    ));
    for (from, to, kind, expected) in [
        ("A@vm:7", "A@mvm", Kind::Data, Cause::Rule(0)),
        ("Power@vm:7", "A@vm:3", Kind::Data, Cause::Rule(0)),
        ("Power@vm:3", "Power@vm:4", Kind::Data, Cause::Rule(1)),
        ("A@vm:8", "A@mvm", Kind::Establish, Cause::Rule(3)),
        ("Power@vm:8", "A@mvm", Kind::Establish, Cause::Rule(3)),
        ("Power@vm:8", "A@mvm", Kind::Data, Cause::Rule(4)),
        ("A@vm:8", "A@mvm", Kind::Data, Cause::Rule(5)),
        (
            "A@vm:9",
            "A@mvm",
            Kind::Data,
            Cause::BuiltIn(BuiltIn::ToMvm),
        ),
    ] {
        let decision = table.decide(&party(from), &party(to), kind);
        assert_eq!(decision.cause, expected, "{from} to {to}, {kind:?}");
    }
}

/// A VM has several names; whichever a rule uses, it is about that VM.
#[test]
fn a_vm_is_known_by_all_of_its_names() {
    let guest = |stable| Party::new(MVM, &Address::new(vm(OURS, 3), app("A")), stable).unwrap();
    let mvm = party("B@mvm");
    let uuid = "uuid:abababab-abab-abab-abab-abababababab";
    let ours = "vm:101:101:101:101:101:101:101:101";
    for (pattern, matches, matches_without_stable) in [
        ("vm:3", true, true),
        ("vm:*", true, true),
        ("vm:4", false, false),
        ("mvm", false, false),
        (uuid, true, false),
        ("uuid:abababab-abab-abab-abab-abababababac", false, false),
        (&format!("{ours}/3"), true, true),
        (&format!("{ours}/*"), true, true),
        (&format!("{ours}/4"), false, false),
        ("vm:192.0.2.1/3", false, false),
        ("vm:192.0.2.1/*", false, false),
        ("hw:*", false, false),
    ] {
        let table = compile(rules(&format!("deny {pattern} -> mvm")));
        let denies = |guest| table.decide(&guest, &mvm, Kind::Data).verdict == Verdict::Deny;
        assert_eq!(denies(guest(Some(UUID))), matches, "{pattern}");
        assert_eq!(denies(guest(None)), matches_without_stable, "{pattern}");
        // And as a destination.
        let table = compile(rules(&format!("deny * -> {pattern}")));
        let denied = |guest| table.decide(&mvm, &guest, Kind::Data).verdict == Verdict::Deny;
        assert_eq!(denied(guest(Some(UUID))), matches, "{pattern}");
        assert_eq!(denied(guest(None)), matches_without_stable, "{pattern}");
    }
}

/// Its own domain id names it, as it does in an address, but it is not one of its guests.
#[test]
fn the_management_vm_is_no_guest() {
    for (pattern, expected) in [("vm:*", false), ("mvm", true), ("vm:0", true)] {
        let table = compile(rules(&format!("deny {pattern} -> vm:3")));
        let denied = verdict(&table, "A@mvm", "A@vm:3", Kind::Data) == Verdict::Deny;
        assert_eq!(denied, expected, "{pattern}");
    }
}

#[test]
fn an_address_that_no_bridge_stamps_is_no_party() {
    let none = |component, app| Party::new(MVM, &Address { component, app }, None).is_none();
    assert!(none(Component::Unspecified, Some(app("A"))));
    assert!(none(Component::SelfDomain, Some(app("A"))));
    assert!(none(Component::Platform, Some(app("A"))));
    assert!(none(Component::Everywhere, Some(app("A"))));
    assert!(none(Component::Mvm, None));
    assert!(!none(Component::Mvm, Some(app("A"))));
}

/// To send to everybody on other platforms takes a rule about everything.
#[test]
fn only_a_rule_about_everything_is_about_all_other_platforms() {
    let everywhere = elsewhere(Component::Everywhere);
    let decide = |text: &str, source: &Party| {
        let table = compile(rules(text));
        table.decide(source, &everywhere, Kind::Discover).verdict
    };
    let (mvm, guest) = (party("A@mvm"), party("A@vm:3"));
    for (text, allowed) in [
        ("", false),
        ("allow vm:3 -> *", true),
        ("allow vm:* -> A@*", true),
        ("allow * -> B@*", false),
        ("allow * -> * kinds data", false),
        ("allow * -> mvm", false),
        ("allow * -> vm:*", false),
        ("allow * -> vm:4", false),
        ("allow * -> vm:192.0.2.1/*", false),
        ("allow * -> vm:192.0.2.1/0", false),
        (
            "allow * -> uuid:00112233-4455-6677-8899-aabbccddeeff",
            false,
        ),
        ("allow * -> hw:*", false),
        ("allow * -> hw:S", false),
        ("deny vm:3 -> *\nallow * -> *", false),
    ] {
        let passes = decide(text, &guest) == Verdict::Allow;
        assert_eq!(passes, allowed, "{text}");
    }
    assert_eq!(decide("", &mvm), Verdict::Allow);
    assert_eq!(decide("deny mvm -> *", &mvm), Verdict::Deny);
    let through = decide("through P@mvm vm:3 -> *", &guest);
    assert_eq!(through, Verdict::Through(app("P")));
}

#[test]
fn who_may_be_asked_may_answer() {
    let table = compile(rules(
        "allow A@vm:3 -> B@vm:4
         allow vm:5 -> vm:6 kinds discover
         allow vm:7 -> vm:8 kinds presence,reply
         deny vm:4 -> vm:9
         deny vm:10 -> mvm",
    ));
    for (from, to, allowed, reply_to, cause) in [
        ("B@vm:4", "A@vm:3", true, Some(Kind::Data), Cause::Rule(0)),
        (
            "B@vm:6",
            "A@vm:5",
            true,
            Some(Kind::Discover),
            Cause::Rule(1),
        ),
        // Itself, and no question for it.
        ("A@vm:7", "B@vm:8", true, None, Cause::Rule(2)),
        (
            "B@vm:8",
            "A@vm:7",
            false,
            None,
            Cause::BuiltIn(BuiltIn::GuestToGuest),
        ),
        // Another application was not asked.
        (
            "C@vm:4",
            "A@vm:3",
            false,
            None,
            Cause::BuiltIn(BuiltIn::GuestToGuest),
        ),
        ("B@vm:4", "A@vm:9", false, None, Cause::Rule(3)),
        // The management VM may ask by the built-in table.
        (
            "A@vm:10",
            "A@mvm",
            true,
            Some(Kind::Data),
            Cause::BuiltIn(BuiltIn::FromMvm),
        ),
        (
            "A@hw:S",
            "A@mvm",
            true,
            None,
            Cause::BuiltIn(BuiltIn::ToMvm),
        ),
    ] {
        let decision = table.decide(&party(from), &party(to), Kind::Reply);
        assert_eq!(
            decision.verdict == Verdict::Allow,
            allowed,
            "{from} to {to}"
        );
        assert_eq!(decision.reply_to, reply_to, "{from} to {to}");
        assert_eq!(decision.cause, cause, "{from} to {to}");
        // Nothing but a reply.
        if reply_to.is_some() {
            assert_eq!(verdict(&table, from, to, Kind::Data), Verdict::Deny);
        }
    }
}

#[test]
fn a_broker_reaches_what_others_reach_through_it() {
    let table = compile(rules(
        "through P@mvm * -> Ipmi@hw:*
         through Q@mvm vm:* -> vm:4
         deny mvm -> vm:4",
    ));
    let p = Verdict::Through(app("P"));
    let q = Verdict::Through(app("Q"));
    for (from, to, expected, broker) in [
        ("A@vm:3", "Ipmi@hw:S", p, false),
        ("A@mvm", "Ipmi@hw:S", p, false),
        ("P@vm:3", "Ipmi@hw:S", p, false),
        ("P@mvm", "Ipmi@hw:S", Verdict::Allow, true),
        ("P@vm:0", "Ipmi@hw:S", Verdict::Allow, true),
        ("A@vm:3", "B@vm:4", q, false),
        ("Q@vm:9", "B@vm:4", q, false),
    ] {
        let decision = table.decide(&party(from), &party(to), Kind::Data);
        assert_eq!(decision.verdict, expected, "{from} to {to}");
        assert_eq!(decision.broker, broker, "{from} to {to}");
        assert!(matches!(decision.cause, Cause::Rule(_)));
    }
    // A broker is no exception from other rules.
    assert_eq!(
        verdict(&table, "Q@mvm", "B@vm:4", Kind::Data),
        Verdict::Deny
    );
    // Its question is answered, the others' was not theirs.
    let both = compile(rules("through Q@mvm * -> vm:4\ndeny vm:4 -> *"));
    let reply = |to| both.decide(&party("B@vm:4"), &party(to), Kind::Reply);
    assert_eq!(reply("A@vm:3").verdict, Verdict::Deny);
    let answer = reply("Q@mvm");
    assert_eq!(
        (answer.verdict, answer.reply_to, answer.broker),
        (Verdict::Allow, Some(Kind::Data), true)
    );
    // A message that is for the broker is not sent round.
    let all = compile(rules("through Q@mvm * -> *"));
    for (from, to, expected) in [
        ("A@vm:3", "Q@mvm", Verdict::Allow),
        ("Q@mvm", "A@vm:3", Verdict::Allow),
        ("A@vm:3", "B@mvm", q),
    ] {
        assert_eq!(verdict(&all, from, to, Kind::Data), expected);
    }
}

#[test]
fn a_rule_that_never_decides_is_found() {
    // A rule, and whether after those before it, it is unreachable by which.
    const CASES: &[(&str, &[&[u16]])] = &[
        ("allow vm:3 -> mvm\ndeny vm:3 -> mvm", &[&[], &[0]]),
        (
            "allow vm:3 -> mvm kinds data\ndeny vm:3 -> mvm",
            &[&[], &[]],
        ),
        (
            "allow vm:3 -> mvm kinds data,reply\ndeny vm:3 -> mvm kinds reply,discover\n\
             allow vm:3 -> mvm kinds data,discover",
            &[&[], &[], &[1, 0]],
        ),
        (
            "allow vm:* -> *\ndeny vm:3 -> mvm\nallow mvm -> *",
            &[&[], &[0], &[]],
        ),
        ("allow vm:3 -> mvm\ndeny vm:* -> mvm", &[&[], &[]]),
        (
            "allow * -> *\ndeny P@hw:S -> Q@uuid:abababababababababababababababab",
            &[&[], &[0]],
        ),
        (
            "allow A@* -> *\ndeny B@vm:3 -> mvm\ndeny A@vm:3 -> mvm",
            &[&[], &[], &[0]],
        ),
        (
            "allow * -> A@*\ndeny * -> *\ndeny vm:3 -> mvm",
            &[&[], &[], &[1]],
        ),
        (
            "allow vm:192.0.2.1/* -> *\ndeny vm:192.0.2.1/3 -> *",
            &[&[], &[0]],
        ),
        // The management VM is no guest, and a stable name may be anybody's, as hardware may be.
        ("allow hw:* -> *\ndeny hw:S -> *", &[&[], &[]]),
        ("allow vm:* -> *\ndeny mvm -> *", &[&[], &[]]),
        (
            "allow vm:* -> *\ndeny uuid:abababababababababababababababab -> *",
            &[&[], &[]],
        ),
    ];
    for (text, expected) in CASES {
        let table = compile(rules(text));
        for (number, expected) in expected.iter().enumerate() {
            let shadow = table.shadow(number as u16);
            let by: Vec<_> = shadow.iter().flat_map(Shadow::rules).collect();
            assert_eq!(&by[..], *expected, "rule {number} of {text}");
            assert_eq!(shadow.is_some(), !expected.is_empty());
        }
    }
}

#[test]
fn a_table_has_bounds() {
    let rule = rules("deny * -> *")[0];
    let compile = |rules, entries| {
        Table::compile(vec![rule; rules], vec![Entry::default(); entries])
            .map(|table| table.order().len())
    };
    assert_eq!(compile(MAX_RULES, MAX_RULES), Ok(1));
    assert_eq!(
        compile(MAX_RULES + 1, MAX_RULES + 1),
        Err(CompileError::TooManyRules)
    );
    assert_eq!(compile(2, 1), Err(CompileError::Entries));
    assert_eq!(compile(1, 2), Err(CompileError::Entries));
}

/// Whatever the entries held before.
#[test]
fn storage_can_be_used_again() {
    let text = "allow vm:3 -> mvm\ndeny vm:* -> mvm";
    let mut entries = [Entry::default(); 2];
    Table::compile(
        rules("deny * -> hw:*\nallow vm:1 -> vm:2"),
        &mut entries[..],
    )
    .unwrap();
    let again = Table::compile(rules(text), &mut entries[..]).unwrap();
    assert_eq!(again.order(), compile(rules(text)).order());
}

/// The most comparisons with a rule that any of some messages needs, and the time of each.
fn cost(table: &VecTable, messages: &[(Party, Party)]) -> (u32, f64) {
    let most = messages.iter().map(|(source, destination)| {
        let count = Cell::new(0);
        table.find(source, destination, Kind::Data, &mut || {
            count.set(count.get() + 1);
        });
        count.get()
    });
    let most = most.max().unwrap();
    // The machine has other work: the best of some rounds is what it takes.
    let round = |_| {
        let start = Instant::now();
        for (source, destination) in messages {
            std::hint::black_box(table.decide(source, destination, Kind::Data));
        }
        start.elapsed().as_nanos() as f64 / messages.len() as f64
    };
    let time = (0..8).map(round).fold(f64::INFINITY, f64::min);
    (most, time)
}

/// Rules as a platform has them: pairs of guests and applications, some of all guests, names
/// that stay, brokers for hardware, and exceptions.
fn usual_rules(count: usize) -> Vec<Rule> {
    let mut text = String::new();
    for i in 0..count {
        let (a, b) = (i / 8, i % 97);
        text += &match i % 8 {
            0 => format!("allow App{b}@vm:{a} -> App{b}@vm:{}\n", a + 1),
            1 => format!("allow vm:{a} -> vm:{b}\n"),
            2 => format!("deny vm:{a} -> Storage{b}@mvm kinds data,establish\n"),
            3 => format!("allow uuid:{a:032x} -> Inventory@mvm\n"),
            4 => format!("through Power@mvm vm:{a} -> Ipmi@hw:S{b}\n"),
            5 => format!("allow App{a}@vm:* -> App{a}@vm:*\n"),
            6 => format!("allow vm:192.0.2.{b}/{a} -> mvm\n"),
            _ => format!("deny * -> Private{a}@*\n"),
        };
    }
    rules(&text)
}

/// Rules of every mask that there is, for a kind that no message has, so that every run has to be
/// searched.
fn worst_rules(count: usize) -> Vec<Rule> {
    let component = |form: usize, n: usize| match form {
        0 => "*".to_string(),
        1 => "mvm".into(),
        2 => "vm:*".into(),
        3 => format!("vm:{}", n + 100),
        4 => format!("vm:2001:db8::{n:x}/*"),
        5 => format!("vm:2001:db8::{n:x}/{n}"),
        6 => format!("uuid:{n:032x}"),
        7 => "hw:*".into(),
        _ => format!("hw:S{n}"),
    };
    let end = |mask: usize, n: usize| match mask % 2 {
        0 => format!("App{n}@{}", component(mask / 2, n)),
        _ => component(mask / 2, n),
    };
    let mut text = String::new();
    for i in 0..count {
        let (source, destination) = (end(i % 18, i), end(i / 18 % 18, i));
        text += &format!("deny {source} -> {destination} kinds reply\n");
    }
    rules(&text)
}

/// Messages between guests that have all names, which no rule is about.
fn guests() -> Vec<(Party, Party)> {
    let guest = |id: u32, name: &str| {
        let address = Address::new(vm(OURS, id), app(name));
        Party::new(MVM, &address, Some([id as u8 | 0x80; 16])).unwrap()
    };
    (0..512)
        .map(|i| (guest(1_000_000 + i, "None"), guest(2_000_000 + i, "None")))
        .collect()
}

/// Shows the cost of a decision; run it with --nocapture, and --release for the times.
#[test]
fn a_decision_hardly_costs_more_with_more_rules() {
    println!("rules  runs  comparisons at most  ns each");
    for (kind, rules, bound) in [
        ("usual", usual_rules as fn(usize) -> Vec<Rule>, 64),
        ("every mask", worst_rules, 1500),
    ] {
        println!("{kind}:");
        let mut curve = vec![];
        for count in [10, 100, 1000, 10_000, MAX_RULES] {
            let table = compile(rules(count));
            let mut masks: Vec<_> = table.rules().iter().map(mask).collect();
            masks.sort();
            masks.dedup();
            let (most, time) = cost(&table, &guests());
            println!("{count:5}  {:4}  {most:19}  {time:7.0}", masks.len());
            curve.push(most);
            assert!(most <= bound, "{most} comparisons among {count} rules");
        }
        // Ten times the rules: what a binary search takes more, in each run.
        assert!(curve[3] <= 2 * curve[2], "{curve:?}");
    }
}

#[test]
fn no_rule_is_about_what_comes_back() {
    assert!(!Kinds::ALL.contains(Kind::Undeliverable));
    assert_eq!(Kinds::NONE.with(Kind::Undeliverable), Kinds::NONE);
    assert_eq!(
        Kinds::NAMES
            .iter()
            .fold(Kinds::NONE, |kinds, (kind, _)| kinds.with(*kind)),
        Kinds::ALL
    );
}
