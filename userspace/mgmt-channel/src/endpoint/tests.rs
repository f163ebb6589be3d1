// SPDX-License-Identifier: MIT OR Apache-2.0

//! Endpoints whose device is one end of a packet socket, which goes and comes.

use super::*;
use crate::{Component, Error, Flags};
use proptest::prelude::*;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::sync::{Arc, Mutex};
use std::time::Instant;

const SOON: Duration = Duration::from_secs(10);

fn app(name: &str) -> AppId {
    AppId::new(name.as_bytes()).unwrap()
}

fn vm(vm_id: u32) -> Address {
    let mvm_ip = [0; 16];
    Address::new(Component::Vm { mvm_ip, vm_id }, app("Peer"))
}

/// Plays the kernel: each device that the endpoint opens is one of those that were put in.
#[derive(Clone, Default)]
struct Kernel(Arc<Mutex<Vec<Channel>>>);

impl Kernel {
    /// Puts a device in, and returns its other side.
    fn device(&self) -> Channel {
        let flags = SocketFlags::CLOEXEC;
        let (a, b) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        self.0.lock().unwrap().push(Channel::from_fd(a, 1 << 16));
        Channel::from_fd(b, 1 << 16)
    }

    fn builder(&self) -> EndpointBuilder {
        let devices = Arc::clone(&self.0);
        let next = move || devices.lock().unwrap().pop().ok_or(Error::Gone);
        EndpointBuilder::new("Test").unwrap().connect(next)
    }
}

fn next(kernel: &Channel) -> Message {
    kernel.recv(Some(SOON)).unwrap().expect("a message in time")
}

/// The reply to `request`, as the bridge delivers it.
fn answer(request: &Message, payload: &[u8]) -> Message {
    let mut reply = request.reply(payload.to_vec());
    reply.header.source = request.header.destination;
    reply.header.destination = request.header.destination;
    reply
}

fn returned(message: &Message, reason: Reason) -> Message {
    let mut header = message.header.undeliverable(reason).unwrap();
    header.destination = vm(1);
    Message {
        header,
        payload: Vec::new(),
    }
}

fn presence(who: Address, event: Event) -> Message {
    let mut message = question(vm(1), event);
    message.header.source = who;
    message
}

#[test]
fn many_requests_are_matched_by_their_ids() {
    let kernel = Kernel::default();
    let device = kernel.device();
    let endpoint = kernel.builder().open().unwrap();
    std::thread::scope(|scope| {
        for number in 0..20u8 {
            let endpoint = &endpoint;
            scope.spawn(move || {
                let reply = endpoint.request(vm(3), vec![number], SOON).unwrap();
                assert_eq!(reply.payload, [number, number]);
            });
        }
        let mut requests: Vec<Message> = (0..20).map(|_| next(&device)).collect();
        // Not in the order in which they came, and something else between them.
        requests.reverse();
        for request in &requests {
            assert!(request.is_request() && request.header.deadline_ms > 0);
            let number = request.payload[0];
            device.send(&answer(request, &[number, number])).unwrap();
            device.send(&Message::data(vm(1), vec![number])).unwrap();
        }
    });
    for _ in 0..20 {
        // All are there: no time is needed.
        let incoming = endpoint.recv(Some(Duration::ZERO)).unwrap().unwrap();
        assert!(matches!(incoming, Incoming::Message(m) if m.header.kind == Kind::Data));
    }
    assert_eq!(endpoint.recv(Some(Duration::ZERO)).unwrap(), None);
}

#[test]
fn what_comes_back_is_an_error_or_told_with_its_id() {
    let kernel = Kernel::default();
    let device = kernel.device();
    let endpoint = kernel.builder().open().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for reason in [Reason::Denied, Reason::Deadline] {
                device.send(&returned(&next(&device), reason)).unwrap();
            }
            let mut refusal = answer(&next(&device), b"no");
            refusal.header.kind = Kind::Terminate;
            device.send(&refusal).unwrap();
            device
                .send(&returned(&next(&device), Reason::PeerGone))
                .unwrap();
        });
        let ask = || endpoint.request(vm(3), Vec::new(), SOON);
        assert!(matches!(ask(), Err(Error::Undeliverable(Reason::Denied))));
        assert!(matches!(ask(), Err(Error::TimedOut)));
        assert!(matches!(ask(), Err(Error::Terminated(m)) if m.payload == b"no"));
        let id = endpoint.send(vm(4), Vec::new()).unwrap();
        let (destination, reason) = (vm(4), Reason::PeerGone);
        let expected = Incoming::Undeliverable(Undeliverable {
            id,
            destination,
            reason,
        });
        assert_eq!(endpoint.recv(Some(SOON)).unwrap(), Some(expected));
    });
}

/// The device goes while a request is under way and comes back: who asked hears of it, and so do
/// who receives and who watches; nothing is asked twice.
#[test]
fn it_comes_back_and_says_what_is_not_known() {
    let kernel = Kernel::default();
    let first = kernel.device();
    let endpoint = kernel.builder().open().unwrap();
    let watch = endpoint.watch(Component::Platform, app("Peer")).unwrap();
    let about = next(&first);
    assert_eq!(Event::decode(&about.payload), Ok(Event::Watch));
    first.send(&presence(vm(3), Event::Up)).unwrap();
    let up = |event| Presence { who: vm(3), event };
    assert_eq!(watch.next(Some(SOON)).unwrap(), Some(up(Event::Up)));

    let ids = [3, 4].map(|vm_id| endpoint.send(vm(vm_id), Vec::new()).unwrap());
    next(&first);
    next(&first);
    std::thread::scope(|scope| {
        let asks = scope.spawn(|| endpoint.request(vm(3), b"lost".to_vec(), SOON));
        let answers = scope.spawn(|| endpoint.request(vm(4), b"answered".to_vec(), SOON));
        for request in [next(&first), next(&first)] {
            if request.payload == b"answered" {
                first.send(&answer(&request, b"")).unwrap();
            }
        }
        answers.join().unwrap().unwrap();
        drop(first);
        assert!(matches!(asks.join().unwrap(), Err(Error::Lost)));
    });
    let Some(Incoming::Lost(lost)) = endpoint.recv(Some(SOON)).unwrap() else {
        panic!("not told");
    };
    // The second one had arrived, as a later request to the same was answered.
    assert_eq!((lost.unacknowledged[0].id, lost.more), (ids[0], 0));
    assert_eq!(lost.unacknowledged.len(), 2, "that, and the request");
    assert_eq!(watch.next(Some(SOON)).unwrap(), Some(up(Event::Down)));

    let second = kernel.device();
    assert_eq!(endpoint.recv(Some(SOON)).unwrap(), Some(Incoming::Restored));
    assert_eq!(next(&second), about);
    second.send(&presence(vm(3), Event::Up)).unwrap();
    assert_eq!(watch.next(Some(SOON)).unwrap(), Some(up(Event::Up)));
    endpoint.send(vm(3), b"on".to_vec()).unwrap();
    assert_eq!(next(&second).payload, b"on");
    drop(watch);
    assert_eq!(Event::decode(&next(&second).payload), Ok(Event::Unwatch));
}

#[test]
fn a_device_that_is_given_back_is_not_opened_before_it_is_asked_for() {
    let kernel = Kernel::default();
    let first = kernel.device();
    let endpoint = kernel.builder().open().unwrap();
    assert!(endpoint.suspend(SOON));
    assert!(matches!(first.recv(Some(SOON)), Err(Error::Gone)));
    let second = kernel.device();
    assert!(matches!(endpoint.send(vm(3), Vec::new()), Err(Error::Gone)));
    endpoint.resume().unwrap();
    endpoint.send(vm(3), b"again".to_vec()).unwrap();
    assert_eq!(next(&second).payload, b"again");
}

#[test]
fn a_lazy_endpoint_waits_for_its_device() {
    let kernel = Kernel::default();
    assert!(kernel.builder().open().is_err());
    let endpoint = kernel.builder().lazy().open().unwrap();
    let _watch = endpoint.watch(Component::Mvm, app("Peer")).unwrap();
    assert!(endpoint.send(vm(3), Vec::new()).is_err());
    let device = kernel.device();
    endpoint.send(vm(3), Vec::new()).unwrap();
    assert_eq!(next(&device).header.kind, Kind::Presence);
    assert_eq!(next(&device).header.kind, Kind::Data);
}

#[test]
fn who_does_not_receive_cannot_ask() {
    let kernel = Kernel::default();
    let device = kernel.device();
    let endpoint = kernel.builder().open().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let request = next(&device);
            for sent in 0..1100u32 {
                device
                    .send(&Message::data(vm(1), sent.to_le_bytes().to_vec()))
                    .unwrap();
                if sent == 1050 {
                    device.send(&answer(&request, b"late")).unwrap();
                }
            }
        });
        let asked = endpoint.request(vm(3), Vec::new(), SOON);
        assert!(matches!(asked, Err(Error::Backlog)), "{asked:?}");
        // What came is all there, in order, and the late answer with it.
        let mut expected = 0u32;
        while expected < 1100 {
            let Some(Incoming::Message(message)) = endpoint.recv(Some(SOON)).unwrap() else {
                panic!("after {expected}");
            };
            if message.header.kind == Kind::Reply {
                continue;
            }
            assert_eq!(message.payload, expected.to_le_bytes());
            expected += 1;
        }
    });
}

#[test]
fn without_an_answer_the_time_is_up() {
    let kernel = Kernel::default();
    let device = kernel.device();
    let endpoint = kernel.builder().requests_only().open().unwrap();
    let begin = Instant::now();
    let asked = endpoint.request(vm(3), Vec::new(), Duration::from_millis(30));
    assert!(matches!(asked, Err(Error::TimedOut)));
    assert!(begin.elapsed() >= Duration::from_millis(30));
    // Its answer is of no use any more.
    device.send(&answer(&next(&device), b"late")).unwrap();
    assert_eq!(
        endpoint.recv(Some(Duration::from_millis(10))).unwrap(),
        None
    );
}

#[test]
fn answers_to_a_discovery_are_collected() {
    let kernel = Kernel::default();
    let device = kernel.device();
    let endpoint = kernel.builder().open().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let question = next(&device);
            assert!(question.header.flags.contains(Flags::BROADCAST));
            for vm_id in [3, 4] {
                let mut reply = answer(&question, b"");
                reply.header.source = vm(vm_id);
                device.send(&reply).unwrap();
            }
        });
        let wait = Duration::from_millis(300);
        let found = endpoint
            .discover(Component::Platform, app("Peer"), wait)
            .unwrap();
        assert_eq!(found, [vm(3), vm(4)]);
    });
}

/// The same with tasks.
#[test]
fn tasks_ask_receive_and_watch() {
    let runtime = tokio_runtime();
    runtime.block_on(async {
        let kernel = Kernel::default();
        let first = kernel.device();
        let endpoint = kernel.builder().open_async().unwrap();
        let plays = std::thread::spawn(move || {
            let mut requests: Vec<Message> = (0..3).map(|_| next(&first)).collect();
            requests.reverse();
            for request in &requests {
                first.send(&answer(request, &request.payload)).unwrap();
            }
            first
                .send(&returned(&next(&first), Reason::NoEndpoint))
                .unwrap();
            assert_eq!(next(&first).header.kind, Kind::Presence);
            first.send(&presence(vm(3), Event::Up)).unwrap();
            next(&first);
            // And gone it is.
        });
        let ask = |number| endpoint.request_as::<u32, u32>(vm(3), number, SOON);
        let asked = (ask(&1), ask(&2_000_000), ask(&3));
        let (one, two, three) = join(asked).await;
        assert_eq!(
            (one.unwrap(), two.unwrap(), three.unwrap()),
            (1, 2_000_000, 3)
        );
        let id = endpoint.send(vm(4), Vec::new()).await.unwrap();
        let back = endpoint.recv().await.unwrap();
        assert!(matches!(back, Incoming::Undeliverable(u) if u.id == id));
        let mut watch = endpoint
            .watch(Component::Platform, app("Peer"))
            .await
            .unwrap();
        assert_eq!(watch.next().await.unwrap().event, Event::Up);
        let asked = endpoint.request(vm(3), Vec::new(), SOON).await;
        assert!(matches!(asked, Err(Error::Lost)), "{asked:?}");
        assert_eq!(watch.next().await.unwrap().event, Event::Down);
        assert!(matches!(endpoint.recv().await, Ok(Incoming::Lost(_))));
        plays.join().unwrap();
        let second = kernel.device();
        assert_eq!(endpoint.recv().await.unwrap(), Incoming::Restored);
        assert_eq!(next(&second).header.kind, Kind::Presence);
        endpoint.suspend().await;
        let third = kernel.device();
        endpoint.resume().unwrap();
        endpoint.send(vm(3), b"third".to_vec()).await.unwrap();
        assert_eq!(next(&third).header.kind, Kind::Presence);
        assert_eq!(next(&third).payload, b"third");
    });
}

fn tokio_runtime() -> ::tokio::runtime::Runtime {
    let mut builder = ::tokio::runtime::Builder::new_current_thread();
    builder.enable_io().enable_time().build().unwrap()
}

/// Runs three futures at once.
async fn join<T>(
    (a, b, c): (
        impl Future<Output = T>,
        impl Future<Output = T>,
        impl Future<Output = T>,
    ),
) -> (T, T, T) {
    let (mut a, mut b, mut c) = (std::pin::pin!(a), std::pin::pin!(b), std::pin::pin!(c));
    let mut done = (None, None, None);
    std::future::poll_fn(move |cx| {
        use std::task::Poll;
        let take = |slot: &mut Option<T>, poll: Poll<T>| {
            if let Poll::Ready(value) = poll {
                *slot = Some(value);
            }
        };
        if done.0.is_none() {
            take(&mut done.0, a.as_mut().poll(cx));
        }
        if done.1.is_none() {
            take(&mut done.1, b.as_mut().poll(cx));
        }
        if done.2.is_none() {
            take(&mut done.2, c.as_mut().poll(cx));
        }
        match (&done.0, &done.1, &done.2) {
            (Some(_), Some(_), Some(_)) => Poll::Ready((
                done.0.take().unwrap(),
                done.1.take().unwrap(),
                done.2.take().unwrap(),
            )),
            _ => Poll::Pending,
        }
    })
    .await
}

proptest! {
    /// Whatever a peer sends as content, reading it as a type ends with that type or an error.
    #[test]
    fn any_payload_is_content_or_none(payload in prop::collection::vec(any::<u8>(), 0..200)) {
        type Wanted = (u16, Option<String>, Vec<(u8, u64)>);
        let message = Message::data(vm(3), payload.clone());
        if let Ok(content) = message.content::<Wanted>() {
            let again = Message::typed(Kind::Data, vm(3), &content).unwrap();
            prop_assert_eq!(again.content::<Wanted>().unwrap(), content);
        }
    }

    /// Whatever messages come, in whatever order, all that is for the receiver is received, in
    /// order, and a request has one outcome.
    #[test]
    fn any_messages_leave_the_state_whole(
        steps in prop::collection::vec((1..=7u8, any::<bool>(), 0..4u64, prop::collection::vec(0..6u8, 0..9)), 0..60),
    ) {
        use super::state::State;
        let waker = std::task::Waker::noop();
        let mut state = State::default();
        let watch = state.watch(Address::new(Component::Platform, app("Peer")));
        let mut header = Message::data(vm(3), Vec::new()).header;
        let id = state.expect(&mut header, false);
        let mut expected = Vec::new();
        let mut outcomes = 0;
        for (kind, request, correlation, payload) in steps {
            let kind = Kind::try_from(kind).unwrap();
            let mut message = Message::new(kind, vm(1), payload);
            message.header.source = vm(3);
            message.header.correlation = if correlation == 0 { id } else { correlation };
            if request {
                message.header.flags = Flags::REQUEST;
            }
            if kind == Kind::Undeliverable {
                message.header.reason = Reason::PeerGone;
            }
            let open = outcomes == 0;
            let ours = correlation == 0 && open;
            match kind {
                Kind::Reply | Kind::Terminate if ours => outcomes += 1,
                Kind::Undeliverable if request => outcomes += u32::from(ours),
                Kind::Presence => {}
                _ => expected.push(kind),
            }
            state.enter(message);
        }
        let ready = state.poll_answer(id, waker).is_ready();
        prop_assert_eq!(ready, outcomes > 0);
        let mut received = Vec::new();
        while let std::task::Poll::Ready(incoming) = state.poll_recv(waker) {
            received.push(match incoming {
                Incoming::Message(message) => message.header.kind,
                _ => Kind::Undeliverable,
            });
        }
        prop_assert_eq!(received, expected);
        while let std::task::Poll::Ready(told) = state.poll_watch(watch, waker) {
            prop_assert_eq!(told.unwrap().who, vm(3));
        }
    }
}
