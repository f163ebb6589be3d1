// SPDX-License-Identifier: MIT OR Apache-2.0

//! Hosts of the fabric on the loopback interface, with real TLS and bridges in memory.

use mgmt_fabric::bridge::{Bridge, Guest, Standing};
use mgmt_fabric::node::{Node, Options};
use mgmt_fabric::outgoing::Limits;
use mgmt_fabric::tls::Tls;
use mgmt_fabric::{Host, certificates};
use mgmt_wire::{Address, AppId, Component, Header, Kind, Reason, Serial};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use tokio::time::sleep;

const UUID: [u8; 16] = [7; 16];

/// A bridge: it outlives the daemons that carry its link.
#[derive(Default)]
struct Kernel {
    lineage: u64,
    last: Cell<u64>,
    unread: RefCell<VecDeque<(u64, Vec<u8>)>>,
    unsettled: RefCell<BTreeMap<u64, Vec<u8>>>,
    came_back: RefCell<Vec<(u64, Reason)>>,
    taken: RefCell<Vec<Vec<u8>>>,
    guests: RefCell<Vec<Guest>>,
    moved: RefCell<Vec<[u8; 16]>>,
    here: RefCell<Vec<[u8; 16]>>,
    platforms: RefCell<Vec<(Host, bool)>>,
    hardware: RefCell<Vec<Serial>>,
    hardware_there: RefCell<Vec<(Serial, bool)>>,
    /// What waits for a guest that moves, and goes after it.
    waiting: RefCell<Vec<Vec<u8>>>,
    is_full: Cell<bool>,
    changed: Notify,
}

impl Kernel {
    fn accept(&self, bytes: Vec<u8>) {
        self.last.set(self.last.get() + 1);
        self.unread.borrow_mut().push_back((self.last.get(), bytes));
        self.changed.notify_one();
    }
}

#[derive(Clone)]
struct Memory(Rc<Kernel>);

impl Memory {
    /// Carries the link: what is unsettled is read again.
    fn open(kernel: &Rc<Kernel>) -> Self {
        let mut unread = kernel.unread.borrow_mut();
        for (&number, bytes) in kernel.unsettled.borrow().iter().rev() {
            unread.push_front((number, bytes.clone()));
        }
        kernel.changed.notify_one();
        Self(kernel.clone())
    }
}

impl Bridge for Memory {
    fn standing(&self) -> Standing {
        Standing {
            lineage: self.0.lineage,
            accepted: self.0.taken.borrow().len() as u64,
        }
    }

    fn read(&self) -> io::Result<Option<(u64, Vec<u8>)>> {
        let next = self.0.unread.borrow_mut().pop_front();
        if let Some((number, bytes)) = &next {
            self.0.unsettled.borrow_mut().insert(*number, bytes.clone());
        }
        Ok(next)
    }

    async fn readable(&self) -> io::Result<()> {
        self.0.changed.notified().await;
        Ok(())
    }

    fn write(&self, message: &[u8]) -> io::Result<()> {
        if self.0.is_full.get() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.0.taken.borrow_mut().push(message.to_vec());
        Ok(())
    }

    fn settle(&self, number: u64, reason: Reason) -> io::Result<()> {
        let known = self.0.unsettled.borrow_mut().remove(&number);
        assert!(known.is_some(), "{number} is settled already");
        if reason != Reason::None {
            self.0.came_back.borrow_mut().push((number, reason));
        }
        Ok(())
    }

    fn moved(&self, guest: [u8; 16]) -> io::Result<()> {
        self.0.moved.borrow_mut().push(guest);
        self.0.guests.borrow_mut().clear();
        for bytes in self.0.waiting.take() {
            self.0.accept(bytes);
        }
        Ok(())
    }

    fn here(&self, guest: [u8; 16], from: u64) -> io::Result<()> {
        self.0.here.borrow_mut().push(guest);
        let waiting = std::mem::take(&mut *self.0.unread.borrow_mut());
        let (its, others): (Vec<_>, Vec<_>) = waiting
            .into_iter()
            .partition(|(_, bytes)| is_for(bytes, guest));
        self.0.unread.borrow_mut().extend(others);
        let mut taken = self.0.taken.borrow_mut();
        self.0.unsettled.borrow_mut().retain(|&number, bytes| {
            let goes = number >= from && is_for(bytes, guest);
            if goes {
                taken.push(bytes.clone());
            }
            !goes
        });
        taken.extend(its.into_iter().map(|(_, bytes)| bytes));
        Ok(())
    }

    fn platform(&self, host: Host, is_there: bool) -> io::Result<()> {
        self.0.platforms.borrow_mut().push((host, is_there));
        Ok(())
    }

    fn hardware_there(&self, serial: Serial, is_there: bool) -> io::Result<()> {
        self.0.hardware_there.borrow_mut().push((serial, is_there));
        Ok(())
    }

    fn guests(&self) -> io::Result<Vec<Guest>> {
        Ok(self.0.guests.borrow().clone())
    }

    fn hardware(&self) -> io::Result<Vec<Serial>> {
        Ok(self.0.hardware.borrow().clone())
    }
}

fn is_for(bytes: &[u8], guest: [u8; 16]) -> bool {
    let header = Header::of_message(bytes).unwrap();
    header.destination.component == Component::Stable(guest)
}

fn host(number: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, number).into()
}

fn vm(number: u8) -> Component {
    Component::Vm {
        mvm_ip: Host::from(host(number)).0,
        vm_id: 0,
    }
}

fn message(from: Component, to: Component, text: &[u8]) -> Vec<u8> {
    let app = AppId::new(b"App").unwrap();
    let mut header = Header::new(Kind::Data, Address::new(to, app), text.len() as u32);
    header.source = Address::new(from, app);
    [&header.encode()[..], text].concat()
}

/// A directory of this test's own, which goes with it.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("mgmt-fabric-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// An authority, and certificates for the hosts 1 to 3.
    fn certified(name: &str) -> Self {
        let this = Self::new(name);
        certificates::init(&this.0, name).unwrap();
        for number in 1..=3 {
            certificates::issue(&this.0, host(number), &this.of(number)).unwrap();
        }
        this
    }

    fn of(&self, number: u8) -> PathBuf {
        self.0.join(number.to_string())
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Where a host listens, and with that the others.
struct Place {
    number: u8,
    certificates: PathBuf,
    state: PathBuf,
    kernel: Rc<Kernel>,
    port: u16,
}

impl Place {
    fn new(directory: &Directory, number: u8) -> Self {
        // A port that was free a moment ago.
        let port = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        Self {
            number,
            certificates: directory.of(number),
            state: directory.0.join(format!("state-{number}")),
            kernel: Rc::new(Kernel {
                lineage: 100 + u64::from(number),
                ..Kernel::default()
            }),
            port: port.local_addr().unwrap().port(),
        }
    }

    fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    async fn start(&self, peers: &[(u8, SocketAddr)]) -> JoinHandle<()> {
        let options = Options {
            host: host(self.number).into(),
            peers: peers.iter().map(|&(n, at)| (host(n).into(), at)).collect(),
            patience: Duration::from_secs(3),
            limits: Limits {
                bytes: 1 << 20,
                messages: 300,
            },
            state: self.state.clone(),
        };
        let tls = Tls::load(&self.certificates).unwrap();
        let bridge = Memory::open(&self.kernel);
        let node = Node::new(bridge, options, tls).unwrap();
        let listener = loop {
            match TcpListener::bind(self.address()).await {
                Ok(listener) => break listener,
                Err(_) => sleep(Duration::from_millis(20)).await,
            }
        };
        // What a daemon has begun ends with it.
        spawn_local(async move {
            let tasks = LocalSet::new();
            tasks.run_until(node.run(listener)).await.unwrap();
        })
    }
}

async fn until(text: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < end, "{text}");
        sleep(Duration::from_millis(5)).await;
    }
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, test);
}

fn numbered(from: u8, to: Component, numbers: std::ops::Range<u32>, kernel: &Kernel) {
    for number in numbers {
        kernel.accept(message(vm(from), to, &number.to_le_bytes()));
    }
}

fn texts(kernel: &Kernel) -> Vec<u32> {
    let taken = kernel.taken.borrow();
    let number = |bytes: &Vec<u8>| u32::from_le_bytes(*bytes.last_chunk().unwrap());
    taken.iter().map(number).collect()
}

/// Passes a connection on, and cuts it when it is told to.
async fn proxy(listener: TcpListener, to: SocketAddr, cut: Rc<Notify>) {
    loop {
        let (mut one, _) = listener.accept().await.unwrap();
        let Ok(mut other) = TcpStream::connect(to).await else {
            continue;
        };
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut one, &mut other) => {}
            () = cut.notified() => {}
        }
    }
}

#[test]
fn order_is_kept_and_nothing_lost_when_connections_and_daemons_end() {
    let directory = Directory::certified("order");
    run(async {
        let (one, two) = (Place::new(&directory, 1), Place::new(&directory, 2));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let between = listener.local_addr().unwrap();
        let cut = Rc::new(Notify::new());
        spawn_local(proxy(listener, two.address(), cut.clone()));
        let mut first = one.start(&[(2, between)]).await;
        let mut second = two.start(&[(1, one.address())]).await;
        let mut sent = 0;
        for round in 0..12 {
            numbered(1, vm(2), sent..sent + 50, &one.kernel);
            numbered(2, vm(1), sent..sent + 50, &two.kernel);
            sent += 50;
            sleep(Duration::from_millis(10)).await;
            match round % 4 {
                0 => cut.notify_waiters(),
                1 => {
                    first.abort();
                    let _ = first.await;
                    first = one.start(&[(2, between)]).await;
                }
                2 => {
                    second.abort();
                    let _ = second.await;
                    second = two.start(&[(1, one.address())]).await;
                }
                _ => {}
            }
            if round % 3 == 2 {
                let all = || {
                    [&one, &two]
                        .iter()
                        .all(|p| p.kernel.unsettled.borrow().is_empty())
                };
                until("all is settled", all).await;
            }
        }
        let arrived = || texts(&one.kernel).len().min(texts(&two.kernel).len()) >= sent as usize;
        until("all arrives", arrived).await;
        for place in [&one, &two] {
            assert_eq!(texts(&place.kernel), (0..sent).collect::<Vec<_>>());
            assert_eq!(*place.kernel.came_back.borrow(), []);
        }
    });
}

#[test]
fn a_peer_that_is_slow_or_away_costs_what_is_sent_to_it() {
    let directory = Directory::certified("slow");
    run(async {
        let (one, two) = (Place::new(&directory, 1), Place::new(&directory, 2));
        let _first = one.start(&[(2, two.address())]).await;
        let second = two.start(&[]).await;
        numbered(1, vm(2), 0..1, &one.kernel);
        until("it arrives", || texts(&two.kernel).len() == 1).await;
        two.kernel.is_full.set(true);
        numbered(1, vm(2), 1..1001, &one.kernel);
        let back = || one.kernel.came_back.borrow().len();
        until("what has no room comes back", || back() == 700).await;
        assert!(
            one.kernel
                .came_back
                .borrow()
                .iter()
                .all(|(_, why)| *why == Reason::Quota)
        );
        two.kernel.is_full.set(false);
        until("the rest arrives", || texts(&two.kernel).len() == 301).await;
        assert!(texts(&two.kernel).is_sorted());
        second.abort();
        let _ = second.await;
        one.kernel.came_back.borrow_mut().clear();
        numbered(1, vm(2), 0..10, &one.kernel);
        until("given up", || back() == 10).await;
        assert!(
            one.kernel
                .came_back
                .borrow()
                .iter()
                .all(|(_, why)| *why == Reason::PeerGone)
        );
        numbered(1, vm(2), 0..1, &one.kernel);
        numbered(1, vm(3), 0..1, &one.kernel);
        until("refused", || back() == 12).await;
        let why = one.kernel.came_back.borrow()[10].1;
        assert_eq!(why, Reason::NoComponent);
        let there = Host::from(host(2));
        assert_eq!(
            *one.kernel.platforms.borrow(),
            [(there, true), (there, false)]
        );
        // It comes again.
        let _second = two.start(&[]).await;
        sleep(Duration::from_secs(2)).await;
        numbered(1, vm(2), 2000..2001, &one.kernel);
        until("it is there again", || {
            texts(&two.kernel).last() == Some(&2000)
        })
        .await;
    });
}

#[test]
fn a_guest_is_found_where_it_went() {
    let directory = Directory::certified("moves");
    run(async {
        let (one, two) = (Place::new(&directory, 1), Place::new(&directory, 2));
        let _first = one.start(&[(2, two.address())]).await;
        let _second = two.start(&[]).await;
        let guest = |connected| {
            vec![Guest {
                uuid: UUID,
                connected,
            }]
        };
        numbered(1, Component::Stable(UUID), 0..1, &one.kernel);
        until("unknown", || one.kernel.came_back.borrow().len() == 1).await;
        // It was here, and comes up there.
        *one.kernel.guests.borrow_mut() = guest(true);
        sleep(Duration::from_millis(300)).await;
        *one.kernel.guests.borrow_mut() = guest(false);
        *two.kernel.guests.borrow_mut() = guest(true);
        until("it is told", || *one.kernel.moved.borrow() == [UUID]).await;
        numbered(1, Component::Stable(UUID), 1..20, &one.kernel);
        until("it gets it", || texts(&two.kernel).len() == 19).await;
        assert_eq!(texts(&two.kernel), (1..20).collect::<Vec<_>>());
    });
}

#[test]
fn what_a_guest_is_sent_where_it_comes_to_keeps_its_order() {
    let directory = Directory::certified("arrives");
    run(async {
        let (one, two) = (Place::new(&directory, 1), Place::new(&directory, 2));
        let _first = one.start(&[(2, two.address())]).await;
        let _second = two.start(&[]).await;
        let guest = |connected| {
            vec![Guest {
                uuid: UUID,
                connected,
            }]
        };
        let name = Component::Stable(UUID);
        *one.kernel.guests.borrow_mut() = guest(true);
        until("it has arrived where it is", || {
            *one.kernel.here.borrow() == [UUID]
        })
        .await;
        until("it is known", || {
            two.kernel.came_back.borrow_mut().clear();
            numbered(2, name, 0..1, &two.kernel);
            !one.kernel.taken.borrow().is_empty()
        })
        .await;
        two.kernel.came_back.borrow_mut().clear();
        // It has not taken these when it leaves.
        for (from, number) in [(2u8, 2u32), (1, 100), (2, 3), (1, 101)] {
            let bytes = message(vm(from), name, &number.to_le_bytes());
            one.kernel.waiting.borrow_mut().push(bytes);
        }
        *two.kernel.guests.borrow_mut() = guest(true);
        // Its old host still has it.
        sleep(Duration::from_millis(500)).await;
        numbered(2, name, 4..10, &two.kernel);
        sleep(Duration::from_millis(500)).await;
        assert_eq!(texts(&two.kernel), []);
        *one.kernel.guests.borrow_mut() = guest(false);
        until("it has arrived", || *two.kernel.here.borrow() == [UUID]).await;
        assert_eq!(texts(&two.kernel), [2, 100, 3, 101, 4, 5, 6, 7, 8, 9]);
        assert_eq!(*one.kernel.came_back.borrow(), []);
        assert_eq!(*two.kernel.came_back.borrow(), []);
        // From now on nobody brings anything for it that is not its own.
        one.kernel.accept(message(vm(2), name, b"late"));
        until("refused", || {
            *one.kernel.came_back.borrow() == [(5, Reason::Denied)]
        })
        .await;
    });
}

/// To each of the others, with what it is sent alone before and after.
fn mixed(from: u8, others: [u8; 2], numbers: std::ops::Range<u32>, kernel: &Kernel) {
    for number in numbers {
        let to = match number % 3 {
            0 => Component::Everywhere,
            1 => vm(others[0]),
            _ => vm(others[1]),
        };
        numbered(from, to, number..number + 1, kernel);
    }
}

/// Those of these numbers that a host gets of [`mixed`].
fn its(place: u32, numbers: std::ops::Range<u32>) -> Vec<u32> {
    numbers.filter(|n| n % 3 == 0 || n % 3 == place).collect()
}

#[test]
fn one_message_for_all_reaches_each_once_and_in_order() {
    let directory = Directory::certified("everywhere");
    run(async {
        let places = [1, 2, 3].map(|number| Place::new(&directory, number));
        let [one, two, three] = &places;
        // Nobody is there to hear it.
        let alone = one.start(&[]).await;
        numbered(1, Component::Everywhere, 0..1, &one.kernel);
        until("it is settled", || {
            one.kernel.last.get() == 1 && one.kernel.unread.borrow().is_empty()
        })
        .await;
        until("it is settled", || one.kernel.unsettled.borrow().is_empty()).await;
        alone.abort();
        let _ = alone.await;
        let peers = [(2, two.address()), (3, three.address())];
        let mut first = one.start(&peers).await;
        let mut second = two.start(&[(1, one.address())]).await;
        let _third = three.start(&[(1, one.address())]).await;
        mixed(1, [2, 3], 0..60, &one.kernel);
        let both = |end| {
            move || texts(&two.kernel) == its(1, 0..end) && texts(&three.kernel) == its(2, 0..end)
        };
        until("each has its own", both(60)).await;
        // One of them has no room, and the daemon is killed: the other has it already.
        three.kernel.is_full.set(true);
        mixed(1, [2, 3], 60..120, &one.kernel);
        until("the one has it", || texts(&two.kernel) == its(1, 0..120)).await;
        assert!(!one.kernel.unsettled.borrow().is_empty());
        first.abort();
        let _ = first.await;
        first = one.start(&peers).await;
        mixed(1, [2, 3], 120..150, &one.kernel);
        until("and what follows", || texts(&two.kernel) == its(1, 0..150)).await;
        second.abort();
        let _ = second.await;
        second = two.start(&[(1, one.address())]).await;
        three.kernel.is_full.set(false);
        until("both have all", both(150)).await;
        until("it is settled", || one.kernel.unsettled.borrow().is_empty()).await;
        assert_eq!(*one.kernel.came_back.borrow(), []);
        // What a peer sends to all is not passed on.
        numbered(2, Component::Everywhere, 500..501, &two.kernel);
        until("it arrives", || texts(&one.kernel) == [500]).await;
        sleep(Duration::from_millis(300)).await;
        assert_eq!(texts(&three.kernel), its(2, 0..150));
        for task in [first, second] {
            task.abort();
        }
    });
}

#[test]
fn who_is_slow_or_away_does_not_keep_it_from_others() {
    let directory = Directory::certified("some");
    run(async {
        let places = [1, 2, 3].map(|number| Place::new(&directory, number));
        let [one, two, three] = &places;
        let _first = one.start(&[(2, two.address()), (3, three.address())]).await;
        let _second = two.start(&[]).await;
        let third = three.start(&[]).await;
        numbered(1, Component::Everywhere, 0..1, &one.kernel);
        let has = |place: &Place, numbers| texts(&place.kernel).into_iter().eq(numbers);
        until("both are there", || has(two, 0..1) && has(three, 0..1)).await;
        three.kernel.is_full.set(true);
        numbered(1, Component::Everywhere, 1..1001, &one.kernel);
        until("the other has all", || has(two, 0..1001)).await;
        three.kernel.is_full.set(false);
        until("it is settled", || one.kernel.unsettled.borrow().is_empty()).await;
        // As many as may be on their way to one.
        assert!(has(three, 0..301));
        let back = one.kernel.came_back.take();
        assert_eq!(back.len(), 700);
        assert!(back.iter().all(|(_, why)| *why == Reason::Quota));
        third.abort();
        let _ = third.await;
        numbered(1, Component::Everywhere, 1001..1003, &one.kernel);
        until("who is there has it", || has(two, 0..1003)).await;
        until("the other is given up", || {
            one.kernel.unsettled.borrow().is_empty()
        })
        .await;
        let back: Vec<_> = one.kernel.came_back.take();
        assert_eq!(back.len(), 2);
        assert!(back.iter().all(|(_, why)| *why == Reason::PeerGone));
        // Who is not there is no error.
        numbered(1, Component::Everywhere, 1003..1004, &one.kernel);
        until("who is there has it", || has(two, 0..1004)).await;
        until("it is settled", || one.kernel.unsettled.borrow().is_empty()).await;
        assert_eq!(*one.kernel.came_back.borrow(), []);
    });
}

/// A host with a certificate sends what is not its own to send.
#[test]
fn a_host_cannot_speak_for_another() {
    let directory = Directory::certified("forged");
    run(async {
        let (one, two) = (Place::new(&directory, 1), Place::new(&directory, 2));
        let _first = one.start(&[(2, two.address())]).await;
        let _second = two.start(&[]).await;
        numbered(1, vm(2), 0..1, &one.kernel);
        until("connected", || texts(&two.kernel).len() == 1).await;
        for source in [1, 3] {
            two.kernel.accept(message(vm(source), vm(1), b"????"));
        }
        numbered(2, vm(1), 5..6, &two.kernel);
        until("its own arrives", || texts(&one.kernel) == [5]).await;
        let back = two.kernel.came_back.borrow().clone();
        assert_eq!(back, [(1, Reason::Denied), (2, Reason::Denied)]);
    });
}

fn serial(name: &str) -> Serial {
    Serial::new(name.as_bytes()).unwrap()
}

#[test]
fn hardware_is_reached_where_it_is_served() {
    let directory = Directory::certified("hardware");
    let (disk, other) = (serial("Disk"), serial("Other"));
    let hardware = Component::Hardware(disk);
    run(async {
        let (one, two) = (Place::new(&directory, 1), Place::new(&directory, 2));
        let first = one.start(&[(2, two.address())]).await;
        let second = two.start(&[]).await;
        numbered(1, vm(2), 0..1, &one.kernel);
        until("connected", || texts(&two.kernel).len() == 1).await;
        numbered(1, hardware, 0..1, &one.kernel);
        until("nobody has it", || {
            *one.kernel.came_back.borrow() == [(2, Reason::NoComponent)]
        })
        .await;
        *two.kernel.hardware.borrow_mut() = vec![disk];
        let told = |wanted: &[(Serial, bool)]| *one.kernel.hardware_there.borrow() == wanted;
        until("it is told", || told(&[(disk, true)])).await;
        numbered(1, hardware, 1..20, &one.kernel);
        until("it gets it", || texts(&two.kernel).len() == 20).await;
        assert!(texts(&two.kernel).is_sorted());
        // What is there since a moment ago may speak at once.
        two.kernel.hardware.borrow_mut().push(other);
        for source in [hardware, Component::Hardware(other)] {
            two.kernel
                .accept(message(source, vm(1), &5u32.to_le_bytes()));
        }
        until("both are heard", || texts(&one.kernel) == [5, 5]).await;
        two.kernel.hardware.borrow_mut().clear();
        until("it is gone", || {
            one.kernel.hardware_there.borrow().contains(&(disk, false))
        })
        .await;
        // Who had it last says that it has not.
        numbered(1, hardware, 30..31, &one.kernel);
        until("it goes there", || texts(&two.kernel).last() == Some(&30)).await;
        // A daemon that is killed sends again what may have arrived, to where it sent it.
        first.abort();
        let _ = first.await;
        one.kernel.hardware_there.borrow_mut().clear();
        let _first = one.start(&[(2, two.address())]).await;
        *two.kernel.hardware.borrow_mut() = vec![disk];
        until("told anew", || told(&[(disk, true)])).await;
        second.abort();
        let _ = second.await;
        until("its host is given up", || {
            told(&[(disk, true), (disk, false)])
        })
        .await;
        numbered(1, hardware, 40..41, &one.kernel);
        let last = || one.kernel.came_back.borrow().last().copied();
        until("nobody has it any more", || {
            last().is_some_and(|(_, reason)| reason == Reason::NoComponent)
        })
        .await;
    });
}

/// Hardware that two say they have is the first one's, and nobody's who has it here.
#[test]
fn nobody_takes_hardware_from_the_host_that_serves_it() {
    let directory = Directory::certified("taken");
    let (disk, own) = (serial("Disk"), serial("Own"));
    run(async {
        let places = [1, 2, 3].map(|number| Place::new(&directory, number));
        let [one, two, three] = &places;
        let _first = one.start(&[(2, two.address()), (3, three.address())]).await;
        let _others = [two.start(&[]).await, three.start(&[]).await];
        *one.kernel.hardware.borrow_mut() = vec![own];
        *two.kernel.hardware.borrow_mut() = vec![disk];
        let told = |wanted: &[(Serial, bool)]| *one.kernel.hardware_there.borrow() == wanted;
        until("the first has it", || told(&[(disk, true)])).await;
        *three.kernel.hardware.borrow_mut() = vec![disk, own];
        until("the other was heard", || {
            one.kernel.hardware_there.borrow().contains(&(own, true))
        })
        .await;
        for source in [disk, own] {
            let source = Component::Hardware(source);
            three
                .kernel
                .accept(message(source, vm(1), &3u32.to_le_bytes()));
        }
        until("both are refused", || {
            *three.kernel.came_back.borrow() == [(1, Reason::Denied), (2, Reason::Denied)]
        })
        .await;
        numbered(1, Component::Hardware(disk), 0..1, &one.kernel);
        until("it is where it was", || texts(&two.kernel) == [0]).await;
        assert_eq!(texts(&one.kernel), []);
        two.kernel.hardware.borrow_mut().clear();
        until("the other has it now", || {
            let there = one.kernel.hardware_there.borrow();
            there.ends_with(&[(disk, false), (disk, true)])
        })
        .await;
        numbered(1, Component::Hardware(disk), 1..2, &one.kernel);
        until("it goes there", || texts(&three.kernel) == [1]).await;
    });
}

async fn never_enters(certificates: &Path, number: u8, state: &Path) {
    let directory = Directory::certified(&format!("intruder-{number}"));
    let one = Place::new(&directory, 1);
    let mut intruder = Place::new(&directory, number);
    intruder.certificates = certificates.to_path_buf();
    intruder.state = state.to_path_buf();
    let _first = one.start(&[(2, intruder.address())]).await;
    let _second = intruder.start(&[(1, one.address())]).await;
    numbered(number, vm(1), 0..3, &intruder.kernel);
    numbered(1, vm(number), 0..3, &one.kernel);
    let back = |place: &Place| place.kernel.came_back.borrow().len();
    until("both give up", || back(&one) == 3 && back(&intruder) == 3).await;
    assert_eq!(texts(&one.kernel), []);
    assert_eq!(texts(&intruder.kernel), []);
}

#[test]
fn nobody_enters_without_a_certificate_of_the_authority() {
    let other = Directory::certified("other-authority");
    run(async {
        never_enters(&other.of(2), 2, &other.0.join("state")).await;
    });
}

#[test]
fn who_was_revoked_does_not_enter() {
    let directory = Directory::certified("revoked");
    certificates::revoke(&directory.0, host(2)).unwrap();
    // Nothing was issued since.
    assert!(certificates::revoke(&directory.0, host(2)).is_err());
    certificates::revoke(&directory.0, host(3)).unwrap();
    let list = directory.0.join(certificates::REVOKED);
    std::fs::copy(list, directory.of(1).join(certificates::REVOKED)).unwrap();
    run(async {
        let (one, two) = (Place::new(&directory, 1), Place::new(&directory, 2));
        let _first = one.start(&[(2, two.address())]).await;
        let second = two.start(&[]).await;
        numbered(1, vm(2), 0..3, &one.kernel);
        until("given up", || one.kernel.came_back.borrow().len() == 3).await;
        assert_eq!(texts(&two.kernel), []);
        // It gets another certificate.
        second.abort();
        let _ = second.await;
        std::fs::remove_dir_all(directory.of(2)).unwrap();
        certificates::issue(&directory.0, host(2), &directory.of(2)).unwrap();
        assert!(directory.of(2).join(certificates::REVOKED).exists());
        let _second = two.start(&[]).await;
        until("connected", || one.kernel.platforms.borrow().len() == 1).await;
        numbered(1, vm(2), 3..5, &one.kernel);
        until("it arrives", || texts(&two.kernel) == [3, 4]).await;
    });
}

#[test]
fn a_certificate_is_for_one_host() {
    let directory = Directory::certified("one-host");
    run(async {
        // Its own daemon does not even start with the certificate of another.
        let tls = Tls::load(&directory.of(3)).unwrap();
        assert!(tls.is_for(host(3).into()));
        assert!(!tls.is_for(host(2).into()));
    });
}

#[test]
fn whoever_talks_something_else_is_sent_away() {
    let directory = Directory::certified("noise");
    run(async {
        let (one, two) = (Place::new(&directory, 1), Place::new(&directory, 2));
        let _first = one.start(&[(2, two.address())]).await;
        let _second = two.start(&[]).await;
        for _ in 0..100 {
            let mut stranger = TcpStream::connect(two.address()).await.unwrap();
            stranger.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
        }
        numbered(1, vm(2), 0..5, &one.kernel);
        until("others go on", || texts(&two.kernel).len() == 5).await;
    });
}
