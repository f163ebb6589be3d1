// SPDX-License-Identifier: GPL-2.0

use super::*;

fn first_error(text: &[u8]) -> Option<(u32, u32, Mistake)> {
    let error = Rules::new(text).find_map(Result::err)?;
    Some((error.line, error.column, error.mistake))
}

#[test]
fn every_form_of_a_rule_reads_back_as_written() {
    for text in [
        "allow * -> *",
        "deny mvm -> vm:*",
        "allow vm:3 -> vm:4294967295",
        "allow vm:192.0.2.7/* -> vm:2001:db8::1/12",
        "deny uuid:00112233-4455-6677-8899-aabbccddeeff -> hw:*",
        "allow hw:CZ3#4*2@/:, -> Power@hw:*@",
        "allow Power@* -> P.o_w-3@vm:*",
        "through Power@mvm vm:* -> Ipmi@hw:*",
        "allow mvm@mvm -> self@mvm kinds discover",
        "allow * -> * kinds discover,establish,data,terminate,presence",
        "allow * -> * kinds presence,reply",
    ] {
        let rules = rules(text);
        assert_eq!(rules.len(), 1, "{text}");
        assert_eq!(rules[0].to_string(), text);
    }
}

#[test]
fn what_says_the_same_is_the_same_rule() {
    for (text, same) in [
        ("allow *@vm:3 -> *@*", "allow vm:3 -> *"),
        ("\tallow   vm:3\t->  vm:4 \r", "allow vm:3 -> vm:4"),
        ("allow vm:007 -> mvm# not a comment", ""),
        ("allow vm:007 -> mvm # a comment", "allow vm:7 -> mvm"),
        (
            "allow * -> * kinds reply,data #",
            "allow * -> * kinds data,reply",
        ),
        (
            "allow * -> * kinds reply,data,discover,establish,terminate,presence",
            "allow * -> *",
        ),
        (
            "allow uuid:00112233445566778899AABBCCDDEEFF -> *",
            "allow uuid:00112233-4455-6677-8899-aabbccddeeff -> *",
        ),
        (
            "allow vm:::ffff:192.0.2.7/1 -> *",
            "allow vm:192.0.2.7/1 -> *",
        ),
    ] {
        let shown: Vec<_> = Rules::new(text.as_bytes())
            .flatten()
            .map(|rule| rule.to_string())
            .collect();
        let expected: Vec<_> = Some(same).filter(|s| !s.is_empty()).into_iter().collect();
        assert_eq!(shown, expected, "{text}");
    }
}

#[test]
fn a_rule_has_the_parts_that_are_written() {
    let text = "\n# comment\n   # another\r\nthrough Power@mvm uuid:\
                abababab-abab-abab-abab-abababababab -> Ipmi@hw:S kinds data,reply";
    assert_eq!(
        rules(text),
        [Rule {
            action: Action::Through(app("Power")),
            source: Pattern {
                component: ComponentPattern::Stable(UUID),
                app: None,
            },
            destination: Pattern {
                component: ComponentPattern::Hardware(serial("S")),
                app: Some(app("Ipmi")),
            },
            kinds: Kinds::NONE.with(Kind::Data).with(Kind::Reply),
            line: 4,
        }]
    );
}

#[test]
fn a_mistake_is_told_with_its_place() {
    use Mistake::*;
    // The rule, and under which character the mistake begins.
    const CASES: &[(&str, &str, Mistake)] = &[
        ("permit * -> *", "^", Action),
        ("  Allow * -> *", "  ^", Action),
        ("-> *", "^", Action),
        ("kinds", "^", Action),
        ("allow", "     ^", Source),
        ("allow # * -> *", "     ^", Source),
        ("allow -> *", "      ^", Source),
        ("allow *", "       ^", Arrow),
        ("allow * *", "        ^", Arrow),
        ("allow * => *", "        ^", Arrow),
        ("allow * ->", "          ^", Destination),
        ("allow * -> # *", "          ^", Destination),
        ("deny @mvm -> *", "     ^", App),
        ("deny a/b@mvm -> *", "     ^", App),
        (
            "deny * -> aaaaaaaaaabbbbbbbbbbccccccccccdd@mvm",
            "          ^",
            App,
        ),
        ("deny P\u{f6}wer@mvm -> *", "     ^", App),
        ("deny P@ -> *", "       ^", Component),
        ("deny P@moon -> *", "       ^", Component),
        ("deny P@P@mvm -> *", "       ^", Component),
        ("deny vm -> *", "     ^", Component),
        ("deny VM:1 -> *", "     ^", Component),
        ("deny mvm/Power -> *", "     ^", Component),
        ("deny * -> app:Power", "          ^", Component),
        ("deny self -> *", "     ^", SelfDomain),
        ("deny P@self -> *", "       ^", SelfDomain),
        ("deny vm: -> *", "        ^", VmId),
        ("deny vm:+1 -> *", "        ^", VmId),
        ("deny vm:4294967296 -> *", "        ^", VmId),
        ("deny vm:1* -> *", "        ^", VmId),
        ("deny vm:3->vm:4", "        ^", VmId),
        ("deny vm:::1/ -> *", "            ^", VmId),
        ("deny P@vm:192.0.2.1/x -> *", "                    ^", VmId),
        ("deny vm:/1 -> *", "        ^", Ip),
        ("deny vm:*/1 -> *", "        ^", Ip),
        ("deny vm:::/1 -> *", "        ^", Ip),
        ("deny vm:192.0.2.256/1 -> *", "        ^", Ip),
        ("deny vm:1/2/3 -> *", "        ^", Ip),
        ("deny uuid: -> *", "          ^", Uuid),
        ("deny uuid:* -> *", "          ^", Uuid),
        (
            "deny uuid:00112233-4455-6677-8899-aabbccddeef -> *",
            "          ^",
            Uuid,
        ),
        (
            "deny uuid:00112233-4455-6677-8899-aabbccddeeff0 -> *",
            "          ^",
            Uuid,
        ),
        (
            "deny uuid:00112233-4455-6677-8899-aabbccddeefg -> *",
            "          ^",
            Uuid,
        ),
        ("deny hw: -> *", "        ^", Serial),
        (
            "deny hw:aaaaaaaaaabbbbbbbbbbccccccccc -> *",
            "        ^",
            Serial,
        ),
        ("deny P@hw:\u{e4} -> *", "          ^", Serial),
        ("through", "       ^", Broker),
        ("through mvm vm:* -> *", "        ^", Broker),
        ("through *@mvm vm:* -> *", "        ^", Broker),
        ("through P@* vm:* -> *", "        ^", Broker),
        ("through P@vm:* vm:* -> *", "        ^", Broker),
        ("through self vm:* -> *", "        ^", SelfDomain),
        ("through P@vm:0 vm:* -> *", "        ^", Broker),
        ("through P@hw:S vm:* -> *", "        ^", Broker),
        ("through P@moon vm:* -> *", "          ^", Component),
        ("through P@mvm -> *", "              ^", Source),
        ("allow * -> * data", "             ^", Kinds),
        ("allow * -> * kinds", "                  ^", Kind),
        ("allow * -> * kinds ,", "                   ^", Kind),
        (
            "allow * -> * kinds data,",
            "                        ^",
            Kind,
        ),
        (
            "allow * -> * kinds data,Reply",
            "                        ^",
            Kind,
        ),
        (
            "allow * -> * kinds undeliverable",
            "                   ^",
            Kind,
        ),
        (
            "allow * -> * kinds data,reply,data",
            "                              ^",
            KindTwice,
        ),
        (
            "allow * -> * kinds data, reply",
            "                        ^",
            Kind,
        ),
        (
            "allow * -> * kinds data reply",
            "                        ^",
            Trailing,
        ),
    ];
    for &(line, caret, mistake) in CASES {
        let column = caret.len() as u32;
        for end in ["", "\n", "\r\n", "  # comment", "\nallow * -> *\n"] {
            // What stands before and after a line does not change what is wrong with it.
            let text = ["# comment\n\n", line, end].concat();
            assert_eq!(
                first_error(text.as_bytes()),
                Some((3, column, mistake)),
                "{text}"
            );
            assert_eq!(
                Rules::new(text.as_bytes()).filter(Result::is_err).count(),
                1
            );
        }
    }
}

#[test]
fn what_is_wrong_is_told_in_words() {
    let error = Rules::new(b"\nallow * -> moon")
        .next()
        .unwrap()
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "line 2, column 12: a component is expected: *, mvm, vm:*, vm:ID, vm:IP/*, vm:IP/ID, \
         uuid:UUID, hw:* or hw:SERIAL"
    );
}

#[test]
fn bytes_that_are_no_text_are_a_mistake_like_others() {
    assert_eq!(first_error(b"\xff"), Some((1, 1, Mistake::Action)));
    assert_eq!(
        first_error(b"allow \x00 -> *"),
        Some((1, 7, Mistake::Component))
    );
    assert_eq!(
        first_error(b"allow * -> hw:\xff"),
        Some((1, 15, Mistake::Serial))
    );
    assert_eq!(
        first_error(b"allow * -> vm:\xff/1"),
        Some((1, 15, Mistake::Ip))
    );
    assert_eq!(first_error(b"allow * -> * # \xff\x00"), None);
}

#[test]
fn lines_rules_and_texts_are_bounded() {
    let rule = "deny * -> *";
    let line = |length| format!("{rule} #{}\n", "x".repeat(length - rule.len() - 2));
    assert_eq!(first_error(line(MAX_LINE).as_bytes()), None);
    let long = line(MAX_LINE + 1) + rule;
    let expected = Some((1, MAX_LINE as u32 + 1, Mistake::LineTooLong));
    assert_eq!(first_error(long.as_bytes()), expected);
    let mut rules = Rules::new(long.as_bytes());
    assert!(rules.next().unwrap().is_err());
    assert_eq!(rules.next().unwrap().unwrap().line, 2, "it goes on");

    let most = "deny * -> *\n".repeat(MAX_RULES);
    assert_eq!(Rules::new(most.as_bytes()).flatten().count(), MAX_RULES);
    assert_eq!(first_error(format!("{most}# more\n").as_bytes()), None);
    let more = format!("{most}\ndeny * -> *\ndeny * -> *\n");
    let expected = Some((MAX_RULES as u32 + 2, 1, Mistake::TooManyRules));
    assert_eq!(first_error(more.as_bytes()), expected);
    assert_eq!(
        Rules::new(more.as_bytes()).count(),
        MAX_RULES + 1,
        "it ends there"
    );

    let most = "\n".repeat(MAX_TEXT);
    assert_eq!(Rules::new(most.as_bytes()).count(), 0);
    let more = most + "\n";
    assert_eq!(
        first_error(more.as_bytes()),
        Some((1, 1, Mistake::TextTooLong))
    );
    assert_eq!(Rules::new(more.as_bytes()).count(), 1);
}
