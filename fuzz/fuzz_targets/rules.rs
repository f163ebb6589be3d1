// SPDX-License-Identifier: GPL-2.0

//! Any bytes are read to their end; a rule reads back as it is shown, a mistake has a place.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mgmt_pure::pure::policy::{Entry, MAX_LINE, Mistake, Rules, Table};

fuzz_target!(|data: &[u8]| {
    let lines: Vec<_> = data.split(|&byte| byte == b'\n').collect();
    let mut last = 0;
    let mut rules = Vec::new();
    for read in Rules::new(data) {
        let line = match read {
            Ok(rule) => {
                let shown = rule.to_string();
                let mut again = Rules::new(shown.as_bytes());
                let mut expected = rule;
                expected.line = 1;
                assert_eq!(again.next(), Some(Ok(expected)), "{shown}");
                assert_eq!(again.next(), None);
                assert!(lines[rule.line as usize - 1].len() <= MAX_LINE);
                rules.push(rule);
                rule.line
            }
            Err(error) => {
                let text = lines[error.line as usize - 1];
                let before = error.column as usize - 1;
                assert!(before <= text.len());
                if error.mistake == Mistake::LineTooLong {
                    assert_eq!(before, MAX_LINE);
                } else {
                    assert!(text[..before].is_ascii(), "{error}");
                }
                error.line
            }
        };
        assert!(line > last && line as usize <= lines.len());
        last = line;
    }

    let entries = vec![Entry::default(); rules.len()];
    let table = Table::compile(rules, entries).expect("a table");
    for number in 0..table.rules().len() {
        if let Some(shadow) = table.shadow(number as u16) {
            assert!(shadow.rules().all(|by| usize::from(by) < number));
        }
    }
});
