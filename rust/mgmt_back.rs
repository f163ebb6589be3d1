// SPDX-License-Identifier: GPL-2.0

//! `mgmtback`: the management VM's end of the channel to one guest.
//!
//! ```text
//! other end     this end
//! Initialising, InitWait
//!               any but InitWait -> park                          -> InitWait
//! Initialised   InitWait         -> map the rings, start          -> Connected
//!                                   or they are not there any more -> InitWait
//! Initialised   Connected, with other rings -> park, as above      -> InitWait, Connected
//! Closing       any but InitWait -> stop                          -> Closing
//! Closed        any but InitWait -> stop, leave if not online     -> Closed
//! Unknown       any              -> the nodes are gone: stop, or park; leave
//! ```
//!
//! To stop is to end the link; to park it is to keep it until the guest goes on with it, in another
//! channel and perhaps as another domain (`link::life`).
//!
//! Any other state of the other end changes nothing: it may show any state at any time.
//!
//! A frontend whose offers fail too often finds this end `Closed`, or `Closing` where that is its own
//! word, and nothing else: the toolstack has to make the device anew.

use crate::{
    account::Holding,
    channel::{node, read_count, read_lineage, write_lineage, Channel, PROTOCOL},
    link::{Link, Rings, PARK_BRIEFLY},
    mcb::Bridge,
    pure::{
        account::{Owner, Slot},
        lineage::{self, Answer, Lineage, Offer as LineageOffer},
        patience::Patience,
        route::Origin, //
    },
    xen::{
        event::{EventChannel, Port},
        grant::{GrantRef, MappedPages, SharedPages, MAX_PAGES},
        lend::Lender,
        ring::{ring_pages, RingMemory, MAX_PAGE_ORDER},
        xenbus::{
            self,
            read_u32,
            read_uuid,
            Complaints,
            Device,
            DeviceId,
            Driver,
            End,
            State,
            Transaction,
            Verdict, //
        }, //
    }, //
};
use kernel::{
    device::{Bound, Core},
    fmt,
    new_mutex,
    prelude::*,
    str::CString,
    sync::{aref::ARef, Arc, Mutex},
    time::{Instant, Monotonic}, //
};

/// The backend driver.
pub(crate) struct Back;

/// What the driver keeps of one guest.
#[pin_data]
pub(crate) struct BackData {
    bridge: Arc<Bridge>,
    complaints: Arc<Complaints>,
    /// Of the domain there, from one channel to the next.
    account: Holding,
    lender: Arc<Lender>,
    #[pin]
    /// The link, and the session number of its rings.
    link: Mutex<Option<(Arc<Link>, u32)>>,
    #[pin]
    refusals: Mutex<Refusals>,
}

/// Offers that could not be taken: the kernel logs a line of its own for a grant that it cannot
/// map, so that they have to be few.
struct Refusals {
    patience: Patience,
    last: Instant<Monotonic>,
    over: bool,
}

impl Refusals {
    fn new() -> Self {
        Self {
            patience: Patience::new(),
            last: Instant::now(),
            over: false,
        }
    }

    /// Counts one. Whether it is the last.
    fn count(&mut self) -> bool {
        let since = self.last.elapsed().as_millis() / 1000;
        self.last = Instant::now();
        self.over = self.patience.is_over(since.try_into().unwrap_or(0));
        self.over
    }
}

/// 16 bytes as hexadecimal digits.
struct Hex([u8; 16]);

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What a guest has published: numbers, none of them trusted.
struct Offer {
    session: u32,
    lineage: LineageOffer,
    order: u32,
    port: Port,
    tx: [GrantRef; MAX_PAGES],
    rx: [GrantRef; MAX_PAGES],
}

impl Offer {
    /// Reads the guest's nodes, all of one moment. `None` if the guest does not offer anything
    /// then: when it does, its state changes again.
    fn read(dir: &CStr) -> Result<Option<Self>> {
        Transaction::snapshot(|t| {
            if t.read_u32(dir, c"state")? != State::Initialised.number() {
                return Ok(None);
            }
            if t.read_u32(dir, node::PROTOCOL)? != PROTOCOL {
                return Err(EPROTONOSUPPORT);
            }
            let order = t.read_u32(dir, node::PAGE_ORDER)?;
            if order > MAX_PAGE_ORDER {
                return Err(EINVAL);
            }
            let refs = |node| {
                let mut refs = [0; MAX_PAGES];
                let used = refs.get_mut(..ring_pages(order)).ok_or(EINVAL)?;
                t.read_list(dir, node, used)?;
                Ok::<_, Error>(refs)
            };
            let lineage = read_lineage(t, dir)?;
            Ok(Some(Self {
                session: t.read_u32(dir, node::SESSION)?,
                lineage: LineageOffer {
                    link: lineage.link,
                    fresh: read_count(t, dir, node::FRESH)?,
                    received: lineage.received,
                },
                order,
                port: t.read_u32(dir, node::EVENT_CHANNEL)?,
                tx: refs(node::TX_REFS)?,
                rx: refs(node::RX_REFS)?,
            }))
        })
    }

    fn map(&self, dev: &Device<Bound>, refs: &[GrantRef; MAX_PAGES]) -> Result<RingMemory> {
        let refs = refs.get(..ring_pages(self.order)).ok_or(EINVAL)?;
        RingMemory::new(SharedPages::Mapped(MappedPages::new(dev, refs)?))
    }
}

impl BackData {
    /// Publishes what the guest needs to know to offer a channel.
    fn publish(&self, dev: &Device<Bound>) -> Result {
        let names = self.bridge.names();
        Transaction::run(|t| {
            let dir = dev.nodename();
            t.write(dir, node::BACKEND_PROTOCOL, fmt!("{}", PROTOCOL))?;
            t.write(dir, node::MAX_PAGE_ORDER, fmt!("{}", MAX_PAGE_ORDER))?;
            t.write(dir, node::VM_ID, fmt!("{}", dev.otherend_id()))?;
            t.write(dir, node::MVM_ID, fmt!("{}", names.mvm.vm_id))?;
            t.write(dir, node::MVM_IP, fmt!("{}", Hex(names.mvm.mvm_ip)))
        })?;
        dev.switch_state(State::InitWait)
    }

    /// Maps what the guest offers, and starts. All of it is checked, none of it trusted.
    fn connect(&self, dev: &Device<Bound>) -> Result {
        let Some(offer) = Offer::read(dev.otherend()?)? else {
            return Ok(());
        };
        if let Some((_, session)) = &*self.link.lock() {
            if *session == offer.session {
                return Ok(());
            }
        }
        if dev.state() != State::InitWait {
            // It started anew, and we missed the states in between.
            self.park();
            self.publish(dev)?;
        }
        let (link, answer) = self.link_for(dev, &offer.lineage)?;
        // The guest's tx is our rx.
        let rx = offer.map(dev, &offer.tx)?;
        let tx = offer.map(dev, &offer.rx)?;
        let event = EventChannel::bind_interdomain(dev, offer.port, c"mgmtback", link.clone())?;
        let channel = Channel::new(event, tx, rx, &self.lender);
        Transaction::run(|t| {
            let dir = dev.nodename();
            write_lineage(t, dir, answer.link, answer.received)?;
            t.write(dir, node::EPOCH, fmt!("{}", link.epoch()))?;
            t.write(dir, node::SESSION, fmt!("{}", offer.session))
        })?;
        self.bridge.add_guest(&link, dev.otherend_id().into())?;
        if let Err(e) = link.attach(channel, ARef::from(dev), &self.complaints) {
            self.bridge.remove_link(&link);
            return Err(e);
        }
        *self.link.lock() = Some((link, offer.session));
        dev.switch_state(State::Connected)
    }

    /// Says that an offer could not be taken; if it was one too many, closes the device for good.
    fn refuse(&self, dev: &Device<Bound>, error: Error) -> Result {
        self.disconnect();
        self.complaints
            .error(dev, error, c"cannot connect to the frontend");
        if self.refusals.lock().count() {
            dev.error(
                error,
                c"the frontend failed too often: closed until it is attached anew",
            );
            return dev.switch_state(State::Closed);
        }
        // The kernel starts to close a device of which it cannot map a grant. Where the rings were just
        // given up, others follow.
        let is_withdrawn = read_u32(dev.otherend()?, c"state")
            .is_ok_and(|state| state != State::Initialised.number());
        if is_withdrawn && dev.state() != State::InitWait && dev.is_online() {
            self.publish(dev)?;
        }
        Ok(())
    }

    /// The link of the guest if it goes on with one that it had, perhaps as another domain; else a
    /// new one.
    ///
    /// Only a domain with the same UUID can take a link up: the toolstack says which it has.
    fn link_for(&self, dev: &Device<Bound>, offer: &LineageOffer) -> Result<(Arc<Link>, Answer)> {
        let vm_id = dev.otherend_id().into();
        let domain = CString::try_from_fmt(fmt!("/local/domain/{}", vm_id))?;
        let uuid = read_uuid(&domain, c"vm").ok();
        let known = uuid.and_then(|uuid| self.bridge.stable_guest(&uuid));
        if let Some(link) = known {
            if let Ok(answer) = link.go_on(offer) {
                return Ok((link, answer));
            }
            // It will not come back for that one.
            link.end_parked();
        }
        if let Some(link) = self.bridge.guest(vm_id) {
            link.end_parked();
        }
        let (lineage, answer) = Lineage::begin(offer);
        let epoch = self.bridge.new_epoch();
        let link = Link::new(&self.bridge, Origin::Guest(vm_id), uuid, lineage, epoch)?;
        // It had a link that nobody knows here: it may come from another platform.
        if offer.link != lineage::NONE && uuid.is_some() && self.bridge.fabric().is_some() {
            link.arrive();
        }
        Ok((link, answer))
    }

    /// Ends the link, if there is a channel.
    fn disconnect(&self) {
        let old = self.link.lock().take();
        if let Some((link, _)) = old {
            drop(link.close(&self.complaints));
        }
    }

    /// Takes the channel from the link, if there is one, and keeps the link for the next.
    fn park(&self) {
        let old = self.link.lock().take();
        if let Some((link, _)) = old {
            drop(link.park(&self.complaints, Rings::Live, PARK_BRIEFLY));
        }
    }

    /// The guest is gone: for ever, unless it has said that it is suspended.
    fn gone(&self) {
        let old = self.link.lock().take();
        if let Some((link, _)) = old {
            drop(link.park_if_announced(&self.complaints));
        }
    }
}

impl Driver for Back {
    type Data = BackData;

    const END: End = End::Back;
    const ID_TABLE: &'static [DeviceId] = &[DeviceId::new(c"mgmt"), DeviceId::END];

    fn probe<'a>(dev: &'a Device<Core<'_>>) -> impl PinInit<Self::Data, Error> + 'a {
        try_pin_init!(BackData {
            bridge: crate::bridge().ok_or(ENODEV)?,
            complaints: Complaints::new()?,
            account: bridge.accounts.open(Owner::Guest(dev.otherend_id().into()))?,
            lender: Lender::new(dev.otherend_id(), account.none_of(Slot::Pages))?,
            link <- new_mutex!(None, "mgmtback"),
            refusals <- new_mutex!(Refusals::new(), "mgmtback_refusals"),
        })
        .pin_chain(move |data| data.publish(dev))
    }

    fn otherend_changed(dev: &Device<Bound>, data: Pin<&BackData>, state: State) -> Verdict {
        let result = match state {
            State::Initialising | State::InitWait => {
                data.park();
                let over = data.refusals.lock().over;
                if dev.state() == State::InitWait || !dev.is_online() || over {
                    Ok(())
                } else {
                    data.publish(dev)
                }
            }
            State::Initialised => match dev.state() {
                State::InitWait | State::Connected => {
                    // A guest that was in the middle of a change offers again, and we look again;
                    // one that offers nonsense stays unconnected.
                    data.connect(dev).or_else(|e| data.refuse(dev, e))
                }
                _ => Ok(()),
            },
            // Without a link, its rings are of an earlier time: it starts anew when it sees that
            // we wait.
            State::Connected => Ok(()),
            // A frontend that is not there yet, or closes what it had with an earlier backend: we
            // wait for it.
            State::Closing | State::Closed if dev.state() == State::InitWait && dev.is_online() => {
                Ok(())
            }
            State::Closing => {
                data.disconnect();
                dev.switch_state(State::Closing)
            }
            State::Closed => {
                data.disconnect();
                let result = dev.switch_state(State::Closed);
                if !dev.is_online() {
                    return Verdict::Unregister;
                }
                result
            }
            State::Unknown => {
                data.gone();
                return Verdict::Unregister;
            }
        };
        if let Err(e) = result {
            data.disconnect();
            data.complaints.fatal(dev, e, c"cannot serve the frontend");
        }
        Verdict::Keep
    }

    fn resume(_dev: &Device<Bound>, data: Pin<&BackData>) -> Result {
        data.disconnect();
        Ok(())
    }

    fn unbind(dev: &Device<Core<'_>>, data: Pin<&BackData>) {
        let frontend = dev.otherend().and_then(|dir| read_u32(dir, c"state"));
        match frontend {
            Err(_) => data.gone(),
            // If the module goes, too, that ends the link.
            Ok(_) => data.park(),
        }
    }
}

/// Sets the address of this management VM, and tells the guests.
///
/// A guest that could not be told keeps the old one, and the error is returned at the end.
pub(crate) fn set_mvm_ip(bridge: &Bridge, ip: [u8; 16]) -> Result {
    bridge.set_mvm_ip(ip);
    let mut result = Ok(());
    let mut from = 0;
    while let Some((id, link)) = bridge.guest_from(from) {
        // Who has no channel reads it with the next.
        if let Some(dev) = link.device() {
            let told = xenbus::write(dev.nodename(), node::MVM_IP, fmt!("{}", Hex(ip)));
            result = result.and(told);
        }
        match id.checked_add(1) {
            Some(next) => from = next,
            None => break,
        }
    }
    result
}

/// The registration of the driver.
pub(crate) type Registration = kernel::driver::Registration<xenbus::Adapter<Back>>;
