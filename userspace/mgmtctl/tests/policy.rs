// SPDX-License-Identifier: MIT OR Apache-2.0

//! `mgmtctl policy` as a user calls it: what it prints where, and its exit status.

use std::io::Write as _;
use std::process::{Command, Stdio};

/// Standard output, standard error and exit status, with these rules on standard input.
fn run(arguments: &[&str], rules: &str) -> (String, String, i32) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_mgmtctl"))
        .args(["policy"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("mgmtctl");
    // It need not read what it was given.
    let _ = child.stdin.take().unwrap().write_all(rules.as_bytes());
    let output = child.wait_with_output().expect("mgmtctl");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    let status = output.status.code().expect("no signal");
    (text(output.stdout), text(output.stderr), status)
}

#[test]
fn rules_without_mistakes_are_counted() {
    let (out, err, status) = run(&["check", "-"], "allow vm:3 -> vm:4\n# nothing\n");
    assert_eq!(out, "standard input: 1 rule, 0 warnings\n");
    assert_eq!((err.as_str(), status), ("", 0));
}

#[test]
fn a_warning_is_no_failure() {
    let (out, err, status) = run(&["check", "-"], "allow * -> *\ndeny vm:3 -> *\n");
    assert_eq!(out, "standard input: 2 rules, 1 warning\n");
    assert!(err.starts_with("standard input:2: warning: "), "{err}");
    assert_eq!(status, 0);
}

#[test]
fn every_mistake_is_told_and_fails() {
    let (out, err, status) = run(&["check", "-"], "allow * -> moon\nallow * -> *\nfoo\n");
    assert_eq!((out.as_str(), status), ("", 1));
    assert!(err.contains("standard input:1:12: "), "{err}");
    assert!(err.contains("standard input:3:1: "), "{err}");
    assert!(
        err.ends_with("mgmtctl: standard input: 2 mistakes\n"),
        "{err}"
    );
}

#[test]
fn a_file_that_is_not_there_fails() {
    let (out, err, status) = run(&["check", "/nowhere/rules"], "");
    assert_eq!((out.as_str(), status), ("", 1));
    assert!(err.starts_with("mgmtctl: read /nowhere/rules: "), "{err}");
}

#[test]
fn a_denial_that_is_explained_is_no_failure() {
    let explain = ["explain", "--file", "-", "A@vm:3", "B@vm:4", "reply"];
    let (out, err, status) = run(&explain, "deny vm:3 -> vm:4 # why not\n");
    assert_eq!(out, "deny\nby line 1: deny vm:3 -> vm:4\n");
    assert_eq!((err.as_str(), status), ("", 0));
}

#[test]
fn hardware_of_another_platform_is_not_this_ones() {
    let rules = "allow vm:* -> hw:*\n";
    let explain = ["explain", "--file", "-", "A@vm:3", "B@hw:S1"];
    assert!(run(&explain, rules).0.starts_with("allow"));
    for (serial, verdict) in [("S1", "deny"), ("S2", "allow")] {
        let explain = [&explain[..], &["--elsewhere", serial]].concat();
        assert!(run(&explain, rules).0.starts_with(verdict), "{serial}");
    }
}

#[test]
fn nothing_is_explained_by_rules_with_mistakes() {
    let (out, err, status) = run(&["explain", "--file", "-", "A@vm:3", "B@vm:4"], "allow\n");
    assert_eq!((out.as_str(), status), ("", 1));
    assert!(err.contains("a source is expected"), "{err}");
}

#[test]
fn a_question_that_is_none_is_a_wrong_call() {
    for (question, status) in [
        (["explain", "--file", "-", "A@vm:3", "vm:4", "data"], 2),
        (
            [
                "explain",
                "--file",
                "-",
                "A@vm:3",
                "B@vm:4",
                "undeliverable",
            ],
            2,
        ),
        (["explain", "--file", "-", "A@self", "B@vm:4", "data"], 1),
    ] {
        assert_eq!(run(&question, "").2, status, "{question:?}");
    }
}

#[test]
fn the_documented_rules_say_what_is_documented() {
    let docs = include_str!("../../../docs/policy.md");
    let rules = docs.split("```\n").nth(1).expect("an example");
    let (out, err, status) = run(&["check", "-"], rules);
    assert_eq!((err.as_str(), status), ("", 0));
    assert_eq!(out, "standard input: 5 rules, 0 warnings\n");

    let (_, example) = docs
        .split_once("$ mgmtctl policy explain --file rules ")
        .expect("an example");
    let (call, rest) = example.split_once('\n').unwrap();
    let (expected, _) = rest.split_once("```").unwrap();
    let arguments: Vec<_> = ["explain", "--file", "-"]
        .into_iter()
        .chain(call.split(' '))
        .collect();
    assert_eq!(run(&arguments, rules), (expected.into(), String::new(), 0));
}
