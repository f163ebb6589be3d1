// SPDX-License-Identifier: GPL-2.0

//! The stable name of a VM: its UUID, which it keeps when it migrates.

/// A UUID, its first digits first.
pub type Uuid = [u8; 16];

/// Reads 32 hexadecimal digits, with or without dashes.
pub fn parse(text: &[u8]) -> Option<Uuid> {
    let mut uuid = [0; 16];
    let mut digits = 0;
    for &byte in text.iter().filter(|&&byte| byte != b'-') {
        let digit = char::from(byte).to_digit(16)?;
        let to = uuid.get_mut(digits / 2)?;
        *to = (*to << 4) | digit as u8;
        digits += 1;
    }
    (digits == 32).then_some(uuid)
}

/// Reads what the toolstack writes to a domain's node `vm`: `/vm/` and the UUID. The first domain
/// has zeros there, which name nobody.
pub fn from_vm_path(path: &[u8]) -> Option<Uuid> {
    parse(path.strip_prefix(b"/vm/")?).filter(|uuid| *uuid != [0; 16])
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: Uuid = [
        0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee,
        0xff,
    ];

    #[test]
    fn dashes_and_case_do_not_matter_and_all_else_does() {
        for (text, expected) in [
            ("00112233-4455-6677-8899-aabbccddeeff", Some(UUID)),
            ("00112233445566778899AABBCCDDEEFF", Some(UUID)),
            ("00112233-4455-6677-8899-aabbccddeef", None),
            ("00112233-4455-6677-8899-aabbccddeeff0", None),
            ("00112233-4455-6677-8899-aabbccddeefg", None),
            ("+0112233-4455-6677-8899-aabbccddeeff", None),
            ("", None),
        ] {
            assert_eq!(parse(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn the_toolstacks_node_is_a_path() {
        for (text, expected) in [
            ("/vm/00112233-4455-6677-8899-aabbccddeeff", Some(UUID)),
            ("/vm/00112233-4455-6677-8899-aabbccddeeff-1", None),
            ("00112233-4455-6677-8899-aabbccddeeff", None),
            ("/vm/00000000-0000-0000-0000-000000000000", None),
            ("/vm/", None),
        ] {
            assert_eq!(from_vm_path(text.as_bytes()), expected, "{text}");
        }
    }
}
