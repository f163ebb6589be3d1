// SPDX-License-Identifier: GPL-2.0

#![cfg(not(loom))]

use super::*;
use crate::wire::{Address, AppId, Component, Flags, Kind};
use proptest::{collection::vec, prelude::*};
use std::collections::VecDeque;

fn app(name: &str) -> AppId {
    AppId::new(name.as_bytes()).unwrap()
}

fn vm(vm_id: u32) -> Component {
    Component::Vm {
        mvm_ip: [7; 16],
        vm_id,
    }
}

fn header(sender: u8, to: Component, priority: u8) -> Header {
    Header {
        source: Address::new(vm(sender.into()), app("From")),
        priority,
        ..Header::new(Kind::Data, Address::new(to, app("To")), 0)
    }
}

fn flow(sender: u8, to: Component, priority: u8) -> Flow {
    Flow::of(&header(sender, to, priority).encode())
}

#[test]
fn a_flow_is_a_sender_a_receiver_and_a_class() {
    let one = flow(1, vm(3), 10);
    assert_eq!(one, flow(1, vm(3), 63));
    for other in [
        flow(2, vm(3), 10),
        flow(1, vm(4), 10),
        flow(1, vm(3), 64),
        flow(1, Component::Stable([3; 16]), 10),
    ] {
        assert_ne!(one, other);
    }
    assert_eq!(flow(1, vm(3), 255).class(), CLASSES - 1);
}

#[test]
fn names_of_one_component_may_meet() {
    let nowhere = Component::Vm {
        mvm_ip: [0; 16],
        vm_id: 3,
    };
    let (stable, other) = (Component::Stable([3; 16]), Component::Stable([4; 16]));
    for (a, b, meet) in [
        (vm(3), vm(3), true),
        (vm(3), nowhere, true),
        (vm(3), vm(4), false),
        (vm(3), stable, true),
        (stable, other, false),
        (Component::Mvm, vm(3), true),
        (Component::Platform, vm(3), true),
    ] {
        let (a, b) = (flow(1, a, 0), flow(1, b, 0));
        assert!(a.is_like(&b));
        assert_eq!(a.may_meet(&b, There::Many), meet);
        assert_eq!(b.may_meet(&a, There::Many), meet);
        // A guest that has migrated.
        assert!(a.may_meet(&b, There::OneGuest));
    }
    let one = flow(1, vm(3), 0);
    // A sender that has migrated.
    let later = flow(2, vm(3), 0);
    assert!(one.is_like(&later) && one.may_meet(&later, There::Many));
    let mut of_another = header(1, vm(3), 0);
    of_another.source.app = Some(app("Other"));
    for other in [flow(1, vm(3), 64), Flow::of(&of_another.encode())] {
        assert!(!one.is_like(&other) && !one.may_meet(&other, There::OneGuest));
    }
}

#[test]
fn what_comes_back_is_a_flow_of_its_own() {
    let data = header(1, vm(3), 130);
    let mut back = data;
    back.kind = Kind::Undeliverable;
    let (data, back) = (Flow::of(&data.encode()), Flow::of(&back.encode()));
    assert!(data != back && !data.may_meet(&back, There::OneGuest));
    let held = [Held {
        flow: data,
        told: true,
    }];
    assert_eq!(before(&held, &back, There::OneGuest), Before::Nothing);
    assert_eq!(bytes(&Note::Hold(back))[..8], [2, 2, 1, 0, 0, 0, 0, 0]);
    assert_eq!(
        Note::decode(&bytes(&Note::GoOn(back))),
        Some(Note::GoOn(back))
    );
}

#[test]
fn a_question_is_in_no_flow() {
    let mut question = header(1, Component::Platform, 0);
    question.kind = Kind::Discover;
    assert!(!Header::is_question(&question.encode()));
    question.flags = Flags::BROADCAST.union(Flags::REQUEST);
    assert!(Header::is_question(&question.encode()));
    question.kind = Kind::Data;
    assert!(!Header::is_question(&question.encode()));
}

fn bytes(note: &Note) -> Vec<u8> {
    let (head, flow) = note.encode();
    [&head, flow].concat()
}

#[test]
fn notes_are_read_as_they_were_written() {
    let flow = flow(1, vm(3), 130);
    for (note, length) in [
        (Note::Pausing, SHORT_NOTE),
        (Note::Ready, SHORT_NOTE),
        (Note::Hold(flow), LONG_NOTE),
        (Note::GoOn(flow), LONG_NOTE),
    ] {
        assert_eq!(bytes(&note).len(), length);
        assert_eq!(Note::decode(&bytes(&note)), Some(note));
    }
    assert_eq!(bytes(&Note::Pausing), [1, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(bytes(&Note::Ready), [4, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(bytes(&Note::Hold(flow))[..8], [2, 2, 0, 0, 0, 0, 0, 0]);
}

proptest! {
    /// What is no note is not taken for one.
    #[test]
    fn a_note_has_one_form(word in 0u8..6, class in 0u8..6, back in 0u8..3, rest in vec(0u8..2, 0..200)) {
        let mut note = vec![word, class, back];
        note.extend(rest);
        if let Some(known) = Note::decode(&note) {
            prop_assert_eq!(bytes(&known), note);
        }
    }
}

/// A message: which receiver it goes to, by which name, and its number among those to that receiver.
#[derive(Clone, Copy, Debug)]
struct Message {
    receiver: usize,
    flow: Flow,
    number: u32,
}

/// The sender's end, as a link's inbox is.
struct Sender {
    there: There,
    is_ready: bool,
    outgoing: VecDeque<Message>,
    lane: VecDeque<Message>,
    held: Vec<Held>,
    behind: VecDeque<Message>,
}

impl Sender {
    fn new(there: There) -> Self {
        Self {
            there,
            is_ready: true,
            outgoing: VecDeque::new(),
            lane: VecDeque::new(),
            held: Vec::new(),
            behind: VecDeque::new(),
        }
    }

    fn next(&mut self) -> Option<Message> {
        if !self.is_ready {
            return None;
        }
        if let Some(message) = self.outgoing.pop_front() {
            return Some(message);
        }
        while let Some(message) = self.lane.pop_front() {
            let flow = message.flow;
            match before(&self.held, &flow, self.there) {
                Before::Nothing => return Some(message),
                Before::Own => {}
                Before::Another => self.held.push(Held { flow, told: false }),
            }
            self.behind.push_back(message);
        }
        None
    }

    fn go_on(&mut self, still: impl Fn(&Held) -> bool) {
        self.held.retain(|held| held.told && still(held));
        self.behind.append(&mut self.lane);
        std::mem::swap(&mut self.lane, &mut self.behind);
    }

    fn take(&mut self, note: &Note) {
        match note {
            Note::Hold(flow) => match self.held.iter_mut().find(|held| held.flow == *flow) {
                Some(held) => held.told = true,
                None => self.held.push(Held {
                    flow: *flow,
                    told: true,
                }),
            },
            Note::GoOn(flow) => self.go_on(|held| held.flow != *flow),
            Note::Ready => self.is_ready = true,
            Note::Pausing => unreachable!(),
        }
        assert!(self.held.iter().filter(|held| held.told).count() <= MAX_FLOWS);
    }
}

/// The receivers' end, as a link is. All receivers have room for so many.
struct Receiver {
    inboxes: Vec<VecDeque<Message>>,
    aside: Vec<(Flow, usize, Told, VecDeque<Message>)>,
    says_ready: bool,
}

const ROOM: usize = 2;
const RING: usize = 6;

impl Receiver {
    fn hand_over(&mut self) {
        for (_, receiver, _, messages) in &mut self.aside {
            let inbox = &mut self.inboxes[*receiver];
            while inbox.len() < ROOM {
                let Some(message) = messages.pop_front() else {
                    break;
                };
                inbox.push_back(message);
            }
        }
    }

    fn receive(&mut self, message: Message) {
        let known = self.aside.iter_mut().find(|(flow, receiver, ..)| {
            *flow == message.flow || flow.is_like(&message.flow) && *receiver == message.receiver
        });
        let inbox = &mut self.inboxes[message.receiver];
        match known {
            Some((.., messages)) if !messages.is_empty() || inbox.len() >= ROOM => {
                messages.push_back(message);
            }
            None if inbox.len() >= ROOM => {
                let messages = [message].into();
                self.aside
                    .push((message.flow, message.receiver, Told::default(), messages));
            }
            _ => inbox.push_back(message),
        }
    }

    fn tell(&mut self, notes: &mut VecDeque<Note>) {
        for (flow, _, told, messages) in &mut self.aside {
            let waits = !messages.is_empty();
            if let Some(note) = told.word(flow, waits) {
                told.tell(waits);
                notes.push_back(note);
            }
        }
        self.aside
            .retain(|(_, _, told, messages)| !messages.is_empty() || told.holds());
        if !self.says_ready {
            self.says_ready = true;
            notes.push_back(Note::Ready);
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// Sends to this receiver, by one of its two names.
    Send(usize, bool),
    /// The sender's VM has migrated, and has another name.
    RenameSender,
    /// That of all receivers has, if it is one.
    RenameReceivers,
    Transmit,
    Receive,
    Tell,
    TakeNote,
    Read(usize),
    /// The channel is made anew; what was in the ring is sent again.
    Anew,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0usize..3, any::<bool>()).prop_map(|(to, stable)| Step::Send(to, stable)),
        4 => Just(Step::Transmit),
        4 => Just(Step::Receive),
        2 => Just(Step::Tell),
        2 => Just(Step::TakeNote),
        2 => (0usize..3).prop_map(Step::Read),
        1 => Just(Step::Anew),
        1 => Just(Step::RenameSender),
        1 => Just(Step::RenameReceivers),
    ]
}

/// By a name of its VM, the flow to one of three VMs, or to one of three applications in the same VM.
fn flow_to(there: There, own: u8, guest: u32, to: usize, other_name: bool) -> Flow {
    let component = match (there, other_name) {
        (There::Many, true) => Component::Stable([to as u8; 16]),
        (There::Many, false) => vm(to as u32),
        (There::OneGuest, false) => vm(guest),
        (There::OneGuest, true) => Component::Vm {
            mvm_ip: [0; 16],
            vm_id: guest,
        },
    };
    let mut header = header(own, component, 0);
    if there == There::OneGuest {
        header.destination.app = Some(app(["To0", "To1", "To2"][to]));
    }
    Flow::of(&header.encode())
}

proptest! {
    /// Of one sender each receiver gets all, each once and in order, by whatever names; and a receiver
    /// that does not read stops no other.
    #[test]
    fn a_full_receiver_stops_its_senders_alone(is_guest: bool, steps in vec(step(), 1..400)) {
        let there = if is_guest { There::OneGuest } else { There::Many };
        let mut sender = Sender::new(there);
        let mut receiver = Receiver { inboxes: vec![VecDeque::new(); 3], aside: vec![], says_ready: true };
        let (mut ring, mut notes) = (VecDeque::new(), VecDeque::new());
        let (mut sent, mut read) = ([0; 3], [0; 3]);
        let (mut own, mut guest) = (1, 5);
        let mut read_one = |receiver: &mut Receiver, at: usize| {
            let Some(message) = receiver.inboxes[at].pop_front() else {
                return false;
            };
            assert_eq!((message.receiver, message.number), (at, read[at]));
            read[at] += 1;
            true
        };
        let transmit = |sender: &mut Sender, ring: &mut VecDeque<Message>| {
            while ring.len() < RING {
                let Some(message) = sender.next() else { break };
                ring.push_back(message);
            }
        };
        for step in steps {
            match step {
                Step::Send(to, other_name) => {
                    sender.lane.push_back(Message {
                        receiver: to,
                        flow: flow_to(there, own, guest, to, other_name),
                        number: sent[to],
                    });
                    sent[to] += 1;
                }
                Step::RenameSender => own ^= 3,
                Step::RenameReceivers => guest ^= 3,
                Step::Transmit => transmit(&mut sender, &mut ring),
                Step::Receive => {
                    receiver.hand_over();
                    if let Some(message) = ring.pop_front() {
                        receiver.receive(message);
                    }
                }
                Step::Tell => receiver.tell(&mut notes),
                Step::TakeNote => {
                    if let Some(note) = notes.pop_front() {
                        sender.take(&note);
                    }
                }
                Step::Read(at) => {
                    read_one(&mut receiver, at);
                }
                Step::Anew => {
                    notes.clear();
                    ring.append(&mut sender.outgoing);
                    std::mem::swap(&mut ring, &mut sender.outgoing);
                    (sender.is_ready, receiver.says_ready) = (false, false);
                    sender.go_on(|_| false);
                    for (_, _, told, _) in &mut receiver.aside {
                        *told = Told::default();
                    }
                    receiver.aside.retain(|(_, _, _, messages)| !messages.is_empty());
                }
            }
        }
        // The first does not read from now on; the others get all of theirs, whatever is left of its.
        let mut settle = |readers: core::ops::Range<usize>| {
            for _ in 0..2000 {
                receiver.hand_over();
                receiver.tell(&mut notes);
                notes.drain(..).for_each(|note| sender.take(&note));
                transmit(&mut sender, &mut ring);
                ring.drain(..).for_each(|message| receiver.receive(message));
                readers.clone().for_each(|at| while read_one(&mut receiver, at) {});
            }
        };
        settle(1..3);
        settle(0..3);
        prop_assert_eq!(read, sent);
    }
}
