// SPDX-License-Identifier: GPL-2.0

//! A table decides as the first of its rules that would decide alone.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mgmt_fuzz::Script;
use mgmt_pure::pure::policy::{
    Action, Cause, ComponentPattern, Entry, Kinds, Party, Pattern, Rule, Table,
};
use mgmt_pure::pure::route::VmName;
use mgmt_wire::{Address, AppId, Component, Kind, Serial};

const IPS: [[u8; 16]; 3] = [[1; 16], [2; 16], [0; 16]];
const UUIDS: [[u8; 16]; 2] = [[0xab; 16], [0xcd; 16]];

fn app(script: &mut Script<'_>) -> AppId {
    AppId::new(script.choose(&[b"A", b"B", b"C"])).expect("an App_ID")
}

fn serial(script: &mut Script<'_>) -> Serial {
    Serial::new(script.choose(&[b"S", b"T"])).expect("a serial number")
}

fn pattern(script: &mut Script<'_>) -> Pattern {
    // A rule cannot name the unspecified address.
    let named = &IPS[..2];
    let component = match script.byte() % 9 {
        0 => ComponentPattern::Any,
        1 => ComponentPattern::Mvm,
        2 => ComponentPattern::Guests,
        3 => ComponentPattern::Guest(u32::from(script.byte() % 4)),
        4 => ComponentPattern::Platform(script.choose(named)),
        5 => ComponentPattern::Vm {
            mvm_ip: script.choose(named),
            vm_id: u32::from(script.byte() % 4),
        },
        6 => ComponentPattern::Stable(script.choose(&UUIDS)),
        7 => ComponentPattern::AllHardware,
        _ => ComponentPattern::Hardware(serial(script)),
    };
    let app = (script.byte() % 2 == 0).then(|| app(script));
    Pattern { component, app }
}

fn component(script: &mut Script<'_>) -> Component {
    match script.byte() % 4 {
        0 => Component::Mvm,
        1 => Component::Stable(script.choose(&UUIDS)),
        _ => Component::Vm {
            mvm_ip: script.choose(&IPS),
            vm_id: u32::from(script.byte() % 4),
        },
    }
}

fn rule(script: &mut Script<'_>) -> Rule {
    let bits = script.byte();
    let some = Kinds::NAMES
        .iter()
        .filter(|(kind, _)| bits & (1 << (*kind as u8 - 1)) != 0)
        .fold(Kinds::NONE, |kinds, (kind, _)| kinds.with(*kind));
    Rule {
        action: match script.byte() % 3 {
            0 => Action::Allow,
            1 => Action::Deny,
            _ => Action::Through(app(script)),
        },
        source: pattern(script),
        destination: pattern(script),
        kinds: if some == Kinds::NONE {
            Kinds::ALL
        } else {
            some
        },
        line: 1,
    }
}

fn party(script: &mut Script<'_>, mvm: VmName) -> Party {
    let component = match script.byte() % 5 {
        0 => Component::Hardware(serial(script)),
        _ => component(script),
    };
    let stable = script.choose(&[None, Some(UUIDS[0]), Some(UUIDS[1])]);
    let stable = stable.filter(|_| matches!(component, Component::Mvm | Component::Vm { .. }));
    Party::new(mvm, &Address::new(component, app(script)), stable).expect("a party")
}

fn compile(rules: &[Rule]) -> Table<&[Rule], Vec<Entry>> {
    Table::compile(rules, vec![Entry::default(); rules.len()]).expect("a table")
}

fuzz_target!(|data: &[u8]| {
    let mut script = Script(data);
    let mvm = VmName {
        mvm_ip: script.choose(&[IPS[0], IPS[2]]),
        vm_id: 0,
    };
    let messages: Vec<_> = (0..8)
        .map(|_| {
            let kind = Kind::try_from(1 + script.byte() % 7).expect("a kind");
            (party(&mut script, mvm), party(&mut script, mvm), kind)
        })
        .collect();
    let mut rules = Vec::new();
    while !script.is_empty() && rules.len() < 64 {
        rules.push(rule(&mut script));
    }

    let table = compile(&rules);
    for (source, destination, kind) in messages {
        let decision = table.decide(&source, &destination, kind);
        // A reply that passes as one is about the other direction, whose rule is then compared.
        let (from, to, asked) = match decision.reply_to {
            Some(asked) => (destination, source, asked),
            None => (source, destination, kind),
        };
        // Presence stands for the kind: for it, there is nothing but the rule.
        let alone = |rule: &Rule| {
            let kinds = Some(Kinds::ALL).filter(|_| rule.kinds.contains(asked))?;
            let rule = [Rule { kinds, ..*rule }];
            let decision = compile(&rule).decide(&from, &to, Kind::Presence);
            (decision.cause == Cause::Rule(0)).then_some(decision)
        };
        let first = rules
            .iter()
            .enumerate()
            .find_map(|(number, rule)| Some((number, alone(rule)?)));
        match (first, decision.cause) {
            (Some((number, alone)), Cause::Rule(by)) => {
                assert_eq!(number, usize::from(by));
                assert_eq!(alone.verdict, decision.verdict);
                assert_eq!(alone.broker, decision.broker);
                // That vm:0 is no guest here, the table cannot know.
                let own = ComponentPattern::Guest(mvm.vm_id);
                let rule = &rules[number];
                if rule.source.component != own && rule.destination.component != own {
                    assert_eq!(table.shadow(by), None);
                }
            }
            (None, Cause::BuiltIn(_)) => {}
            (first, cause) => panic!("{first:?}, but {cause:?}"),
        }
    }
});
