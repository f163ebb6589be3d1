// SPDX-License-Identifier: MIT OR Apache-2.0

//! One host of the fabric: what its bridge hands over goes to the right peer, and peers are connected
//! as long as the daemon runs.
//!
//! One thread does it all, so that nothing needs a lock.

use crate::Host;
use crate::arrivals::Arrivals;
use crate::bridge::{Bridge, Guest};
use crate::copies::Copies;
use crate::frame::MAX_HARDWARE;
use crate::holders::{Changes, Holders};
use crate::journal::Journal;
use crate::outgoing::{Full, Limits, Outgoing};
use crate::places::{Places, Uuid};
use crate::session::{self, Side};
use crate::tls::Tls;
use mgmt_wire::{Component, Header, Reason, Serial};
use rustls::pki_types::CertificateDer;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::spawn_local;
use tokio::time::{sleep, timeout};

/// The port that hosts listen on.
pub const PORT: u16 = 7440;
/// Most hosts that one knows.
const MAX_PEERS: usize = 1024;
/// Most connections whose other end is not known yet.
const MAX_STRANGERS: usize = 32;
/// A handshake must end within this time.
pub(crate) const HANDSHAKE: Duration = Duration::from_secs(10);
/// How often guests are looked at.
const TICK: Duration = Duration::from_millis(200);
/// As many messages as may wait to be read from the bridge.
const WAITING: usize = 4096;
/// Times between two attempts to connect.
const RETRY: Duration = Duration::from_millis(500);

/// How a host is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// This host.
    pub host: Host,
    /// The peers that it knows from the start, and where they listen.
    pub peers: Vec<(Host, SocketAddr)>,
    /// How long messages wait for a peer that is away.
    pub patience: Duration,
    /// What may be on its way to one peer.
    pub limits: Limits,
    /// Where the journal is.
    pub state: PathBuf,
}

/// Another host.
pub(crate) struct Peer {
    pub(crate) host: Host,
    pub(crate) outgoing: RefCell<Outgoing>,
    /// There is something to send.
    pub(crate) wake: Notify,
    /// Guests of which nothing is left here once the message with this number is sent.
    pub(crate) handed: RefCell<VecDeque<(u64, Uuid)>>,
    /// There may be room for more.
    room: Notify,
    /// Since when its queue is full, and nothing of it was taken.
    full: Cell<Option<Instant>>,
    /// The number of its session; an older one ends.
    pub(crate) session: Cell<u64>,
    pub(crate) ended: Notify,
    /// That of its last session.
    pub(crate) certificate: RefCell<Option<CertificateDer<'static>>>,
    /// Since when it is away; `None` while it is connected.
    pub(crate) away: Cell<Option<Instant>>,
    /// Whether those who watch somebody there know it as there.
    pub(crate) is_known: Cell<bool>,
}

impl Peer {
    /// Queues a message, if there is room.
    fn push(&self, number: u64, bytes: Rc<Vec<u8>>) -> Result<(), Full> {
        let pushed = self.outgoing.borrow_mut().push(number, bytes);
        if pushed.is_ok() {
            self.wake.notify_one();
        } else if self.full.get().is_none() {
            self.full.set(Some(Instant::now()));
        }
        pushed
    }
}

/// This host.
pub struct Node<B> {
    pub(crate) bridge: B,
    pub(crate) options: Options,
    pub(crate) tls: RefCell<Tls>,
    pub(crate) peers: RefCell<BTreeMap<Host, Rc<Peer>>>,
    pub(crate) places: RefCell<Places>,
    holders: RefCell<Holders>,
    copies: RefCell<Copies>,
    pub(crate) journal: RefCell<Journal>,
    /// Messages that the bridge has taken.
    pub(crate) accepted: Cell<u64>,
    /// The guests here that are connected, and how often that has changed.
    pub(crate) guests: RefCell<(u64, Vec<Uuid>)>,
    /// The hardware that is served here, and how often that has changed.
    pub(crate) hardware: RefCell<(u64, Vec<Serial>)>,
    /// Guests that have come here, of which others may have something.
    pub(crate) arrivals: RefCell<Arrivals>,
    /// Guests that are on other hosts now, which are to be told when nothing is left of them here; and
    /// those of which all that is left waits to be read.
    leaving: RefCell<BTreeSet<(Host, Uuid)>>,
    left: RefCell<Vec<(Host, Uuid)>>,
    has_left: Notify,
    strangers: Cell<usize>,
}

impl<B: Bridge + 'static> Node<B> {
    /// Takes up the work that an earlier daemon left.
    pub fn new(bridge: B, options: Options, tls: Tls) -> anyhow::Result<Rc<Self>> {
        anyhow::ensure!(
            tls.is_for(options.host),
            "this host is {}, and its certificate is not for that",
            options.host
        );
        let standing = bridge.standing();
        let journal = Journal::open(&options.state, standing.lineage, standing.accepted)?;
        let node = Rc::new(Self {
            accepted: Cell::new(standing.accepted),
            bridge,
            tls: RefCell::new(tls),
            peers: RefCell::default(),
            places: RefCell::default(),
            holders: RefCell::default(),
            copies: RefCell::default(),
            journal: RefCell::new(journal),
            guests: RefCell::default(),
            hardware: RefCell::default(),
            arrivals: RefCell::default(),
            leaving: RefCell::default(),
            left: RefCell::default(),
            has_left: Notify::new(),
            strangers: Cell::new(0),
            options,
        });
        for &(host, _) in &node.options.peers {
            anyhow::ensure!(host != node.options.host, "{host} is this host");
            node.peer(host);
        }
        Ok(node)
    }

    /// Carries messages until the bridge is gone. Must be called in a `LocalSet`.
    pub async fn run(self: &Rc<Self>, listener: TcpListener) -> io::Result<()> {
        spawn_local(self.clone().listen(listener));
        for &(host, address) in &self.options.peers {
            // One of two dials, so that there is one connection.
            if self.options.host < host {
                spawn_local(self.clone().dial(host, address));
            }
        }
        spawn_local(self.clone().tend());
        loop {
            let left = std::mem::take(&mut *self.left.borrow_mut());
            let mut more = WAITING;
            while let Some((number, bytes)) = self.bridge.read()? {
                self.route(number, bytes).await?;
                tokio::task::yield_now().await;
                more -= 1;
                if more == 0 {
                    break;
                }
            }
            // All that waited is on its way.
            for (host, guest) in left {
                self.hand(host, guest);
            }
            if more > 0 {
                tokio::select! {
                    done = self.bridge.readable() => done?,
                    () = self.has_left.notified() => {}
                }
            }
        }
    }

    /// Takes other certificates, and another list of those that are revoked. Sessions end whose peers'
    /// are among these.
    pub fn reload(&self, tls: Tls) -> anyhow::Result<()> {
        anyhow::ensure!(
            tls.is_for(self.options.host),
            "the certificate is not for this host"
        );
        for peer in self.peers.borrow().values() {
            let certificate = peer.certificate.borrow();
            let is_revoked = certificate.as_ref().is_some_and(|it| tls.is_revoked(it));
            if is_revoked && peer.away.get().is_none() {
                tracing::warn!(peer = %peer.host, "refused: its certificate is revoked");
                peer.ended.notify_waiters();
            }
        }
        *self.tls.borrow_mut() = tls;
        Ok(())
    }

    /// The peer with this address; `None` if there are too many.
    pub(crate) fn peer(&self, host: Host) -> Option<Rc<Peer>> {
        let mut peers = self.peers.borrow_mut();
        if let Some(peer) = peers.get(&host) {
            return Some(peer.clone());
        }
        if peers.len() >= MAX_PEERS {
            return None;
        }
        let peer = Rc::new(Peer {
            host,
            outgoing: RefCell::new(Outgoing::new(self.options.limits)),
            wake: Notify::new(),
            handed: RefCell::default(),
            room: Notify::new(),
            full: Cell::new(None),
            session: Cell::new(0),
            ended: Notify::new(),
            certificate: RefCell::default(),
            away: Cell::new(Some(Instant::now())),
            // An earlier daemon has said so then.
            is_known: Cell::new(self.journal.borrow().incoming(host).lineage != 0),
        });
        peers.insert(host, peer.clone());
        Some(peer)
    }

    /// Queues what the bridge handed over for the right peer.
    ///
    /// While that has no room, nothing more is taken from the bridge, so that senders wait.
    async fn route(&self, number: u64, bytes: Vec<u8>) -> io::Result<()> {
        let Ok(header) = Header::of_message(&bytes) else {
            return self.settle(number, Reason::NoComponent);
        };
        if let Component::Hardware(serial) = header.source.component {
            self.vouch(serial);
        }
        let host = match header.destination.component {
            Component::Vm { mvm_ip, .. } => Some(Host(mvm_ip)),
            Component::Everywhere => return self.spread(number, bytes).await,
            component if self.holds(&component, number) => return Ok(()),
            // An earlier daemon may have sent it, and the guest moved since.
            Component::Stable(uuid) => {
                let sent = self.journal.borrow().route(number);
                sent.or_else(|| self.places.borrow().find(&uuid))
            }
            Component::Hardware(serial) => {
                let sent = self.journal.borrow().route(number);
                sent.or_else(|| self.holders.borrow().find(&serial))
            }
            _ => None,
        };
        let peer = host.and_then(|host| self.peers.borrow().get(&host).cloned());
        let Some(peer) = peer.filter(|peer| !self.is_lost(peer)) else {
            return self.settle(number, Reason::NoComponent);
        };
        if let Component::Stable(_) | Component::Hardware(_) = header.destination.component {
            self.journal.borrow_mut().set_route(number, peer.host)?;
        }
        self.push(&peer, number, Rc::new(bytes), &header.destination.component)
            .await
    }

    /// Queues one message for every peer that is there, or was not long ago. Those that have room get it at
    /// once, and it is settled when that is known of each.
    async fn spread(&self, number: u64, bytes: Vec<u8>) -> io::Result<()> {
        let peers: Vec<_> = {
            let peers = self.peers.borrow();
            let there = peers.values().filter(|peer| !self.is_lost(peer));
            there.cloned().collect()
        };
        // One more, until all have been looked at.
        self.copies.borrow_mut().begin(number, peers.len() + 1);
        let bytes = Rc::new(bytes);
        let (_, full): (Vec<_>, Vec<_>) = peers
            .iter()
            .partition(|peer| peer.push(number, bytes.clone()).is_ok());
        for peer in full {
            let component = Component::Everywhere;
            self.push(peer, number, bytes.clone(), &component).await?;
        }
        self.settle(number, Reason::None)
    }

    /// Queues a message for a peer, when that has room; it comes back if that takes too long.
    async fn push(
        &self,
        peer: &Peer,
        number: u64,
        mut bytes: Rc<Vec<u8>>,
        component: &Component,
    ) -> io::Result<()> {
        loop {
            let Err(Full(left)) = peer.push(number, bytes) else {
                return Ok(());
            };
            let since = peer.full.get().unwrap_or_else(Instant::now);
            let left_time = self.options.patience.saturating_sub(since.elapsed());
            if timeout(left_time, peer.room.notified()).await.is_err() {
                tracing::debug!(peer = %peer.host, "no room for more messages");
                return self.settle(number, Reason::Quota);
            }
            // Meanwhile a guest may have come here.
            if self.holds(component, number) {
                return Ok(());
            }
            bytes = left;
        }
    }

    /// Holds a message back if it is for a guest that arrives here.
    fn holds(&self, component: &Component, number: u64) -> bool {
        match component {
            Component::Stable(guest) => self.arrivals.borrow_mut().hold(guest, number),
            _ => false,
        }
    }

    /// Messages to this peer are on their way no more.
    pub(crate) fn settle_all(
        &self,
        peer: &Peer,
        numbers: Vec<u64>,
        reason: Reason,
    ) -> io::Result<()> {
        if !numbers.is_empty() {
            peer.full.set(None);
            peer.room.notify_one();
        }
        numbers
            .into_iter()
            .try_for_each(|number| self.settle(number, reason))
    }

    /// Says what became of a message that the bridge handed over, or of one copy of it.
    pub(crate) fn settle(&self, number: u64, reason: Reason) -> io::Result<()> {
        let Some(reason) = self.copies.borrow_mut().ended(number, reason) else {
            return Ok(());
        };
        self.journal.borrow_mut().settled(number);
        self.bridge.settle(number, reason)
    }

    fn is_lost(&self, peer: &Peer) -> bool {
        peer.away
            .get()
            .is_some_and(|since| since.elapsed() >= self.options.patience)
    }

    /// Looks after what changes with time: peers that stay away, and guests that come and go.
    async fn tend(self: Rc<Self>) {
        loop {
            let peers: Vec<_> = self.peers.borrow().values().cloned().collect();
            for peer in peers.iter().filter(|peer| self.is_lost(peer)) {
                let left = peer.outgoing.borrow_mut().give_up();
                if !left.is_empty() {
                    tracing::warn!(peer = %peer.host, messages = left.len(), "given up: the peer is away");
                }
                self.places.borrow_mut().forget(peer.host);
                self.note(self.settle_all(peer, left, Reason::PeerGone));
                self.forget_hardware(peer.host);
                if peer.is_known.replace(false) {
                    self.note(self.bridge.platform(peer.host, false));
                }
            }
            match self.bridge.guests() {
                Ok(guests) => self.follow(&guests, &peers),
                Err(error) => tracing::warn!(%error, "the guests are not known"),
            }
            match self.bridge.hardware() {
                Ok(serials) => self.follow_hardware(serials),
                Err(error) => tracing::warn!(%error, "the hardware is not known"),
            }
            sleep(TICK).await;
        }
    }

    fn follow(&self, guests: &[Guest], peers: &[Rc<Peer>]) {
        let here = guests.iter().filter(|guest| guest.connected);
        let mut here: Vec<_> = here.map(|guest| guest.uuid).collect();
        here.sort_unstable();
        let (version, known) = self.guests.borrow().clone();
        for &guest in here.iter().filter(|guest| !known.contains(guest)) {
            self.arrive(guest, peers);
        }
        if known != here {
            for number in self.arrivals.borrow_mut().keep(&here) {
                self.note(self.settle(number, Reason::NoComponent));
            }
            *self.guests.borrow_mut() = (version + 1, here);
            for peer in peers {
                peer.wake.notify_one();
            }
        }
        self.tend_arrivals();
        for guest in guests.iter().filter(|guest| !guest.connected) {
            if self.places.borrow().is_elsewhere(&guest.uuid) {
                match self.bridge.moved(guest.uuid) {
                    Ok(()) => tracing::info!(uuid = ?Hex(guest.uuid), "a guest has moved"),
                    // It is looked at again.
                    Err(error) => tracing::debug!(%error, "a guest that moves"),
                }
            }
        }
        self.leaving.borrow_mut().retain(|&(host, guest)| {
            let is_here = guests.iter().any(|known| known.uuid == guest);
            if !is_here {
                self.left.borrow_mut().push((host, guest));
                self.has_left.notify_one();
            }
            is_here
        });
    }

    /// A guest has its channel here now, and perhaps comes from another host.
    fn arrive(&self, guest: Uuid, peers: &[Rc<Peer>]) {
        let is_for_it = |bytes: &[u8]| {
            Header::of_message(bytes)
                .is_ok_and(|header| header.destination.component == Component::Stable(guest))
        };
        let mut held = Vec::new();
        for peer in peers {
            held.extend(peer.outgoing.borrow_mut().withdraw(is_for_it));
            // Also for what is for it and waits for room.
            peer.room.notify_one();
        }
        let from = self.places.borrow().find(&guest);
        let hosts = peers.iter().map(|peer| peer.host);
        self.arrivals.borrow_mut().begin(guest, from, hosts, held);
    }

    /// Lets those guests go ahead of which nobody else has anything.
    pub(crate) fn tend_arrivals(&self) {
        let away = |host| {
            let peers = self.peers.borrow();
            peers.get(&host).and_then(|peer| peer.away.get())
        };
        let ended = self.arrivals.borrow_mut().ended(away);
        for (guest, held) in ended {
            let from = held.first().copied().unwrap_or(u64::MAX);
            tracing::info!(uuid = ?Hex(guest), messages = held.len(), "a guest is here");
            match self.bridge.here(guest, from) {
                Ok(()) => held
                    .into_iter()
                    .for_each(|number| self.journal.borrow_mut().settled(number)),
                Err(error) => {
                    tracing::warn!(%error, "a guest that came");
                    for number in held {
                        self.note(self.settle(number, Reason::NoComponent));
                    }
                }
            }
        }
    }

    /// A peer says which guests it has, of which these are new.
    pub(crate) fn announced(&self, host: Host, all: Vec<Uuid>, new: &[Uuid]) {
        self.places.borrow_mut().announce(host, all);
        let new = new.iter().map(|&guest| (host, guest));
        self.leaving.borrow_mut().extend(new);
    }

    /// All peers are to know that this hardware is served here.
    fn follow_hardware(&self, mut serials: Vec<Serial>) {
        if serials.len() > MAX_HARDWARE {
            serials.truncate(MAX_HARDWARE);
            if self.hardware.borrow().1 != serials {
                tracing::warn!("there is more hardware here than peers can be told of");
            }
        }
        let (version, known) = &mut *self.hardware.borrow_mut();
        if *known != serials {
            *version += 1;
            *known = serials;
            for peer in self.peers.borrow().values() {
                peer.wake.notify_one();
            }
        }
    }

    /// What the bridge hands over is from hardware that is served here, perhaps since a moment ago: peers
    /// are told before they get it.
    fn vouch(&self, serial: Serial) {
        let mut known = self.hardware.borrow().1.clone();
        if let Err(at) = known.binary_search(&serial) {
            if known.len() < MAX_HARDWARE {
                known.insert(at, serial);
                self.follow_hardware(known);
            }
        }
    }

    /// A peer says which hardware is served there. Returns what is another's, and whose.
    pub(crate) fn announced_hardware(
        &self,
        host: Host,
        serials: Vec<Serial>,
    ) -> Vec<(Serial, Host)> {
        let mut changes = self.holders.borrow_mut().announce(host, serials);
        self.tell_hardware(&changes);
        let ours = changes.there.iter().filter(|serial| self.is_ours(serial));
        let ours = ours.map(|&serial| (serial, self.options.host));
        changes.refused.extend(ours);
        changes.refused
    }

    /// A peer is gone, or knows nothing any more of who watches its hardware.
    pub(crate) fn forget_hardware(&self, host: Host) {
        let changes = self.holders.borrow_mut().forget(host);
        self.tell_hardware(&changes);
    }

    fn tell_hardware(&self, changes: &Changes) {
        for &serial in &changes.gone {
            self.note(self.bridge.hardware_there(serial, false));
        }
        for &serial in &changes.there {
            self.note(self.bridge.hardware_there(serial, true));
        }
    }

    fn is_ours(&self, serial: &Serial) -> bool {
        self.hardware.borrow().1.binary_search(serial).is_ok()
    }

    /// Whether hardware is a peer's, so that this may send as that.
    pub(crate) fn speaks_for(&self, host: Host, serial: &Serial) -> bool {
        !self.is_ours(serial) && self.holders.borrow().find(serial) == Some(host)
    }

    /// Tells a peer that nothing of a guest is left here, behind what is on its way there.
    fn hand(&self, host: Host, guest: Uuid) {
        if let Some(peer) = self.peers.borrow().get(&host) {
            let last = peer.outgoing.borrow().last();
            peer.handed.borrow_mut().push_back((last, guest));
            peer.wake.notify_one();
        }
    }

    /// Logs an error of the bridge, after which its messages are as they were.
    pub(crate) fn note(&self, done: io::Result<()>) {
        if let Err(error) = done {
            tracing::warn!(%error, "bridge");
        }
    }

    async fn dial(self: Rc<Self>, host: Host, address: SocketAddr) {
        let mut last = None;
        loop {
            match timeout(HANDSHAKE, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    let refused = self.enter(stream, Side::Dials(host)).await;
                    // The same is not said again twice a second.
                    if refused != last {
                        if let Some(why) = &refused {
                            tracing::warn!("refused: to {host}: {why}");
                        }
                        last = refused;
                    }
                }
                Ok(Err(error)) => tracing::debug!(peer = %host, %error, "not reached"),
                Err(_) => tracing::debug!(peer = %host, "not reached in time"),
            }
            sleep(RETRY).await;
        }
    }

    async fn listen(self: Rc<Self>, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, from)) if self.strangers.get() >= MAX_STRANGERS => {
                    let from = from.ip().to_canonical();
                    tracing::warn!(%from, "refused: too many handshakes");
                    drop(stream);
                }
                Ok((stream, from)) => {
                    // An IPv4 address as such, also where the socket is IPv6's.
                    let from = SocketAddr::new(from.ip().to_canonical(), from.port());
                    let this = self.clone();
                    spawn_local(async move {
                        if let Some(why) = this.enter(stream, Side::Listens).await {
                            tracing::warn!("refused: from {from}: {why}");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "accept");
                    sleep(RETRY).await;
                }
            }
        }
    }

    /// Shakes hands and carries messages until the connection ends. Why it was refused, if it was.
    async fn enter(&self, stream: TcpStream, side: Side) -> Option<String> {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "nodelay");
        }
        self.strangers.set(self.strangers.get() + 1);
        let entered = timeout(HANDSHAKE, session::enter(self, stream, side)).await;
        self.strangers.set(self.strangers.get() - 1);
        match entered {
            Ok(Ok(session)) => {
                session.run(self).await;
                None
            }
            Ok(Err(error)) => Some(format!("{error:#}")),
            Err(_) => Some("no handshake in time".to_owned()),
        }
    }
}

/// A UUID as digits.
struct Hex(Uuid);

impl std::fmt::Debug for Hex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}
