// SPDX-License-Identifier: MIT OR Apache-2.0

use super::*;

const LIMIT: Limit = Limit {
    action: 0x11,
    watts: 150,
    correction_ms: 2000,
    sampling_s: 1,
};

/// Get Power Limit's response for [`LIMIT`], with this completion code.
fn limit_read(code: u8) -> Vec<u8> {
    let mut response = vec![code, 0xdc, 0, 0, 0x11];
    response.extend(150u16.to_le_bytes());
    response.extend(2000u32.to_le_bytes());
    response.extend([0, 0, 1, 0]);
    response
}

fn raw(netfn: u8, command: u8, data: &[u8]) -> Operation {
    Operation::Raw(Request {
        netfn,
        command,
        data: Bytes::new(data).unwrap(),
    })
}

fn answered(next: Next) -> Answer {
    match next {
        Next::Answer(answer) => answer,
        Next::Send(request) => panic!("one more request: {request:?}"),
    }
}

#[test]
fn operations_read_back_as_they_were_written() {
    let all = [
        (App::Power, Operation::PowerReading),
        (App::Power, Operation::PowerLimit),
        (App::Power, Operation::SetPowerLimit(LIMIT)),
        (App::Power, Operation::ActivatePowerLimit(true)),
        (App::Power, Operation::ActivatePowerLimit(false)),
        (App::Sensors, Operation::Sensor(0x31)),
        (App::Sensors, Operation::SensorRecord(0x1234, 16, 32)),
        (App::Sel, Operation::SelInfo),
        (App::Sel, Operation::SelEntry(0xffff)),
        (App::Chassis, Operation::ChassisStatus),
        (App::ChassisControl, Operation::ChassisControl(3)),
        (App::Raw, raw(0x06, 0x01, &[])),
        (App::Admin, raw(0x00, 0x02, &[0])),
    ];
    for (app, operation) in all {
        let payload = operation.encode();
        assert_eq!(Operation::decode(app, &payload), Ok(operation));
        if matches!(app, App::Raw | App::Admin) {
            continue;
        }
        for wrong in [&payload[..payload.len() - 1], &[&*payload, &[0]].concat()] {
            assert_eq!(
                Operation::decode(app, wrong),
                Err(Status::Malformed),
                "{app:?} {wrong:?}"
            );
        }
    }
}

#[test]
fn what_is_not_asked_for_here_is_refused() {
    let cases: [(App, &[u8], Status); 15] = [
        (App::Power, &[], Status::Malformed),
        (App::Power, &[9], Status::Malformed),
        (App::Power, &[4, 2], Status::Malformed),
        (App::Chassis, &[2, 0], Status::Malformed),
        (App::ChassisControl, &[1, 6], Status::Malformed),
        (App::Raw, &[0x06], Status::Malformed),
        (App::Raw, &[0x07, 0x01], Status::Malformed),
        (App::Admin, &[0x40, 0x01], Status::Malformed),
        // Chassis control, reset, firmware, users, a maker's, another group's, and SEL clear.
        (App::Raw, &[0x00, 0x02, 0], Status::Refused),
        (App::Raw, &[0x06, 0x02], Status::Refused),
        (App::Raw, &[0x08, 0x00], Status::Refused),
        (App::Raw, &[0x06, 0x47, 2, 2], Status::Refused),
        (App::Raw, &[0x2c, 0x02, 0x00], Status::Refused),
        (App::Raw, &[0x0a, 0x47], Status::Refused),
        // The driver's.
        (App::Admin, &[0x06, 0x34], Status::Refused),
    ];
    for (app, payload, status) in cases {
        assert_eq!(
            Operation::decode(app, payload),
            Err(status),
            "{app:?} {payload:x?}"
        );
    }
    let too_long = [0x06; MAX_DATA + 3];
    assert_eq!(
        Operation::decode(App::Admin, &too_long),
        Err(Status::Malformed)
    );
}

#[test]
fn nothing_that_writes_is_harmless() {
    // Those of the specification that change something, by netfn.
    let writes: [(u8, &[u8]); 5] = [
        (0x00, &[0x02, 0x03, 0x04, 0x05, 0x06, 0x08, 0x0a, 0x0b]),
        (
            0x04,
            &[
                0x00, 0x02, 0x10, 0x12, 0x16, 0x17, 0x22, 0x24, 0x26, 0x28, 0x2a, 0x2e, 0x30,
            ],
        ),
        (
            0x06,
            &[
                0x02, 0x03, 0x05, 0x06, 0x22, 0x24, 0x2e, 0x30, 0x32, 0x33, 0x34, 0x35, 0x39, 0x3a,
                0x3b, 0x40, 0x43, 0x45, 0x47, 0x48, 0x4c, 0x52, 0x56, 0x58, 0x60,
            ],
        ),
        (
            0x0a,
            &[
                0x12, 0x24, 0x25, 0x26, 0x27, 0x29, 0x44, 0x45, 0x46, 0x47, 0x49, 0x5b,
            ],
        ),
        (0x2c, &[0x04, 0x05, 0x08, 0x0a, 0x0b, 0x12]),
    ];
    for (netfn, commands) in writes {
        for &command in commands {
            let data = Bytes::new(&[0xdc]).unwrap();
            let request = Request {
                netfn,
                command,
                data,
            };
            assert!(!is_harmless(&request), "{netfn:#x} {command:#x}");
        }
    }
    for netfn in [0x02, 0x08, 0x0c, 0x2e, 0x30, 0x3e] {
        for command in 0..=255 {
            let data = Bytes::EMPTY;
            let request = Request {
                netfn,
                command,
                data,
            };
            assert!(!is_harmless(&request), "{netfn:#x} {command:#x}");
        }
    }
}

#[test]
fn a_reading_is_passed_on_if_it_can_be_one() {
    let operation = Operation::PowerReading;
    assert_eq!(&*operation.first().data, [0xdc, 1, 0, 0]);
    let mut response = vec![0, 0xdc];
    response.extend([
        80, 0, 70, 0, 170, 0, 90, 0, 1, 0, 0, 0, 0x60, 0xea, 0, 0, 0x40,
    ]);
    let answer = answered(operation.next(0, &response));
    assert_eq!((answer.status, answer.code), (Status::Answered, 0));
    let reading = Reading::decode(&answer.data).unwrap();
    assert_eq!(
        (
            reading.current,
            reading.minimum,
            reading.maximum,
            reading.average
        ),
        (80, 70, 170, 90)
    );
    assert_eq!((reading.period_ms, reading.is_active), (60_000, true));

    for nonsense in [&[][..], &[0], &response[..18], &[0, 1, 2, 3]] {
        let answer = answered(operation.next(0, nonsense));
        assert_eq!(answer.status, Status::Nonsense, "{nonsense:?}");
    }
    let refused = answered(operation.next(0, &[0xc1, 0xdc]));
    assert_eq!((refused.status, refused.code), (Status::Answered, 0xc1));
}

#[test]
fn what_is_set_is_read_back() {
    let set = Operation::SetPowerLimit(LIMIT);
    let get = Next::Send(Operation::PowerLimit.first());
    assert_eq!(set.next(0, &[0, 0xdc]), get);
    assert_eq!(answered(set.next(0, &[0x84, 0xdc])).code, 0x84);
    // Set and not yet active: the BMC says so by a completion code.
    let answer = answered(set.next(1, &limit_read(0x80)));
    assert_eq!(
        (answer.status, answer.code, answer.data[0]),
        (Status::Answered, 0, 0)
    );
    assert_eq!(Limit::decode(&answer.data[1..]), Some(LIMIT));

    let other = Operation::SetPowerLimit(Limit {
        watts: 151,
        ..LIMIT
    });
    assert_eq!(
        answered(other.next(1, &limit_read(0))).status,
        Status::Differs
    );

    let activate = Operation::ActivatePowerLimit(true);
    assert_eq!(activate.next(0, &[0, 0xdc]), get);
    assert_eq!(answered(activate.next(1, &limit_read(0))).data[0], 1);
    assert_eq!(
        answered(activate.next(1, &limit_read(0x80))).status,
        Status::Differs
    );
}

#[test]
fn there_may_be_no_limit() {
    let answer = answered(Operation::PowerLimit.next(0, &[0x80]));
    assert_eq!(
        (answer.status, &*answer.data),
        (Status::Answered, &[0; 10][..])
    );
    // An active one has to be told.
    let answer = answered(Operation::PowerLimit.next(0, &[0, 0xdc]));
    assert_eq!(answer.status, Status::Nonsense);
}

#[test]
fn a_record_is_read_with_a_reservation() {
    let record = Operation::SensorRecord(2, 5, 16);
    let Next::Send(second) = record.next(0, &[0, 0x34, 0x12]) else {
        panic!("no second request");
    };
    assert_eq!(&*second.data, [0x34, 0x12, 2, 0, 5, 16]);
    assert_eq!(
        answered(record.next(1, &[0, 3, 0, 7, 8])).status,
        Status::Answered
    );
    let too_long = [0; 20];
    assert_eq!(answered(record.next(1, &too_long)).status, Status::Nonsense);
}

#[test]
fn a_raw_answer_is_passed_on_with_any_code() {
    let answer = answered(raw(6, 1, &[]).next(0, &[0xc0, 1, 2]));
    assert_eq!(
        (answer.status, answer.code, &*answer.data),
        (Status::Answered, 0xc0, &[1, 2][..])
    );
}

/// Owners are letters, askers numbers.
type Few = Table<Vec<Option<Slot<char, u32>>>>;

fn table(places: usize) -> Few {
    let slots = (0..places).map(|_| None).collect();
    let limits = Limits {
        each: 3,
        sent: 2,
        lost_after: 1000,
    };
    Table::new(slots, limits)
}

const GET_ID: u8 = 0x01;

fn add(table: &mut Few, owner: char, asker: u32, expires: u64) -> Result<(), u32> {
    table.add(owner, asker, raw(0x06, GET_ID, &[]), expires)
}

fn all_done(table: &mut Few, now: u64) -> Vec<(u32, Status)> {
    let done = std::iter::from_fn(|| table.next_done(now));
    done.map(|(asker, answer)| (asker, answer.status)).collect()
}

#[test]
fn there_is_room_for_so_many_of_each_and_of_all() {
    let mut table = table(5);
    for asker in 0..3 {
        assert_eq!(add(&mut table, 'a', asker, 100), Ok(()));
    }
    assert_eq!(add(&mut table, 'a', 3, 100), Err(3));
    assert_eq!(add(&mut table, 'b', 4, 100), Ok(()));
    assert_eq!(add(&mut table, 'b', 5, 100), Ok(()));
    assert_eq!(add(&mut table, 'c', 6, 100), Err(6));
}

#[test]
fn who_has_fewer_on_their_way_is_next() {
    let mut table = table(8);
    for (owner, asker) in [('a', 0), ('a', 1), ('a', 2), ('b', 3)] {
        add(&mut table, owner, asker, 100).unwrap();
    }
    let first = table.next_to_send(0).unwrap().0;
    let second = table.next_to_send(0).unwrap().0;
    assert!(table.next_to_send(0).is_none(), "two are on their way");
    table.respond(second, 0x07, GET_ID, &[0]);
    assert_eq!(all_done(&mut table, 0), [(3, Status::Answered)]);
    table.respond(first, 0x07, GET_ID, &[0]);
    assert_eq!(all_done(&mut table, 0), [(0, Status::Answered)]);
}

#[test]
fn an_answer_is_for_who_asked_whatever_the_order() {
    let mut table = table(8);
    add(&mut table, 'a', 1, 100).unwrap();
    add(&mut table, 'a', 2, 100).unwrap();
    let one = table.next_to_send(0).unwrap().0;
    let two = table.next_to_send(0).unwrap().0;
    table.respond(two, 0x07, GET_ID, &[0, 22]);
    table.respond(99, 0x07, GET_ID, &[0, 99]);
    table.respond(one, 0x07, GET_ID, &[0, 11]);
    table.respond(one, 0x07, GET_ID, &[0, 33]);
    let mut told: Vec<_> = std::iter::from_fn(|| table.next_done(0)).collect();
    told.sort_by_key(|(asker, _)| *asker);
    assert_eq!((told[0].0, &*told[0].1.data), (1, &[11][..]));
    assert_eq!((told[1].0, &*told[1].1.data), (2, &[22][..]));
    assert_eq!(told.len(), 2);
    assert!(table.is_empty());
}

#[test]
fn the_answer_to_another_command_is_nonsense() {
    let mut table = table(1);
    add(&mut table, 'a', 1, 100).unwrap();
    let id = table.next_to_send(0).unwrap().0;
    table.respond(id, 0x07, 0x04, &[0, 0x55, 0]);
    assert_eq!(all_done(&mut table, 0), [(1, Status::Nonsense)]);
}

#[test]
fn who_waited_too_long_is_told_once_and_the_place_stays_taken() {
    let mut table = table(2);
    add(&mut table, 'a', 1, 100).unwrap();
    let id = table.next_to_send(0).unwrap().0;
    add(&mut table, 'b', 2, 50).unwrap();
    assert_eq!(all_done(&mut table, 49), []);
    // One that was not sent yet leaves.
    assert_eq!(all_done(&mut table, 50), [(2, Status::TimedOut)]);
    assert_eq!(all_done(&mut table, 100), [(1, Status::TimedOut)]);
    assert_eq!(all_done(&mut table, 101), []);
    assert!(!table.is_empty(), "the layer below has one still");
    table.respond(id, 0x07, GET_ID, &[0]);
    assert_eq!(all_done(&mut table, 102), []);
    assert!(table.is_empty());
}

#[test]
fn what_the_layer_has_lost_is_forgotten() {
    let mut table = table(1);
    add(&mut table, 'a', 1, 100).unwrap();
    table.next_to_send(10).unwrap();
    assert_eq!(all_done(&mut table, 100), [(1, Status::TimedOut)]);
    assert_eq!(all_done(&mut table, 1009), []);
    assert!(!table.is_empty());
    assert_eq!(all_done(&mut table, 1010), []);
    assert!(table.is_empty());
}

#[test]
fn without_a_bmc_everybody_is_told() {
    let mut table = table(4);
    for asker in 1..=3 {
        add(&mut table, 'a', asker, 100).unwrap();
    }
    let id = table.next_to_send(0).unwrap().0;
    table.not_sent(id, Status::Resetting);
    table.next_to_send(0).unwrap();
    table.gone();
    let told = all_done(&mut table, 0);
    assert_eq!(
        told,
        [
            (1, Status::Resetting),
            (2, Status::Absent),
            (3, Status::Absent)
        ]
    );
    assert!(table.is_empty());
}

#[test]
fn steps_of_one_operation_follow_each_other() {
    let mut table = table(1);
    let set = Operation::SetPowerLimit(LIMIT);
    table.add('a', 1, set, 100).unwrap();
    let (id, request) = table.next_to_send(0).unwrap();
    assert_eq!(request.command, 0x04);
    table.respond(id, 0x2d, 0x04, &[0, 0xdc]);
    let (id, request) = table.next_to_send(0).unwrap();
    assert_eq!(request.command, 0x03);
    table.respond(id, 0x2d, 0x03, &limit_read(0));
    let (asker, answer) = table.next_done(0).unwrap();
    assert_eq!(
        (asker, answer.status, answer.data[0]),
        (1, Status::Answered, 1)
    );
}
