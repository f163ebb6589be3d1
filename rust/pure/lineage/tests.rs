// SPDX-License-Identifier: GPL-2.0

//! Two honest ends whose channel is cut at any moment, and counts that no honest end has.

#![cfg(not(loom))]

use super::*;
use proptest::prelude::*;
use std::collections::VecDeque;

/// Messages that a ring holds.
const RING: usize = 4;

/// One end of a link, as the module's links are, with numbers for messages.
#[derive(Default)]
struct End {
    lineage: Option<Lineage>,
    /// Numbers given to messages so far.
    written: u32,
    /// To go into the ring before anything new, and what is new.
    replay: VecDeque<u32>,
    inbox: VecDeque<u32>,
    /// In the ring, or taken from it without our knowing.
    sent: VecDeque<u32>,
    /// What came from the other end.
    got: Vec<u32>,
    /// What came back to its sender.
    returned: Vec<u32>,
}

impl End {
    fn lineage(&mut self) -> &mut Lineage {
        self.lineage.as_mut().expect("it has been connected")
    }

    fn write(&mut self) {
        self.inbox.push_back(self.written);
        self.written += 1;
    }

    fn transmit(&mut self, ring: &mut VecDeque<u32>) {
        while ring.len() < RING {
            let Some(message) = self.replay.pop_front().or_else(|| self.inbox.pop_front()) else {
                return;
            };
            ring.push_back(message);
            self.sent.push_back(message);
            self.lineage().count_sent();
        }
    }

    fn receive(&mut self, ring: &mut VecDeque<u32>) {
        if let Some(message) = ring.pop_front() {
            self.got.push(message);
            self.lineage().count_received();
        }
    }

    /// Forgets what the other end has taken out of this ring.
    fn forget(&mut self, ring: &VecDeque<u32>) {
        while self.sent.len() > ring.len() {
            self.sent.pop_front();
            self.lineage().count_taken();
        }
    }

    /// A new channel: the other end has the first of what was sent.
    fn attach(&mut self, had: u64) {
        for _ in 0..had {
            self.sent.pop_front().expect("no more than was sent");
        }
        self.sent.append(&mut self.replay);
        self.replay.append(&mut self.sent);
    }
}

/// Both ends and their rings.
struct World {
    front: End,
    back: End,
    up: VecDeque<u32>,
    down: VecDeque<u32>,
    connected: bool,
    next_fresh: u64,
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Write(Side),
    Transmit(Side),
    Receive(Side),
    /// Looks what the other end has taken.
    Forget(Side),
    /// The channel is gone, with all that was in it.
    Cut,
    Connect,
    /// The backend takes the rings, and the frontend never hears of it.
    ConnectUnheard,
    /// In order: the frontend waits until its ring is empty, and the backend forgets the link.
    SuspendAndMove,
}

#[derive(Clone, Copy, Debug)]
enum Side {
    Front,
    Back,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            front: End {
                lineage: Some(Lineage::new(NONE)),
                ..End::default()
            },
            back: End::default(),
            up: VecDeque::new(),
            down: VecDeque::new(),
            connected: false,
            next_fresh: 1,
        };
        world.connect(true);
        world
    }

    /// An end, the ring that it fills, and the one that it empties.
    fn side(&mut self, side: Side) -> (&mut End, &mut VecDeque<u32>, &mut VecDeque<u32>) {
        match side {
            Side::Front => (&mut self.front, &mut self.up, &mut self.down),
            Side::Back => (&mut self.back, &mut self.down, &mut self.up),
        }
    }

    fn cut(&mut self) {
        self.connected = false;
        self.up.clear();
        self.down.clear();
    }

    fn connect(&mut self, heard: bool) {
        self.cut();
        let fresh = self.next_fresh;
        self.next_fresh += 1;
        let offer = self.front.lineage().offer(fresh);
        let known = self.back.lineage.as_mut();
        let answer = match known.and_then(|lineage| lineage.go_on(&offer).ok()) {
            Some((answer, had)) => {
                self.back.attach(had);
                answer
            }
            None => {
                let (lineage, answer) = Lineage::begin(&offer);
                let mut ended = std::mem::take(&mut self.back);
                ended.returned.append(&mut ended.sent.into());
                ended.returned.append(&mut ended.replay.into());
                ended.returned.append(&mut ended.inbox.into());
                self.back = End {
                    lineage: Some(lineage),
                    written: ended.written,
                    got: ended.got,
                    returned: ended.returned,
                    ..End::default()
                };
                answer
            }
        };
        if heard {
            let had = self.front.lineage().accept(&offer, &answer);
            self.front.attach(had.expect("an honest answer"));
            self.connected = true;
        }
    }

    fn run(&mut self, op: Op) {
        match op {
            Op::Write(side) => self.side(side).0.write(),
            Op::Transmit(_) | Op::Receive(_) | Op::Forget(_) if !self.connected => {}
            Op::Transmit(side) => {
                let (end, ring, _) = self.side(side);
                end.transmit(ring);
            }
            Op::Receive(side) => {
                let (end, _, ring) = self.side(side);
                end.receive(ring);
            }
            Op::Forget(side) => {
                let (end, ring, _) = self.side(side);
                end.forget(ring);
            }
            Op::Cut => self.cut(),
            Op::Connect => self.connect(true),
            Op::ConnectUnheard => self.connect(false),
            Op::SuspendAndMove => {
                if !self.connected {
                    return;
                }
                while !self.up.is_empty() {
                    self.run(Op::Receive(Side::Back));
                }
                self.run(Op::Forget(Side::Front));
                self.run(Op::Forget(Side::Back));
                self.back.lineage = None;
                self.cut();
            }
        }
    }

    /// Lets all that is under way arrive.
    fn settle(&mut self) {
        self.connect(true);
        for _ in 0..400 {
            for side in [Side::Front, Side::Back] {
                self.run(Op::Transmit(side));
                self.run(Op::Receive(side));
                self.run(Op::Forget(side));
            }
        }
    }
}

fn any_side() -> impl Strategy<Value = Side> {
    prop_oneof![Just(Side::Front), Just(Side::Back)]
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => any_side().prop_map(Op::Write),
        6 => any_side().prop_map(Op::Transmit),
        6 => any_side().prop_map(Op::Receive),
        3 => any_side().prop_map(Op::Forget),
        1 => Just(Op::Cut),
        2 => Just(Op::Connect),
        1 => Just(Op::ConnectUnheard),
    ]
}

fn numbers(count: u32) -> Vec<u32> {
    (0..count).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn whatever_is_cut_all_arrives_once_and_in_order(
        ops in prop::collection::vec(any_op(), 0..200),
    ) {
        let mut world = World::new();
        for op in ops {
            world.run(op);
        }
        world.settle();
        prop_assert_eq!(&world.back.got, &numbers(world.front.written));
        prop_assert_eq!(&world.front.got, &numbers(world.back.written));
        prop_assert!(world.back.returned.is_empty());
    }

    /// To another backend, which knows nothing of the link: what the guest sends all arrives, and
    /// what was under way to it arrives or comes back.
    #[test]
    fn a_guest_that_suspends_in_order_may_move_to_a_stranger(
        ops in prop::collection::vec(
            prop_oneof![30 => any_op(), 1 => Just(Op::SuspendAndMove)],
            0..200,
        ),
    ) {
        let mut world = World::new();
        for op in ops {
            world.run(op);
        }
        world.settle();
        prop_assert_eq!(&world.back.got, &numbers(world.front.written));
        prop_assert!(world.front.got.is_sorted());
        let mut all = [world.front.got, world.back.returned].concat();
        all.sort_unstable();
        prop_assert_eq!(all, numbers(world.back.written));
    }

    #[test]
    fn no_count_of_a_peer_is_believed_that_it_cannot_have(
        sent in 0u64..50, taken in 0u64..50, said in prop_oneof![0u64..100, any::<u64>()],
    ) {
        let taken = taken.min(sent);
        let mut lineage = Lineage::new(7);
        (0..sent).for_each(|_| lineage.count_sent());
        (0..taken).for_each(|_| lineage.count_taken());
        let before = lineage;
        let offer = Offer { link: 7, fresh: 8, received: said };
        let result = lineage.go_on(&offer).map(|(_, had)| had);
        if (taken..=sent).contains(&said) {
            prop_assert_eq!(result, Ok(said - taken));
        } else {
            prop_assert_eq!(result, Err(Mismatch));
            prop_assert_eq!(lineage, before);
        }
        let answer = Answer { link: 7, received: said };
        let mut front = before;
        prop_assert_eq!(front.accept(&before.offer(8), &answer), result);
    }
}

#[test]
fn only_a_lineage_of_that_name_goes_on() {
    let offer = |link| Offer {
        link,
        fresh: 9,
        received: 0,
    };
    assert!(Lineage::new(7).go_on(&offer(7)).is_ok());
    for (own, link) in [(7, 8), (7, NONE), (NONE, NONE)] {
        assert_eq!(Lineage::new(own).go_on(&offer(link)), Err(Mismatch));
    }
}

#[test]
fn an_answer_names_one_of_the_two_lineages_of_the_offer() {
    let offer = Lineage::new(7).offer(9);
    for (link, received, expected) in [
        (7, 0, Ok(0)),
        (9, 0, Ok(0)),
        (9, 1, Err(Mismatch)),
        (8, 0, Err(Mismatch)),
        (NONE, 0, Ok(0)),
        (NONE, 1, Err(Mismatch)),
    ] {
        let answer = Answer { link, received };
        assert_eq!(Lineage::new(7).accept(&offer, &answer), expected, "{link}");
    }
}
