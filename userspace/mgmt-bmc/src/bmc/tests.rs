// SPDX-License-Identifier: MIT OR Apache-2.0

//! The controller as the system sees it: bytes in, bytes out. A request here is the network
//! function, the command, the data; a response the completion code and the data.

use super::*;
use crate::dcmi::GROUP;
use proptest::prelude::*;

const EPOCH: u32 = 1_700_000_000;
const OK: u8 = 0;

fn config() -> Config {
    Config {
        serial: "LAB0001".into(),
        power: Parameters {
            noise: 0.0,
            ..Parameters::default()
        },
        statistics: Duration::from_secs(60),
        throttles: false,
        chassis: Policy::Record,
        epoch: EPOCH,
    }
}

fn ask(bmc: &mut Bmc, netfn: u8, command: u8, data: &[u8]) -> Vec<u8> {
    let request = [&[netfn << 2, command][..], data].concat();
    let response = bmc.handle(&request).unwrap();
    assert_eq!(response[..2], [(netfn | 1) << 2, command]);
    response[2..].to_vec()
}

fn dcmi(bmc: &mut Bmc, command: u8, data: &[u8]) -> Vec<u8> {
    let mut response = ask(bmc, netfn::GROUP, command, &[&[GROUP], data].concat());
    assert_eq!(response.remove(1), GROUP);
    response
}

fn word(bytes: &[u8]) -> u16 {
    u16::from_le_bytes(bytes.try_into().unwrap())
}

#[test]
fn it_introduces_itself() {
    let mut bmc = Bmc::new(config());
    let id = ask(&mut bmc, netfn::APP, 0x01, &[]);
    assert_eq!(id[..7], [OK, 0x20, 0x81, 1, 0, 2, 0x8f]);
    assert_eq!(ask(&mut bmc, netfn::APP, 0x04, &[]), [OK, 0x55, 0]);
    let guid = ask(&mut bmc, netfn::APP, 0x08, &[]);
    assert_eq!(guid.len(), 17);
    assert_eq!(ask(&mut bmc, netfn::APP, 0x37, &[]), guid);
    assert_ne!(guid_of("LAB0002"), guid[1..]);
    assert_eq!(
        ask(&mut bmc, netfn::APP, 0x42, &[0x0e])[..4],
        [OK, 0x0f, 0x0c, 0x05]
    );
    assert_eq!(ask(&mut bmc, netfn::APP, 0x42, &[0]), [0xcc]);
    assert_eq!(ask(&mut bmc, netfn::APP, 0x7f, &[]), [0xc1]);
    assert_eq!(ask(&mut bmc, 0x3e, 0x01, &[]), [0xc1]);
    assert_eq!(bmc.answered(), 8);
}

#[test]
fn events_wait_where_they_are_wanted() {
    let mut bmc = Bmc::new(config());
    bmc.inlet = 39.0;
    bmc.advance(Duration::from_secs(1));
    assert_eq!((bmc.sel.len(), bmc.effects()), (1, vec![]), "only logged");
    assert_eq!(ask(&mut bmc, netfn::APP, 0x35, &[]), [0x80]);

    assert_eq!(ask(&mut bmc, netfn::APP, 0x2e, &[0x0f]), [OK]);
    assert_eq!(ask(&mut bmc, netfn::APP, 0x2f, &[]), [OK, 0x0f]);
    assert_eq!(bmc.effects(), [Effect::Interrupts(true)]);
    bmc.inlet = 22.0;
    bmc.advance(Duration::from_secs(2));
    assert_eq!(bmc.effects(), [Effect::Attention(Attention::Interrupt)]);
    assert_eq!(ask(&mut bmc, netfn::APP, 0x31, &[]), [OK, 0x02]);
    let event = ask(&mut bmc, netfn::APP, 0x35, &[]);
    assert_eq!((event.len(), &event[1..4]), (17, &[2, 0, 2][..]));
    assert_eq!(event[13], 0x81, "a state ended");
    assert_eq!(bmc.effects(), [Effect::Attention(Attention::None)]);
    assert_eq!(ask(&mut bmc, netfn::APP, 0x31, &[]), [OK, 0]);

    bmc.inlet = 50.0;
    bmc.advance(Duration::from_secs(3));
    assert_eq!(bmc.effects(), [Effect::Attention(Attention::Interrupt)]);
    assert_eq!(ask(&mut bmc, netfn::APP, 0x30, &[0x02]), [OK]);
    assert_eq!(bmc.effects(), [Effect::Attention(Attention::None)]);
}

#[test]
fn a_machine_that_forgot_is_told_again() {
    let mut bmc = Bmc::new(config());
    ask(&mut bmc, netfn::APP, 0x2e, &[0x0d]);
    bmc.inlet = 39.0;
    bmc.advance(Duration::from_secs(1));
    let told = [
        Effect::Interrupts(true),
        Effect::Attention(Attention::Shown),
    ];
    assert_eq!(bmc.effects(), told);
    assert_eq!(bmc.effects(), []);
    bmc.tell_again();
    assert_eq!(bmc.effects(), told);
}

#[test]
fn power_is_read() {
    let mut bmc = Bmc::new(config());
    ask(
        &mut bmc,
        netfn::OEM,
        0x01,
        &[0xd9, 0x7e, 0, 0, 100, 100, 80, 50],
    );
    bmc.advance(Duration::from_secs(60));
    let reading = dcmi(&mut bmc, 0x02, &[1, 0, 0]);
    assert_eq!((reading[0], reading.len()), (OK, 18));
    let watts: Vec<u16> = reading[1..9].chunks(2).map(word).collect();
    assert_eq!((watts[0], watts[2]), (137, 137), "80 + 45 + 24 / 2");
    assert!(watts[1] < 84 && (130..137).contains(&watts[3]), "{watts:?}");
    assert_eq!(reading[9..13], (EPOCH + 60).to_le_bytes());
    assert_eq!(reading[13..17], 60_000u32.to_le_bytes());
    assert_eq!(reading[17], 0x40);
    let recent = dcmi(&mut bmc, 0x02, &[2, 0x05, 0]);
    assert_eq!((word(&recent[3..5]), word(&recent[7..9])), (137, 137));
    assert_eq!(recent[13..17], [0x05, 0, 0, 0]);
    assert_eq!(dcmi(&mut bmc, 0x02, &[2, 0x06, 0]), [0xc9]);
    assert_eq!(dcmi(&mut bmc, 0x02, &[3, 0, 0]), [0xcc]);
    let sensor = ask(&mut bmc, netfn::SENSOR, 0x2d, &[POWER]);
    assert_eq!((sensor[0], sensor[1]), (OK, 137));
}

#[test]
fn the_limit_reads_back() {
    let mut bmc = Bmc::new(config());
    let unset = dcmi(&mut bmc, 0x03, &[0, 0]);
    assert_eq!((unset[0], unset.len()), (0x80, 14));
    assert_eq!(dcmi(&mut bmc, 0x05, &[1, 0, 0]), [0xd5]);
    let limit = [0, 0, 0, 0x11, 120, 0, 0xe8, 0x03, 0, 0, 0, 0, 2, 0];
    assert_eq!(dcmi(&mut bmc, 0x04, &limit), [OK]);
    assert_eq!(dcmi(&mut bmc, 0x03, &[0, 0])[0], 0x80, "not active");
    assert_eq!(dcmi(&mut bmc, 0x05, &[1, 0, 0]), [OK]);
    assert_eq!(
        dcmi(&mut bmc, 0x03, &[0, 0]),
        [&[OK, 0, 0], &limit[3..]].concat()
    );
    for (at, value, code) in [(4, 79, 0x84), (6, 99, 0x85), (12, 61, 0x89), (3, 2, 0xcc)] {
        let mut bad = limit;
        bad[at] = value;
        bad[7] = if at == 6 { 0 } else { bad[7] };
        assert_eq!(dcmi(&mut bmc, 0x04, &bad), [code]);
    }
    assert_eq!(dcmi(&mut bmc, 0x03, &[0, 0])[4], 120, "as it was");
    assert_eq!(dcmi(&mut bmc, 0x05, &[0, 0, 0]), [OK]);
    assert_eq!(dcmi(&mut bmc, 0x03, &[0, 0])[0], 0x80);
}

#[test]
fn an_exceeded_limit_is_logged() {
    for (action, chassis) in [(0x00, None), (0x11, None), (0x01, Some(POWER_DOWN))] {
        let mut bmc = Bmc::new(config());
        dcmi(
            &mut bmc,
            0x04,
            &[0, 0, 0, action, 100, 0, 0xe8, 3, 0, 0, 0, 0, 1, 0],
        );
        dcmi(&mut bmc, 0x05, &[1, 0, 0]);
        ask(
            &mut bmc,
            netfn::OEM,
            0x01,
            &[0xd9, 0x7e, 0, 0, 100, 100, 100, 100],
        );
        bmc.advance(Duration::from_secs(10));
        assert_eq!(bmc.sel.len(), usize::from(action != 0));
        assert_eq!(bmc.chassis.asked, chassis);
        if action != 0 {
            let entry = ask(&mut bmc, netfn::STORAGE, 0x43, &[0, 0, 0, 0, 0, 0xff]);
            assert_eq!(
                entry[13..],
                [0x0b, POWER, LIMIT, LIMIT_EXCEEDED, 0xff, 0xff]
            );
        }
    }
}

#[test]
fn dcmi_tells_what_it_can() {
    let mut bmc = Bmc::new(config());
    for (parameter, data) in [
        (1, &[0, 1, 1][..]),
        (2, &[0, 2, 0, 0, 1]),
        (3, &[0x20, 0]),
        (4, &[0xff; 3]),
        (5, &[4, 0x05, 0x0f, 0x1e, 0x41]),
    ] {
        let wanted = [&[OK, 1, 5, 2], data].concat();
        assert_eq!(dcmi(&mut bmc, 0x01, &[parameter]), wanted);
    }
    assert_eq!(dcmi(&mut bmc, 0x01, &[6]), [0xc9]);
    assert_eq!(
        dcmi(&mut bmc, 0x07, &[1, 0x40, 0, 0]),
        [OK, 1, 1, 1, 0],
        "the inlet's record"
    );
    assert_eq!(dcmi(&mut bmc, 0x07, &[1, 0x41, 0, 0]), [OK, 0, 0]);
    assert_eq!(dcmi(&mut bmc, 0x07, &[2, 0x40, 0, 0]), [0xc9]);
    assert_eq!(dcmi(&mut bmc, 0x55, &[]), [0xc1]);
}

#[test]
fn cpus_are_set_all_or_none() {
    let mut bmc = Bmc::new(config());
    let maker = [0xd9, 0x7e, 0];
    let mut oem =
        |command, data: &[u8]| ask(&mut bmc, netfn::OEM, command, &[&maker, data].concat());
    assert_eq!(oem(0x01, &[0, 100, 100, 100, 101]), [0xc9]);
    assert_eq!(oem(0x01, &[1, 100, 100, 100, 100]), [0xc9]);
    assert_eq!(oem(0x01, &[0, 100]), [0xc7]);
    let model = [&[OK], &maker[..], &80_000u32.to_le_bytes()].concat();
    let at_rest = [&model[..], &80_000u32.to_le_bytes(), &[0, 2, 5]].concat();
    assert_eq!(oem(0x02, &[]), at_rest);
    assert_eq!(oem(0x01, &[1, 60, 50]), [OK, 0xd9, 0x7e, 0]);
    assert_eq!(oem(0x02, &[])[8..12], 86_000u32.to_le_bytes());
    assert_eq!(
        ask(&mut bmc, netfn::OEM, 0x01, &[1, 2, 3, 0, 0, 0]),
        [0xc1],
        "another maker"
    );
}

#[test]
fn a_reset_keeps_the_log_and_the_platform() {
    let mut bmc = Bmc::new(config());
    ask(&mut bmc, netfn::APP, 0x2e, &[0x0f]);
    bmc.effects();
    dcmi(
        &mut bmc,
        0x04,
        &[0, 0, 0, 0x11, 100, 0, 0xe8, 3, 0, 0, 0, 0, 1, 0],
    );
    ask(&mut bmc, netfn::OEM, 0x01, &[0xd9, 0x7e, 0, 0, 100, 100]);
    bmc.inlet = 39.0;
    bmc.advance(Duration::from_secs(30));
    assert_eq!(ask(&mut bmc, netfn::APP, 0x02, &[]), [OK]);
    assert_eq!(bmc.effects(), [Effect::Interrupts(false)]);
    assert_eq!(ask(&mut bmc, netfn::APP, 0x01, &[]), [0xd2]);
    bmc.advance(Duration::from_secs(30) + RESET_TIME);
    assert_eq!(ask(&mut bmc, netfn::APP, 0x01, &[])[0], OK);
    assert_eq!(ask(&mut bmc, netfn::APP, 0x2f, &[]), [OK, 0x08]);
    assert_eq!(bmc.sel.len(), 1);
    assert_eq!(dcmi(&mut bmc, 0x03, &[0, 0])[4], 0);
    assert_eq!(word(&dcmi(&mut bmc, 0x02, &[1, 0, 0])[1..3]), 125);
}

#[test]
fn the_clock_can_be_set() {
    let mut bmc = Bmc::new(config());
    bmc.advance(Duration::from_secs(5));
    assert_eq!(
        ask(&mut bmc, netfn::STORAGE, 0x48, &[])[1..],
        (EPOCH + 5).to_le_bytes()
    );
    assert_eq!(
        ask(&mut bmc, netfn::STORAGE, 0x49, &1000u32.to_le_bytes()),
        [OK]
    );
    bmc.advance(Duration::from_secs(7));
    assert_eq!(
        ask(&mut bmc, netfn::STORAGE, 0x48, &[])[1..],
        1002u32.to_le_bytes()
    );
}

proptest! {
    /// Whatever comes, it answers: with the request's function and command, and not too much.
    #[test]
    fn any_request_is_answered(
        requests in prop::collection::vec(
            (0u8..0x40, any::<u8>(), prop::collection::vec(any::<u8>(), 0..20)), 1..60),
    ) {
        let mut bmc = Bmc::new(config());
        let known = [netfn::CHASSIS, netfn::SENSOR, netfn::APP, netfn::STORAGE, netfn::GROUP, netfn::OEM];
        for (i, (function, command, data)) in requests.into_iter().enumerate() {
            bmc.advance(Duration::from_secs(i as u64));
            let function = known[usize::from(function) % known.len()];
            let response = bmc.handle(&[&[function << 2, command][..], &data].concat()).unwrap();
            prop_assert!(response.len() >= 3 && response.len() <= 260);
            prop_assert_eq!(&response[..2], &[(function | 1) << 2, command][..]);
            bmc.effects();
        }
    }
}
