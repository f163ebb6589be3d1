// SPDX-License-Identifier: GPL-2.0

//! Any rules and any messages, against the plain meaning of a rule: the first that matches.

use super::{super::table::sort, *};
use crate::pure::directory;
use proptest::prelude::*;

const OTHER_UUID: [u8; 16] = [0xcd; 16];

/// An end of a message, and the stable name that the bridge knows of it.
#[derive(Clone, Copy, Debug)]
struct End {
    address: Address,
    stable: Option<[u8; 16]>,
    /// Whether it is hardware of another platform, or all other platforms.
    elsewhere: bool,
}

/// What is decided of a message: the rule or the built-in, and whether it passes, goes to a broker
/// or not.
type Outcome = (Cause, Verdict);

/// The plain meaning of rules, on a platform.
struct Model<'a> {
    mvm: VmName,
    rules: &'a [Rule],
}

impl Model<'_> {
    fn vm(&self, end: &End) -> Option<VmName> {
        match end.address.component {
            Component::Mvm => Some(self.mvm),
            Component::Vm { mvm_ip, vm_id } if mvm_ip == [0; 16] => Some(VmName {
                mvm_ip: self.mvm.mvm_ip,
                vm_id,
            }),
            Component::Vm { mvm_ip, vm_id } => Some(VmName { mvm_ip, vm_id }),
            _ => None,
        }
    }

    fn uuid(&self, end: &End) -> Option<[u8; 16]> {
        match end.address.component {
            Component::Stable(uuid) => Some(uuid),
            _ => end.stable,
        }
    }

    fn is_mvm(&self, end: &End) -> bool {
        self.vm(end) == Some(self.mvm)
    }

    fn is_guest(&self, end: &End) -> bool {
        let ours = self.vm(end).is_some_and(|vm| vm.mvm_ip == self.mvm.mvm_ip);
        ours && !self.is_mvm(end)
    }

    fn is_hardware(end: &End) -> bool {
        matches!(end.address.component, Component::Hardware(_)) && !end.elsewhere
    }

    fn matches(&self, pattern: &Pattern, end: &End) -> bool {
        let vm = self.vm(end);
        let component = match pattern.component {
            ComponentPattern::Any => true,
            ComponentPattern::Mvm => self.is_mvm(end),
            ComponentPattern::Guests => self.is_guest(end),
            ComponentPattern::Guest(id) => {
                vm.is_some_and(|vm| vm.mvm_ip == self.mvm.mvm_ip && vm.vm_id == id)
            }
            ComponentPattern::Platform(ip) => vm.is_some_and(|vm| vm.mvm_ip == ip),
            ComponentPattern::Vm { mvm_ip, vm_id } => vm == Some(VmName { mvm_ip, vm_id }),
            ComponentPattern::Stable(uuid) => self.uuid(end) == Some(uuid),
            ComponentPattern::AllHardware => Self::is_hardware(end),
            ComponentPattern::Hardware(serial) => {
                end.address.component == Component::Hardware(serial)
            }
        };
        component && pattern.app.is_none_or(|app| end.address.app == Some(app))
    }

    fn same_domain(&self, a: &End, b: &End) -> bool {
        let (vm, uuid) = (self.vm(a), self.uuid(a));
        vm.is_some() && vm == self.vm(b)
            || uuid.is_some() && uuid == self.uuid(b)
            || matches!(a.address.component, Component::Hardware(_))
                && (a.address.component, a.elsewhere) == (b.address.component, b.elsewhere)
    }

    fn one_way(&self, from: &End, to: &End, kind: Kind) -> Outcome {
        let built_in = |name: BuiltIn, verdict| (Cause::BuiltIn(name), verdict);
        if self.same_domain(from, to) {
            return built_in(BuiltIn::SameDomain, Verdict::Allow);
        }
        let first = self.rules.iter().enumerate().find(|(_, rule)| {
            rule.kinds.contains(kind)
                && self.matches(&rule.source, from)
                && self.matches(&rule.destination, to)
        });
        if let Some((number, rule)) = first {
            let verdict = match rule.action {
                Action::Allow => Verdict::Allow,
                Action::Deny => Verdict::Deny,
                Action::Through(app) => {
                    let is_broker = |end: &End| self.is_mvm(end) && end.address.app == Some(app);
                    if is_broker(from) || is_broker(to) {
                        Verdict::Allow
                    } else {
                        Verdict::Through(app)
                    }
                }
            };
            return (Cause::Rule(number as u16), verdict);
        }
        let guest = self.is_guest(from);
        if self.is_mvm(from) {
            built_in(BuiltIn::FromMvm, Verdict::Allow)
        } else if self.is_mvm(to) && (guest || Self::is_hardware(from)) {
            built_in(BuiltIn::ToMvm, Verdict::Allow)
        } else if guest && self.is_guest(to) {
            built_in(BuiltIn::GuestToGuest, Verdict::Deny)
        } else if guest && Self::is_hardware(to) {
            built_in(BuiltIn::GuestToHardware, Verdict::Deny)
        } else {
            built_in(BuiltIn::Elsewhere, Verdict::Deny)
        }
    }

    fn decide(&self, from: &End, to: &End, kind: Kind) -> Outcome {
        if kind == Kind::Undeliverable {
            let sent = Kinds::NAMES.map(|(kind, _)| self.decide(to, from, kind));
            let allowed = sent.into_iter().find(|sent| sent.1 == Verdict::Allow);
            let denied = (Cause::BuiltIn(BuiltIn::Undeliverable), Verdict::Deny);
            return allowed.unwrap_or(denied);
        }
        let direct = self.one_way(from, to, kind);
        if kind == Kind::Reply && direct.1 != Verdict::Allow {
            for request in [Kind::Data, Kind::Establish, Kind::Discover, Kind::Terminate] {
                let asked = self.one_way(to, from, request);
                if asked.1 == Verdict::Allow {
                    return asked;
                }
            }
        }
        direct
    }
}

fn any_app() -> impl Strategy<Value = AppId> {
    prop::sample::select(vec![app("P"), app("Q"), app("R")])
}

fn any_pattern() -> impl Strategy<Value = Pattern> {
    let id = 0u32..4;
    let ip = prop::sample::select(vec![OURS, OTHER]);
    let uuid = prop::sample::select(vec![UUID, OTHER_UUID]);
    let hardware = prop::sample::select(vec![serial("S"), serial("T")]);
    let component = prop_oneof![
        2 => Just(ComponentPattern::Any),
        1 => Just(ComponentPattern::Mvm),
        2 => Just(ComponentPattern::Guests),
        4 => id.clone().prop_map(ComponentPattern::Guest),
        1 => ip.clone().prop_map(ComponentPattern::Platform),
        2 => (ip, id).prop_map(|(mvm_ip, vm_id)| ComponentPattern::Vm { mvm_ip, vm_id }),
        2 => uuid.prop_map(ComponentPattern::Stable),
        1 => Just(ComponentPattern::AllHardware),
        1 => hardware.prop_map(ComponentPattern::Hardware),
    ];
    (component, prop::option::of(any_app())).prop_map(|(component, app)| Pattern { component, app })
}

fn any_kinds() -> impl Strategy<Value = Kinds> {
    let some = (1u8..64).prop_map(|bits| {
        Kinds::NAMES
            .into_iter()
            .filter(|(kind, _)| bits & (1 << (*kind as u8 - 1)) != 0)
            .fold(Kinds::NONE, |kinds, (kind, _)| kinds.with(kind))
    });
    prop_oneof![Just(Kinds::ALL), some]
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let action = prop_oneof![
        2 => Just(Action::Allow),
        2 => Just(Action::Deny),
        1 => any_app().prop_map(Action::Through),
    ];
    (action, any_pattern(), any_pattern(), any_kinds()).prop_map(
        |(action, source, destination, kinds)| Rule {
            action,
            source,
            destination,
            kinds,
            line: 1,
        },
    )
}

fn any_end() -> impl Strategy<Value = End> {
    let component = prop::sample::select(vec![
        Component::Mvm,
        vm([0; 16], 0),
        vm([0; 16], 1),
        vm([0; 16], 2),
        vm(OURS, 0),
        vm(OURS, 1),
        vm(OURS, 3),
        vm(OTHER, 0),
        vm(OTHER, 1),
        Component::Stable(UUID),
        Component::Hardware(serial("S")),
        Component::Hardware(serial("T")),
        Component::Everywhere,
    ]);
    let stable = prop::sample::select(vec![None, Some(UUID), Some(OTHER_UUID)]);
    let end = (component, any_app(), stable, any::<bool>());
    end.prop_map(|(component, app, stable, elsewhere)| End {
        address: Address::new(component, app),
        elsewhere: match component {
            Component::Hardware(_) => elsewhere,
            component => component == Component::Everywhere,
        },
        // The bridge knows one only of a VM.
        stable: stable.filter(|_| matches!(component, Component::Mvm | Component::Vm { .. })),
    })
}

fn any_kind() -> impl Strategy<Value = Kind> {
    (1u8..=7).prop_map(|kind| Kind::try_from(kind).expect("a kind"))
}

/// Whether the first pattern matches all that the second one does, by what they say.
fn covers(wide: &Pattern, narrow: &Pattern) -> bool {
    let component = wide.component == narrow.component
        || match (wide.component, narrow.component) {
            (ComponentPattern::Any, _) | (ComponentPattern::Guests, ComponentPattern::Guest(_)) => {
                true
            }
            (ComponentPattern::Platform(ip), ComponentPattern::Vm { mvm_ip, .. }) => ip == mvm_ip,
            _ => false,
        };
    component && (wide.app.is_none() || wide.app == narrow.app)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn the_first_rule_that_matches_decides(
        // Until somebody sets the address of the management VM, nobody has one.
        mvm_ip in prop::sample::select(vec![[0; 16], OURS]),
        rules in prop::collection::vec(any_rule(), 0..60),
        messages in prop::collection::vec((any_end(), any_end(), any_kind()), 1..60),
    ) {
        let mvm = VmName { mvm_ip, vm_id: 0 };
        let table = compile(rules.clone());
        let model = Model { mvm, rules: &rules };
        for (from, to, kind) in messages {
            let party = |end: &End| {
                let end = directory::End {
                    component: end.address.component,
                    app: end.address.app.as_ref(),
                    stable: end.stable,
                    elsewhere: end.elsewhere,
                };
                Party::of(mvm, &end).expect("a party")
            };
            let decision = table.decide(&party(&from), &party(&to), kind);
            let expected = model.decide(&from, &to, kind);
            prop_assert_eq!((decision.cause, decision.verdict), expected);
            let by_the_other_way = match kind {
                Kind::Undeliverable => decision.verdict == Verdict::Allow,
                _ => model.one_way(&from, &to, kind) != expected,
            };
            prop_assert_eq!(decision.reply_to.is_some(), by_the_other_way);
        }
    }

    #[test]
    fn a_shadowed_rule_never_decides(
        rules in prop::collection::vec(any_rule(), 0..60),
        messages in prop::collection::vec((any_end(), any_end(), any_kind()), 1..60),
    ) {
        let table = compile(rules.clone());
        let model = Model { mvm: MVM, rules: &rules };
        for (from, to, kind) in messages {
            if let (Cause::Rule(number), _) = model.one_way(&from, &to, kind) {
                let rule = &rules[usize::from(number)];
                // That vm:0 is no guest here, the table cannot know.
                let own = ComponentPattern::Guest(MVM.vm_id);
                if rule.source.component != own && rule.destination.component != own {
                    prop_assert_eq!(table.shadow(number), None);
                }
            }
        }
    }

    #[test]
    fn a_rule_that_earlier_ones_cover_is_shadowed(
        rules in prop::collection::vec(any_rule(), 1..60),
    ) {
        let table = compile(rules.clone());
        for (number, rule) in rules.iter().enumerate() {
            let first = |kind| {
                rules[..number].iter().position(|earlier| {
                    earlier.kinds.contains(kind)
                        && covers(&earlier.source, &rule.source)
                        && covers(&earlier.destination, &rule.destination)
                })
            };
            let expected: Option<Vec<_>> = rule.kinds.iter().map(first).collect();
            let expected = expected.map(|mut by| {
                by.sort();
                by.dedup();
                by
            });
            let got = table.shadow(number as u16).map(|shadow| {
                let mut by: Vec<_> = shadow.rules().map(usize::from).collect();
                by.sort();
                by
            });
            prop_assert_eq!(got, expected);
        }
    }

    /// So a key has at most as many entries as there are kinds.
    #[test]
    fn of_a_key_those_rules_are_kept_that_decide_another_kind(
        rule in any_rule(),
        kinds in prop::collection::vec(any_kinds(), 0..40),
    ) {
        let rules: Vec<_> = kinds.into_iter().map(|kinds| Rule { kinds, ..rule }).collect();
        let mut decided = vec![];
        let mut kept = 0;
        for rule in &rules {
            let new: Vec<_> = rule.kinds.iter().filter(|kind| !decided.contains(kind)).collect();
            kept += usize::from(!new.is_empty());
            decided.extend(new);
        }
        prop_assert_eq!(compile(rules).order().len(), kept);
    }

    #[test]
    fn a_sorted_slice_is_in_order(items in prop::collection::vec(0u16..100, 0..200)) {
        let mut sorted = items.clone();
        sort(&mut sorted, |a, b| a < b);
        let mut expected = items;
        expected.sort();
        prop_assert_eq!(sorted, expected);
    }

    #[test]
    fn a_rule_reads_back_as_shown(rule in any_rule()) {
        prop_assert_eq!(super::rules(&rule.to_string()), [rule]);
    }

    #[test]
    fn any_text_is_read_to_its_end(text in prop::collection::vec(any::<u8>(), 0..300)) {
        let lines = text.split(|&byte| byte == b'\n').count() as u32;
        let mut last = 0;
        for read in Rules::new(&text) {
            let line = read.map_or_else(|error| error.line, |rule| rule.line);
            prop_assert!(last < line && line <= lines);
            last = line;
        }
    }
}
