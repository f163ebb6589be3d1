// SPDX-License-Identifier: MIT OR Apache-2.0

//! An agent and a broker of an application, joined by a packet socket, and what a hostile agent may
//! send.

use mgmt_broker::{Agent, AppHeader, Application, Broker, Client, Ended, Orders, Served, run};
use mgmt_channel::{
    Address, AppId, Channel, Component, EndpointBuilder, Error, Flags, Kind, Message,
};
use proptest::prelude::*;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);

/// Doubles what it is told.
#[derive(Default)]
struct Double {
    left: Vec<Ended>,
}

impl Application for Double {
    const APP: &'static str = "Double";
    const VERSIONS: std::ops::RangeInclusive<u16> = 2..=3;
    type Report = u32;
    type Order = u64;

    fn reported(&mut self, agent: &Agent, report: u32, orders: &mut Orders<u64>) {
        orders.give(agent, u64::from(report) * 2);
    }

    fn left(&mut self, _: &Agent, why: Ended, _: &mut Orders<u64>) {
        self.left.push(why);
    }
}

fn address() -> Address {
    let (mvm_ip, vm_id) = ([0; 16], 3);
    Address::new(
        Component::Vm { mvm_ip, vm_id },
        AppId::new(b"Double").unwrap(),
    )
}

/// A pair of which one side stamps what the other sends, as a bridge does.
fn pair() -> (Channel, Channel) {
    let make = || {
        let flags = SocketFlags::CLOEXEC;
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap()
    };
    let ((a, a2), (b, b2)) = (make(), make());
    let (to_a, to_b) = (Channel::from_fd(a2, 4096), Channel::from_fd(b2, 4096));
    let (to_a, to_b) = (std::sync::Arc::new(to_a), std::sync::Arc::new(to_b));
    for (from, to) in [(&to_a, &to_b), (&to_b, &to_a)] {
        let (from, to) = (from.clone(), to.clone());
        std::thread::spawn(move || {
            while let Ok(Some(mut message)) = from.recv(None) {
                message.header.source = address();
                if to.send(&message).is_err() {
                    return;
                }
            }
        });
    }
    (Channel::from_fd(a, 4096), Channel::from_fd(b, 4096))
}

fn with_broker(play: impl FnOnce(Channel)) -> Vec<Ended> {
    let (ours, theirs) = pair();
    let stop = AtomicBool::new(false);
    let log = std::sync::Arc::new(Mutex::new(Vec::new()));
    struct Logged(Served<Double>, std::sync::Arc<Mutex<Vec<Ended>>>);
    impl Broker for Logged {
        fn established(&mut self, agent: &Agent, message: &Message) -> Option<Vec<u8>> {
            self.0.established(agent, message)
        }
        fn received(&mut self, agent: &Agent, m: &Message, out: &mut mgmt_broker::Outbox<'_>) {
            self.0.received(agent, m, out);
        }
        fn ended(&mut self, agent: &Agent, why: Ended) {
            self.1.lock().unwrap().push(why);
            self.0.ended(agent, why);
        }
        fn refusal(&self) -> Vec<u8> {
            self.0.refusal()
        }
    }
    let mut broker = Logged(Served::new(Double::default()), log.clone());
    std::thread::scope(|scope| {
        scope.spawn(|| run(&mut broker, &ours, &|| stop.load(Ordering::Relaxed)));
        play(theirs);
        std::thread::sleep(Duration::from_millis(300));
        stop.store(true, Ordering::Relaxed);
    });
    let log = log.lock().unwrap();
    log.clone()
}

#[test]
fn reports_are_answered_by_orders() {
    let ended = with_broker(|channel| {
        let channels = Mutex::new(Some(channel));
        let next = move || channels.lock().unwrap().take().ok_or(Error::Gone);
        let endpoint = EndpointBuilder::new("Test")
            .unwrap()
            .connect(next)
            .open()
            .unwrap();
        let mut client = Client::<Double>::new(endpoint, address());
        assert!(!client.is_established());
        for number in [1, 300, u32::MAX] {
            client.report(&number).unwrap();
            let order = client.order(SOON).unwrap();
            assert_eq!(order, Some(u64::from(number) * 2));
        }
        client.leave();
    });
    assert_eq!(ended, [Ended::ByAgent]);
}

#[test]
fn who_has_no_common_version_is_told_which_there_are() {
    with_broker(|channel| {
        let offer = AppHeader::offer(&(4..=9)).bytes();
        let mut hello = Message::with_app_header(Kind::Establish, address(), &offer, &[]);
        hello.header.flags = Flags::REQUEST;
        channel.send(&hello).unwrap();
        let refusal = channel.recv(Some(SOON)).unwrap().unwrap();
        assert_eq!(refusal.header.kind, Kind::Terminate);
        assert_eq!(refusal.payload, AppHeader::offer(&(2..=3)).bytes());
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Whatever an agent sends, the broker serves the next one.
    #[test]
    fn a_hostile_agent_harms_nobody(
        messages in prop::collection::vec((1..=4u8, any::<bool>(), prop::collection::vec(0..4u8, 0..24)), 0..60),
    ) {
        with_broker(|channel| {
            for (kind, request, payload) in messages {
                let mut message = Message::new(Kind::try_from(kind).unwrap(), address(), payload);
                if request {
                    message.header.flags = Flags::REQUEST;
                }
                channel.send(&message).unwrap();
            }
            let mut ping = Message::new(Kind::Discover, address(), Vec::new());
            ping.header.correlation = 77;
            ping.header.flags = Flags::REQUEST;
            channel.send(&ping).unwrap();
            while channel.recv(Some(SOON)).unwrap().unwrap().header.correlation != 77 {}
        });
    }
}
