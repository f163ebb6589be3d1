// SPDX-License-Identifier: MIT OR Apache-2.0

//! The inventory: who made the platform, and its serial number (section 34; the format is that of
//! the "Platform Management FRU Information Storage Definition" v1.0).

use crate::message::{Code, Outcome, Request, part};

/// Of the lab's platform.
pub const MANUFACTURER: &str = "mgmt-xen";
/// What the platform is.
pub const PRODUCT: &str = "Lab platform";

/// The inventory's bytes: a common header, and the area of the product.
pub fn inventory(serial: &str) -> Vec<u8> {
    const PRODUCT_AREA: u8 = 1; // in units of 8 bytes
    let mut out = vec![1, 0, 0, 0, PRODUCT_AREA, 0, 0];
    out.push(checksum(&out));
    out.extend(product(serial));
    out
}

fn product(serial: &str) -> Vec<u8> {
    const ENGLISH: u8 = 25;
    const END: u8 = 0xc1;
    let mut area = vec![1, 0, ENGLISH];
    for field in [MANUFACTURER, PRODUCT, "", "1", serial, "", ""] {
        // Type and length: 8-bit text.
        area.push(0xc0 | field.len() as u8);
        area.extend(field.as_bytes());
    }
    area.push(END);
    area.resize((area.len() + 1).next_multiple_of(8) - 1, 0);
    area[1] = ((area.len() + 1) / 8) as u8;
    area.push(checksum(&area));
    area
}

/// What makes the bytes add up to 0.
fn checksum(bytes: &[u8]) -> u8 {
    let sum = bytes.iter().fold(0u8, |sum, b| sum.wrapping_add(*b));
    sum.wrapping_neg()
}

/// Answers a request, where it is for the inventory. There is one, with the number 0.
pub fn handle(inventory: &[u8], request: &Request<'_>) -> Outcome {
    if request.data.first().is_some_and(|&id| id != 0) {
        return Err(Code::NOT_PRESENT);
    }
    match request.command {
        0x10 => {
            request.exactly::<1>()?;
            const BY_BYTES: u8 = 0;
            let [low, high] = (inventory.len() as u16).to_le_bytes();
            Ok(vec![low, high, BY_BYTES])
        }
        0x11 => {
            let [_, low, high, count] = request.exactly()?;
            let bytes = part(inventory, u16::from_le_bytes([low, high]).into(), count)?;
            Ok([&[bytes.len() as u8][..], &bytes].concat())
        }
        _ => Err(Code::INVALID_COMMAND),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::netfn;
    use proptest::prelude::*;

    fn ask(inventory: &[u8], command: u8, data: &[u8]) -> Outcome {
        let request = Request {
            netfn: netfn::STORAGE,
            lun: 0,
            command,
            data,
        };
        handle(inventory, &request)
    }

    #[test]
    fn it_is_read_in_parts() {
        let all = inventory("LAB0001");
        let [low, high] = (all.len() as u16).to_le_bytes();
        assert_eq!(ask(&all, 0x10, &[0]), Ok(vec![low, high, 0]));
        assert_eq!(ask(&all, 0x11, &[0, 0, 0, 8]).unwrap()[1..], all[..8]);
        let rest = [&[2], &all[all.len() - 2..]].concat();
        assert_eq!(ask(&all, 0x11, &[0, low - 2, high, 200]), Ok(rest));
        assert_eq!(
            ask(&all, 0x11, &[0, low + 1, high, 1]),
            Err(Code::OUT_OF_RANGE)
        );
        assert_eq!(ask(&all, 0x10, &[1]), Err(Code::NOT_PRESENT));
    }

    proptest! {
        #[test]
        fn areas_are_whole_and_add_up(serial in "[A-Z0-9]{1,28}") {
            let all = inventory(&serial);
            let (header, area) = all.split_at(8);
            prop_assert_eq!(area.len(), usize::from(area[1]) * 8);
            prop_assert_eq!((checksum(header), checksum(area)), (0, 0));
            let field = [&[0xc0 | serial.len() as u8][..], serial.as_bytes()].concat();
            prop_assert!(area.windows(field.len()).any(|w| w == field));
        }
    }
}
