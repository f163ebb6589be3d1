// SPDX-License-Identifier: GPL-2.0

//! Both ends of a link whose programs send to each other, die, and come back.
//!
//! What `rust/link.rs`, `rust/link/aside.rs` and `rust/inbox.rs` do with what has no receiver: it goes
//! back the way it came, and competes there with all that is sent. The rules of room and of flows are the
//! module's; rooms are smaller. What must hold: once those that live read, nothing is left on the way.

#![cfg(not(loom))]

use mgmt_pure::{
    pure::{
        flow::{before, Before, Flow, Held, Note, There, Told, MAX_FLOWS},
        quota::{Amount, Division},
    },
    wire::{Address, AppId, Component, Header, Kind},
};
use proptest::{collection::vec, prelude::*};
use std::collections::{BTreeMap, VecDeque};

/// As in the module, a 64th.
const CAPACITY: u32 = 64;
const LIMIT_WHILE_HELD: u32 = 2 * CAPACITY;
const LIMIT_OF_GUEST: u32 = 8 * CAPACITY;
const MOST_ASIDE: usize = 8;
const RING: usize = 3;
const APPS: usize = 4;

const BRIDGE: u64 = 0;
const LINK: u64 = 1;

fn room(messages: u32) -> Amount {
    Amount {
        bytes: messages,
        messages,
    }
}

/// A message between the applications of these numbers.
#[derive(Clone, Copy, Debug)]
struct Message {
    from: usize,
    to: usize,
    kind: Kind,
    principal: u64,
}

impl Message {
    fn flow(&self) -> Flow {
        let app = |number: usize| AppId::new(format!("app{number}").as_bytes()).unwrap();
        let header = Header {
            source: Address::new(Component::Mvm, app(self.from)),
            ..Header::new(self.kind, Address::new(Component::Mvm, app(self.to)), 0)
        };
        Flow::of(&header.encode())
    }

    /// What its sender is told, if it was not told something itself.
    fn undeliverable(&self, principal: u64) -> Option<Self> {
        (self.kind != Kind::Undeliverable).then_some(Self {
            from: self.to,
            to: self.from,
            kind: Kind::Undeliverable,
            principal,
        })
    }
}

/// A queue as those of the module.
struct Inbox {
    lane: VecDeque<Message>,
    held: Vec<Held>,
    behind: VecDeque<Message>,
    room: Division<u64, BTreeMap<u64, Amount>>,
}

impl Inbox {
    fn new() -> Self {
        Self {
            lane: VecDeque::new(),
            held: Vec::new(),
            behind: VecDeque::new(),
            room: Division::new(room(CAPACITY), BTreeMap::new()),
        }
    }

    fn push(&mut self, message: Message) -> Result<(), Message> {
        if !self.room.admits(message.principal, room(1), true) {
            return Err(message);
        }
        self.push_returned(message);
        Ok(())
    }

    fn push_returned(&mut self, message: Message) {
        self.room.charge(message.principal, room(1)).unwrap();
        self.lane.push_back(message);
    }

    fn pop(&mut self) -> Option<Message> {
        while let Some(message) = self.lane.pop_front() {
            let flow = message.flow();
            match before(&self.held, &flow, There::Many) {
                Before::Nothing => {
                    self.room.discharge(message.principal, room(1));
                    return Some(message);
                }
                Before::Own => {}
                Before::Another => self.held.push(Held { flow, told: false }),
            }
            self.behind.push_back(message);
        }
        None
    }

    fn take(&mut self, note: Note) {
        match note {
            Note::Hold(flow) => {
                self.held.retain(|held| held.flow != flow);
                self.held.push(Held { flow, told: true });
            }
            Note::GoOn(flow) => self.go_on(|held| held.told && held.flow != flow),
            Note::Pausing | Note::Ready => unreachable!(),
        }
    }

    fn go_on(&mut self, still: impl Fn(&Held) -> bool) {
        self.held.retain(still);
        self.behind.append(&mut self.lane);
        core::mem::swap(&mut self.lane, &mut self.behind);
    }

    fn go_on_with_all(&mut self) {
        self.go_on(|_| false);
    }

    fn holds(&self) -> u32 {
        self.room.used().messages
    }
}

enum Record {
    Message(Message),
    Note(Note),
}

/// Whom a message goes to: an application, or back to the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    App(usize),
    Back,
}

struct Waiting {
    flow: Flow,
    target: Target,
    told: Told,
    messages: VecDeque<Message>,
}

struct End {
    is_guest: bool,
    apps: [Option<Inbox>; APPS],
    inbox: Inbox,
    outgoing: VecDeque<Message>,
    aside: Vec<Waiting>,
    stopped: Option<(Flow, Message, Target)>,
    is_ready: bool,
    says_ready: bool,
}

impl End {
    fn new(is_guest: bool) -> Self {
        Self {
            is_guest,
            apps: std::array::from_fn(|_| Some(Inbox::new())),
            inbox: Inbox::new(),
            outgoing: VecDeque::new(),
            aside: Vec::new(),
            stopped: None,
            is_ready: true,
            says_ready: true,
        }
    }

    fn send(&mut self, from: usize, to: usize) {
        if self.apps[from]
            .as_ref()
            .is_some_and(|app| app.holds() <= CAPACITY)
        {
            let _ = self.inbox.push(Message {
                from,
                to,
                kind: Kind::Data,
                principal: LINK + 1 + from as u64,
            });
        }
    }

    /// Its application goes; what it had not read goes back.
    fn kill(&mut self, number: usize) {
        let Some(app) = self.apps[number].take() else {
            return;
        };
        for message in Iterator::chain(app.lane.iter(), &app.behind) {
            if let Some(back) = message.undeliverable(BRIDGE) {
                self.inbox.push_returned(back);
            }
        }
    }

    fn may_read(&self) -> bool {
        let limit = match (self.is_guest, self.inbox.held.is_empty()) {
            (true, _) => LIMIT_OF_GUEST,
            (false, true) => CAPACITY,
            (false, false) => LIMIT_WHILE_HELD,
        };
        self.inbox.holds() <= limit
    }

    fn hand_over(&mut self, message: Message, target: Target) -> Result<(), Message> {
        match target {
            Target::Back => self.inbox.push(message),
            Target::App(number) => match &mut self.apps[number] {
                Some(app) => app.push(message),
                // It has gone since.
                None => {
                    if let Some(back) = message.undeliverable(BRIDGE) {
                        self.inbox.push_returned(back);
                    }
                    Ok(())
                }
            },
        }
    }

    fn is_behind(&self, flow: &Flow) -> bool {
        let mut waiting = self.aside.iter();
        waiting.any(|waiting| waiting.flow == *flow && !waiting.messages.is_empty())
    }

    fn set_aside(&mut self, flow: Flow, message: Message, target: Target) -> Result<(), ()> {
        let waits: usize = self
            .aside
            .iter()
            .map(|waiting| waiting.messages.len())
            .sum();
        if waits == MOST_ASIDE {
            return Err(());
        }
        let known = self.aside.iter().position(|waiting| waiting.flow == flow);
        if known.is_none() && self.aside.len() == MAX_FLOWS {
            return Err(());
        }
        let index = known.unwrap_or_else(|| {
            self.aside.push(Waiting {
                flow,
                target,
                told: Told::default(),
                messages: VecDeque::new(),
            });
            self.aside.len() - 1
        });
        let waiting = &mut self.aside[index];
        if waiting.messages.is_empty() {
            waiting.target = target;
        }
        if waiting.target != target {
            return Err(());
        }
        waiting.messages.push_back(message);
        Ok(())
    }

    fn try_place(&mut self, flow: Flow, message: Message, target: Target) -> bool {
        if !self.is_behind(&flow) && self.hand_over(message, target).is_ok() {
            return true;
        }
        self.set_aside(flow, message, target).is_ok()
    }

    fn place(&mut self, flow: Flow, message: Message, target: Target) {
        if self.try_place(flow, message, target) {
            return;
        }
        // What goes back does not stop it, whatever its share.
        for waiting in &mut self.aside {
            if waiting.target == Target::Back {
                let back = waiting.messages.drain(..);
                back.for_each(|message| self.inbox.push_returned(message));
            }
        }
        if target == Target::Back {
            self.inbox.push_returned(message);
        } else if !self.try_place(flow, message, target) {
            self.stopped = Some((flow, message, target));
        }
    }

    fn hand_over_aside(&mut self) {
        let mut aside = std::mem::take(&mut self.aside);
        for waiting in &mut aside {
            while let Some(message) = waiting.messages.pop_front() {
                if let Err(message) = self.hand_over(message, waiting.target) {
                    waiting.messages.push_front(message);
                    break;
                }
            }
        }
        aside.retain(|waiting| !waiting.messages.is_empty() || waiting.told.holds());
        self.aside = aside;
    }

    fn take(&mut self, note: Note) {
        match note {
            Note::Ready => self.is_ready = true,
            note => self.inbox.take(note),
        }
    }

    /// Takes so many records from the ring.
    fn receive(&mut self, ring: &mut VecDeque<Record>, budget: usize) {
        while let (false, Some(Record::Note(note))) = (self.is_ready, ring.front()) {
            self.take(*note);
            ring.pop_front();
        }
        self.hand_over_aside();
        for _ in 0..budget {
            if let Some((flow, message, target)) = self.stopped.take() {
                self.place(flow, message, target);
            }
            if self.stopped.is_some() || !self.may_read() {
                return;
            }
            match ring.pop_front() {
                None => return,
                Some(Record::Note(note)) => self.take(note),
                Some(Record::Message(message)) => {
                    let flow = message.flow();
                    let message = Message {
                        principal: LINK,
                        ..message
                    };
                    if self.apps[message.to].is_some() {
                        self.place(flow, message, Target::App(message.to));
                    } else if let Some(back) = message.undeliverable(LINK) {
                        self.place(flow, back, Target::Back);
                    }
                }
            }
        }
    }

    /// Says what is to be held, as far as the ring has room. Whether it had room for all.
    fn tell(&mut self, ring: &mut VecDeque<Record>) -> bool {
        for waiting in &mut self.aside {
            let waits = !waiting.messages.is_empty();
            if let Some(note) = waiting.told.word(&waiting.flow, waits) {
                if ring.len() == RING {
                    return false;
                }
                waiting.told.tell(waits);
                ring.push_back(Record::Note(note));
            }
        }
        true
    }

    /// Fills the ring.
    fn transmit(&mut self, ring: &mut VecDeque<Record>) {
        if self.tell(ring) && !self.says_ready && ring.len() < RING {
            ring.push_back(Record::Note(Note::Ready));
            self.says_ready = true;
        }
        self.aside
            .retain(|waiting| !waiting.messages.is_empty() || waiting.told.holds());
        if !self.is_ready || !self.says_ready {
            return;
        }
        loop {
            let next = self.outgoing.pop_front().or_else(|| self.inbox.pop());
            match next {
                Some(message) if ring.len() < RING => ring.push_back(Record::Message(message)),
                left => {
                    left.into_iter()
                        .for_each(|left| self.outgoing.push_front(left));
                    return;
                }
            }
        }
    }

    /// It goes on in another channel. What it had in this ring goes out again.
    fn go_on_anew(&mut self, ring: &mut VecDeque<Record>) {
        for record in ring.drain(..).rev() {
            if let Record::Message(message) = record {
                self.outgoing.push_front(message);
            }
        }
        for waiting in &mut self.aside {
            waiting.told = Told::default();
        }
        self.aside.retain(|waiting| !waiting.messages.is_empty());
        self.inbox.go_on_with_all();
        (self.is_ready, self.says_ready) = (false, false);
    }

    fn is_idle(&self) -> bool {
        self.inbox.holds() == 0
            && self.outgoing.is_empty()
            && self.stopped.is_none()
            && self.aside.is_empty()
            && self.inbox.held.is_empty()
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// So many messages from one application to another at the other end.
    Send(usize, usize, usize, u8),
    Kill(usize, usize),
    Bind(usize, usize),
    Read(usize, usize, u8),
    Receive(usize, usize),
    Transmit(usize),
    /// Both go on in another channel.
    Anew,
}

fn step() -> impl Strategy<Value = Step> {
    let (end, app) = (0usize..2, 0..APPS);
    prop_oneof![
        4 => (end.clone(), app.clone(), app.clone(), 1u8..60)
            .prop_map(|(end, from, to, many)| Step::Send(end, from, to, many)),
        2 => (end.clone(), app.clone()).prop_map(|(end, app)| Step::Kill(end, app)),
        1 => (end.clone(), app.clone()).prop_map(|(end, app)| Step::Bind(end, app)),
        1 => (end.clone(), app.clone(), 1u8..60)
            .prop_map(|(end, app, many)| Step::Read(end, app, many)),
        6 => (end.clone(), 1usize..20).prop_map(|(end, budget)| Step::Receive(end, budget)),
        6 => end.prop_map(Step::Transmit),
        1 => Just(Step::Anew),
    ]
}

/// Whether nothing is left on the way when all that live read for long enough.
fn comes_to_rest(ends: &mut [End; 2], rings: &mut [VecDeque<Record>; 2]) -> bool {
    for _ in 0..10_000 {
        for (end, ring) in ends.iter_mut().zip(&mut *rings) {
            end.receive(ring, 64);
            for app in end.apps.iter_mut().flatten() {
                while app.pop().is_some() {}
            }
        }
        for (at, end) in ends.iter_mut().enumerate() {
            end.transmit(&mut rings[1 - at]);
        }
        if rings.iter().all(VecDeque::is_empty) && ends.iter().all(End::is_idle) {
            return true;
        }
    }
    false
}

/// All queues are full, then the programs of one end go, and a little later those of the other.
#[test]
fn one_end_goes_before_the_other() {
    for (first, apps) in [0, 1]
        .into_iter()
        .flat_map(|first| (1..=APPS).map(move |apps| (first, apps)))
    {
        for between in 0..100 {
            let mut ends = [End::new(false), End::new(true)];
            let mut rings = [VecDeque::new(), VecDeque::new()];
            let mut move_all = |ends: &mut [End; 2], times| {
                for _ in 0..times {
                    for (at, end) in ends.iter_mut().enumerate() {
                        end.receive(&mut rings[at], 3);
                        end.transmit(&mut rings[1 - at]);
                    }
                }
            };
            for _ in 0..100 {
                for end in &mut ends {
                    (0..apps).for_each(|app| end.send(app, app));
                }
                move_all(&mut ends, 3);
            }
            (0..apps).for_each(|app| ends[first].kill(app));
            move_all(&mut ends, between);
            (0..apps).for_each(|app| ends[1 - first].kill(app));
            assert!(
                comes_to_rest(&mut ends, &mut rings),
                "{first}, {apps}, {between}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whoever dies or stops reading in the middle of whatever: what is on its way ends.
    #[test]
    fn what_comes_back_does_not_stop_both_ends(steps in vec(step(), 1..600)) {
        let mut ends = [End::new(false), End::new(true)];
        // What each is sent.
        let mut rings = [VecDeque::new(), VecDeque::new()];
        for step in steps {
            match step {
                Step::Send(end, from, to, many) => {
                    (0..many).for_each(|_| ends[end].send(from, to));
                }
                Step::Kill(end, app) => ends[end].kill(app),
                Step::Bind(end, app) => {
                    ends[end].apps[app].get_or_insert_with(Inbox::new);
                }
                Step::Read(end, app, many) => {
                    if let Some(app) = &mut ends[end].apps[app] {
                        (0..many).for_each(|_| _ = app.pop());
                    }
                }
                Step::Receive(end, budget) => ends[end].receive(&mut rings[end], budget),
                Step::Transmit(end) => ends[end].transmit(&mut rings[1 - end]),
                Step::Anew => {
                    for (at, end) in ends.iter_mut().enumerate() {
                        end.go_on_anew(&mut rings[1 - at]);
                    }
                }
            }
        }
        prop_assert!(comes_to_rest(&mut ends, &mut rings));
    }
}
