// SPDX-License-Identifier: MIT OR Apache-2.0

//! One connection to a peer, from its handshake to its end.

use crate::Host;
use crate::bridge::{Bridge, is_passing};
use crate::frame::{Frame, Hello, MAX_FRAME};
use crate::incoming::check;
use crate::node::{Node, Peer};
use crate::places::Uuid;
use crate::tls::is_of;
use anyhow::{Context, Result, bail, ensure};
use mgmt_wire::{Component, Reason, Serial};
use rustls::pki_types::ServerName;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, BufWriter, ReadHalf, WriteHalf,
    split,
};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

/// Something is said at least so often.
const ALIVE: Duration = Duration::from_secs(1);
/// A peer of which nothing was heard for this time is away.
const SILENCE: Duration = Duration::from_secs(10);
/// How long to wait for a receiver that has no room, before it is asked again.
const ROOM: Duration = Duration::from_millis(2);
/// Messages of a peer that wait for the bridge, before no more is read.
const BACKLOG: usize = 8;
/// What hardware a peer has is looked at no more often than this.
const PACE: Duration = Duration::from_millis(100);
/// Refusals of one session that are logged.
const LOGGED: usize = 16;

/// Who began a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Side {
    /// This host, to the peer that is expected there.
    Dials(Host),
    /// Somebody.
    Listens,
}

type Stream = tokio_rustls::TlsStream<TcpStream>;

/// A connection to a peer that is who it says.
pub(crate) struct Session {
    peer: Rc<Peer>,
    number: u64,
    reader: BufReader<ReadHalf<Stream>>,
    writer: BufWriter<WriteHalf<Stream>>,
    replies: Replies,
}

/// What of a peer is dealt with in the order in which it was sent.
enum Item {
    Message(u64, Vec<u8>),
    Guests(Vec<Uuid>),
    Handed(Uuid),
    Hardware(Vec<Serial>),
}

/// What is to be told of the peer's messages.
#[derive(Default)]
struct Replies {
    received: Cell<Option<u64>>,
    refused: RefCell<Vec<(u64, Reason)>>,
}

async fn read(from: &mut (impl AsyncRead + Unpin)) -> Result<Frame> {
    let length = from.read_u32_le().await? as usize;
    ensure!(length <= MAX_FRAME, "a frame of {length} bytes");
    let mut bytes = vec![0; length];
    from.read_exact(&mut bytes).await?;
    Ok(Frame::decode(&bytes)?)
}

async fn write(to: &mut (impl AsyncWrite + Unpin), frame: &Frame) -> Result<()> {
    Ok(to.write_all(&frame.encode()).await?)
}

/// Shakes hands: certificates, then names, which must be those of the certificates, then where each
/// stands.
pub(crate) async fn enter<B: Bridge + 'static>(
    node: &Node<B>,
    stream: TcpStream,
    side: Side,
) -> Result<Session> {
    let mut stream: Stream = match side {
        Side::Dials(host) => {
            let name = ServerName::IpAddress(host.ip().into());
            let connector = node.tls.borrow().connector.clone();
            connector.connect(name, stream).await?.into()
        }
        Side::Listens => {
            let acceptor = node.tls.borrow().acceptor.clone();
            acceptor.accept(stream).await?.into()
        }
    };
    let certificate = match &stream {
        tokio_rustls::TlsStream::Client(stream) => stream.get_ref().1.peer_certificates(),
        tokio_rustls::TlsStream::Server(stream) => stream.get_ref().1.peer_certificates(),
    };
    let certificate = certificate
        .and_then(<[_]>::first)
        .context("no certificate")?
        .clone();
    let hello = |lineage, known, received| {
        Frame::Hello(Hello {
            host: node.options.host,
            lineage,
            known,
            received,
        })
    };
    let lineage = node.bridge.standing().lineage;
    let its = match side {
        // Who listens says nothing to whom it does not know.
        Side::Listens => greeting(read(&mut stream).await?)?,
        Side::Dials(host) => {
            let taken = node.journal.borrow().incoming(host);
            write(&mut stream, &hello(lineage, taken.lineage, taken.received)).await?;
            stream.flush().await?;
            greeting(read(&mut stream).await?)?
        }
    };
    if !is_of(&certificate, its.host) {
        bail!(
            "it says that it is {}, and its certificate does not",
            its.host
        );
    }
    match side {
        Side::Dials(host) => ensure!(its.host == host, "{} is where {host} should be", its.host),
        Side::Listens => {
            ensure!(
                its.host != node.options.host,
                "it has the address of this host"
            );
            let taken = node.journal.borrow().incoming(its.host);
            write(&mut stream, &hello(lineage, taken.lineage, taken.received)).await?;
            stream.flush().await?;
        }
    }
    // It may have been revoked since the handshake began.
    ensure!(
        !node.tls.borrow().is_revoked(&certificate),
        "its certificate is revoked"
    );
    let peer = node.peer(its.host).context("too many hosts")?;
    peer.certificate.replace(Some(certificate));
    let mut taken = node.journal.borrow().incoming(peer.host);
    // Another bridge knows nothing of who asked it.
    let is_new = taken.lineage != its.lineage;
    taken.begin(its.lineage);
    node.journal.borrow_mut().set_incoming(peer.host, taken)?;
    let received = if its.known == lineage {
        its.received
    } else {
        0
    };
    let settled = peer.outgoing.borrow_mut().begin(received);
    node.settle_all(&peer, settled, Reason::None)?;
    let number = peer.session.get() + 1;
    peer.session.set(number);
    peer.ended.notify_waiters();
    peer.away.set(None);
    let was_known = peer.is_known.replace(true);
    if is_new {
        node.forget_hardware(peer.host);
    }
    if is_new && was_known {
        node.note(node.bridge.platform(peer.host, false));
    }
    if is_new || !was_known {
        node.note(node.bridge.platform(peer.host, true));
    }
    tracing::info!(peer = %peer.host, "connected");
    let (reader, writer) = split(stream);
    Ok(Session {
        peer,
        number,
        reader: BufReader::new(reader),
        writer: BufWriter::new(writer),
        replies: Replies::default(),
    })
}

fn greeting(frame: Frame) -> Result<Hello> {
    match frame {
        Frame::Hello(hello) => Ok(hello),
        _ => bail!("it did not say who it is"),
    }
}

impl Session {
    /// Carries messages until the connection ends, or another takes its place.
    pub(crate) async fn run<B: Bridge + 'static>(self, node: &Node<B>) {
        let Self {
            peer,
            number,
            mut reader,
            mut writer,
            replies,
        } = self;
        let (sender, receiver) = mpsc::channel(BACKLOG);
        // Its end comes first: once another session has begun, this one sends and takes nothing more.
        let result = tokio::select! {
            biased;
            () = peer.ended.notified() => Ok(()),
            result = receive(node, &peer, &mut reader, sender) => result,
            result = take(node, &peer, receiver, &replies) => result,
            result = send(node, &peer, &mut writer, &replies) => result,
        };
        if peer.session.get() == number {
            peer.away.set(Some(Instant::now()));
        }
        match result {
            Ok(()) => tracing::info!(peer = %peer.host, "disconnected: ended here"),
            Err(error) => tracing::warn!(peer = %peer.host, "disconnected: {error:#}"),
        }
    }
}

/// Reads what the peer sends. It is not read while its messages wait for the bridge.
async fn receive<B: Bridge + 'static>(
    node: &Node<B>,
    peer: &Peer,
    reader: &mut (impl AsyncRead + Unpin),
    items: mpsc::Sender<Item>,
) -> Result<()> {
    loop {
        let frame = timeout(SILENCE, read(reader)).await;
        match frame.context("nothing was heard of it")?? {
            Frame::Message { number, bytes } => items.send(Item::Message(number, bytes)).await?,
            Frame::Received(number) => {
                let settled = peer.outgoing.borrow_mut().received(number);
                node.settle_all(peer, settled, Reason::None)?;
            }
            Frame::Refused { number, reason } => {
                if peer.outgoing.borrow_mut().refused(number) {
                    tracing::warn!(peer = %peer.host, number, ?reason, "it refused a message");
                    node.settle_all(peer, vec![number], reason)?;
                }
            }
            Frame::Guests(guests) => items.send(Item::Guests(guests)).await?,
            Frame::Handed(guest) => items.send(Item::Handed(guest)).await?,
            Frame::Hardware(serials) => items.send(Item::Hardware(serials)).await?,
            Frame::Alive => {}
            Frame::Hello(_) => bail!("it said twice who it is"),
        }
    }
}

/// Hands the peer's messages to the bridge, one by one, and follows its guests and its hardware.
async fn take<B: Bridge + 'static>(
    node: &Node<B>,
    peer: &Peer,
    mut items: mpsc::Receiver<Item>,
    replies: &Replies,
) -> Result<()> {
    let mut logged = 0;
    let mut known = BTreeSet::new();
    let mut looked: Option<Instant> = None;
    while let Some(item) = items.recv().await {
        let (number, bytes) = match item {
            Item::Message(number, bytes) => (number, bytes),
            Item::Guests(guests) => {
                let before = std::mem::replace(&mut known, guests.iter().copied().collect());
                let new: Vec<_> = known.difference(&before).copied().collect();
                node.announced(peer.host, guests, &new);
                continue;
            }
            Item::Handed(guest) => {
                node.arrivals.borrow_mut().handed(peer.host, &guest);
                node.tend_arrivals();
                continue;
            }
            Item::Hardware(serials) => {
                if let Some(before) = looked.replace(Instant::now()) {
                    sleep(PACE.saturating_sub(before.elapsed())).await;
                }
                for (serial, holder) in node.announced_hardware(peer.host, serials) {
                    if logged < LOGGED {
                        let hardware = Component::Hardware(serial);
                        tracing::warn!(peer = %peer.host, "refused: {hardware} is at {holder}");
                        logged += 1;
                    }
                }
                continue;
            }
        };
        let mut taken = node.journal.borrow().incoming(peer.host);
        if taken.is_new(number) {
            let may_bring = |guest: &Uuid| node.arrivals.borrow().may_bring(peer.host, guest);
            let has = |serial: &Serial| node.speaks_for(peer.host, serial);
            let checked = check(peer.host, &bytes, may_bring, has);
            let refused = match &checked {
                Err(reason) => Some(*reason),
                Ok(_) => hand_in(node, peer, number, &bytes).await?,
            };
            taken.took(number);
            node.journal.borrow_mut().set_incoming(peer.host, taken)?;
            if let Some(reason) = refused {
                if logged < LOGGED {
                    let header = mgmt_wire::Header::of_message(&bytes);
                    let source = header.map_or_else(
                        |_| "?".to_owned(),
                        |header| mgmt_channel::show_address(&header.source),
                    );
                    tracing::warn!(peer = %peer.host, source, "refused a message: it is not from there");
                    logged += 1;
                }
                replies.refused.borrow_mut().push((number, reason));
            }
        }
        replies.received.set(Some(taken.received));
        peer.wake.notify_one();
    }
    Ok(())
}

/// Hands one message to the bridge, when its receiver has room. Why it was refused, if it was.
async fn hand_in<B: Bridge + 'static>(
    node: &Node<B>,
    peer: &Peer,
    number: u64,
    bytes: &[u8],
) -> Result<Option<Reason>> {
    loop {
        let accepted = node.accepted.get();
        node.journal
            .borrow_mut()
            .begin(peer.host, number, accepted)?;
        // From the one to the other nothing else is handed in.
        match node.bridge.write(bytes) {
            Ok(()) => {
                node.accepted.set(accepted + 1);
                return Ok(None);
            }
            Err(error) if is_passing(&error) => sleep(ROOM).await,
            Err(error) => {
                tracing::debug!(%error, "the bridge refused a message");
                return Ok(Some(Reason::Denied));
            }
        }
    }
}

/// Sends what there is to say.
async fn send<B: Bridge + 'static>(
    node: &Node<B>,
    peer: &Peer,
    writer: &mut (impl AsyncWrite + Unpin),
    replies: &Replies,
) -> Result<()> {
    let mut told = None;
    let mut told_hardware = None;
    loop {
        loop {
            // Before anything that might settle it otherwise.
            let refused = std::mem::take(&mut *replies.refused.borrow_mut());
            for (number, reason) in refused {
                write(writer, &Frame::Refused { number, reason }).await?;
            }
            if let Some(number) = replies.received.take() {
                write(writer, &Frame::Received(number)).await?;
            }
            let guests = {
                let guests = node.guests.borrow();
                (told != Some(guests.0)).then(|| guests.clone())
            };
            if let Some((version, guests)) = guests {
                write(writer, &Frame::Guests(guests)).await?;
                told = Some(version);
            }
            let hardware = {
                let hardware = node.hardware.borrow();
                (told_hardware != Some(hardware.0)).then(|| hardware.clone())
            };
            if let Some((version, serials)) = hardware {
                write(writer, &Frame::Hardware(serials)).await?;
                told_hardware = Some(version);
            }
            loop {
                let next = peer.outgoing.borrow().next_number();
                let guest = {
                    let mut handed = peer.handed.borrow_mut();
                    let is_next =
                        |&(behind, _): &(u64, Uuid)| next.is_none_or(|next| next > behind);
                    handed
                        .front()
                        .is_some_and(is_next)
                        .then(|| handed.pop_front())
                        .flatten()
                };
                match guest {
                    Some((_, guest)) => write(writer, &Frame::Handed(guest)).await?,
                    None => break,
                }
            }
            let next = peer
                .outgoing
                .borrow_mut()
                .send_next()
                .map(|(number, bytes)| Frame::Message {
                    number,
                    bytes: bytes.to_vec(),
                });
            match next {
                Some(frame) => write(writer, &frame).await?,
                None => break,
            }
        }
        writer.flush().await?;
        if timeout(ALIVE, peer.wake.notified()).await.is_err() {
            write(writer, &Frame::Alive).await?;
        }
    }
}
