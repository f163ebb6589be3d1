// SPDX-License-Identifier: GPL-2.0

//! `mgmtfront`: a guest's end of the channel to its management VM.
//!
//! ```text
//! other end        this end
//! InitWait         Initialising -> make rings, publish them -> Initialised
//! Connected        Initialised  -> read the names, start    -> Connected
//! InitWait         any other    -> park: the backend started anew -> InitWait, then as above
//! Closing, Closed  Initialised, Connected -> park, or stop if it is not online -> Closed
//! ```
//!
//! To park the link is to keep it until there is a backend again, here or, after a migration,
//! elsewhere (`link::life`). The bridge has it meanwhile.
//!
//! When the module is loaded again, it finds the device closed and goes to InitWait.
//!
//! Any other state of the other end changes nothing.

use crate::{
    account::Holding,
    channel::{node, read_lineage, write_count, write_lineage, Channel, PROTOCOL},
    link::{Link, Rings, PARK_UPLINK},
    mcb::Bridge,
    pure::{
        account::{Owner, Slot},
        lineage::{Lineage, Offer, NONE},
        route::{Above, Origin, VmName}, //
    },
    xen::{
        self,
        event::EventChannel,
        grant::{GrantRef, GrantedPages, SharedPages},
        lend::Lender,
        ring::{ring_pages, RingMemory, MAX_PAGE_ORDER},
        xenbus::{
            self,
            read_u32,
            Complaints,
            Device,
            DeviceId,
            Driver,
            End,
            State,
            Transaction,
            Verdict,
            Watch,
            WatchHandler, //
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
    time::{delay::fsleep, Delta}, //
};

/// The frontend driver.
pub(crate) struct Front;

/// What the driver keeps of its device.
#[pin_data]
pub(crate) struct FrontData {
    bridge: Arc<Bridge>,
    complaints: Arc<Complaints>,
    /// Of the domain there, from one channel to the next.
    account: Holding,
    lender: Arc<Lender>,
    #[pin]
    state: Mutex<Connection>,
}

/// What is to become of the link when its channel goes.
enum Then {
    /// It goes on in the next channel.
    Park(Rings),
    End,
}

enum Connection {
    None,
    /// The rings are published, under this session number; the backend has not taken them yet.
    Offered(Arc<Link>, Channel, u32, Offer),
    Up(Arc<Link>, Watch<Renamed>),
    /// Nothing moves any more, but the backend may still map the rings: kept until it has closed,
    /// since pages whose grants cannot be ended yet come back only slowly.
    Ending(#[allow(dead_code)] Channel),
}

/// Follows the address of the management VM.
pub(crate) struct Renamed {
    bridge: Arc<Bridge>,
    dev: ARef<Device>,
    complaints: Arc<Complaints>,
    otherend: CString,
}

impl WatchHandler for Renamed {
    fn on_change(&self) {
        if let Err(e) = read_names(&self.otherend).map(|above| self.bridge.set_above(above)) {
            // The backend may write nonsense as often as it likes.
            let what = c"cannot read the management VM's names";
            self.complaints.error(&self.dev, e, what);
        }
    }
}

/// Numbers, separated by spaces.
struct List<'a>(&'a [GrantRef]);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, number) in self.0.iter().enumerate() {
            write!(f, "{}{number}", if i == 0 { "" } else { " " })?;
        }
        Ok(())
    }
}

/// Reads what the backend calls this domain and itself.
fn read_names(otherend: &CStr) -> Result<Above> {
    Transaction::snapshot(|t| {
        let own = VmName {
            mvm_ip: t.read_hex(otherend, node::MVM_IP)?,
            vm_id: t.read_u32(otherend, node::VM_ID)?,
        };
        let mvm_id = t.read_u32(otherend, node::MVM_ID)?;
        Ok(Above::Connected { own, mvm_id })
    })
}

/// Publishes that this frontend starts, unless it is a new one.
///
/// `Initialising` is the toolstack's word for a new device: current kernels take it, where they
/// did not expect it, as a sign that the toolstack made the device anew, and remove this one.
fn start_anew(dev: &Device<Bound>) -> Result {
    match dev.state() {
        State::Initialising => Ok(()),
        _ => dev.switch_state(State::InitWait),
    }
}

/// Whether this end waits for the backend to be ready, and has nothing to lose yet.
fn is_starting(dev: &Device<Bound>) -> bool {
    matches!(dev.state(), State::Initialising | State::InitWait)
}

/// Gives the backend a moment to give the rings up, where that is what happens.
///
/// Not if the device's nodes are gone or new: then this is the xenwatch thread, which may not wait.
fn wait_for_backend(dev: &Device<Bound>) {
    if read_u32(dev.nodename(), c"state") != Ok(State::Closing.number()) {
        return;
    }
    let Ok(otherend) = dev.otherend() else {
        return;
    };
    for _ in 0..PATIENCE {
        if read_u32(otherend, c"state") != Ok(State::Connected.number()) {
            return;
        }
        fsleep(Delta::from_millis(PAUSE_MS));
    }
}

/// How often, and in steps of how many milliseconds, [`wait_for_backend`] waits.
const PATIENCE: u32 = 100;
const PAUSE_MS: i64 = 5;

fn make_ring(dev: &Device<Bound>, order: u32) -> Result<GrantedPages> {
    GrantedPages::new(dev, ring_pages(order))
}

/// A name for a new lineage.
fn fresh() -> u64 {
    u64::from(xen::random()) << 32 | u64::from(xen::random())
}

impl FrontData {
    /// Makes the rings and publishes them.
    fn offer(&self, dev: &Device<Bound>) -> Result {
        let otherend = dev.otherend()?;
        let (protocol, max_order) = Transaction::snapshot(|t| {
            Ok((
                t.read_u32(otherend, node::BACKEND_PROTOCOL)?,
                t.read_u32(otherend, node::MAX_PAGE_ORDER)?,
            ))
        })?;
        if protocol != PROTOCOL {
            return Err(EPROTONOSUPPORT);
        }
        let order = max_order.min(MAX_PAGE_ORDER);
        let session = xen::random();

        let link = match self.bridge.uplink() {
            Some(parked) => parked,
            None => Link::new(&self.bridge, Origin::Uplink, None, Lineage::new(NONE), 0)?,
        };
        let offer = link.offer(fresh());
        let tx = make_ring(dev, order)?;
        let rx = make_ring(dev, order)?;
        let (event, port) = EventChannel::alloc(dev, c"mgmtfront", link.clone())?;

        Transaction::run(|t| {
            let dir = dev.nodename();
            t.write(dir, node::PROTOCOL, fmt!("{}", PROTOCOL))?;
            t.write(dir, node::SESSION, fmt!("{}", session))?;
            write_lineage(t, dir, offer.link, offer.received)?;
            write_count(t, dir, node::FRESH, offer.fresh)?;
            t.write(dir, node::PAGE_ORDER, fmt!("{}", order))?;
            t.write(dir, node::EVENT_CHANNEL, fmt!("{}", port))?;
            t.write(dir, node::TX_REFS, fmt!("{}", List(tx.refs())))?;
            t.write(dir, node::RX_REFS, fmt!("{}", List(rx.refs())))
        })?;

        let channel = Channel::new(
            event,
            RingMemory::new(SharedPages::Granted(tx))?,
            RingMemory::new(SharedPages::Granted(rx))?,
            &self.lender,
        );
        *self.state.lock() = Connection::Offered(link, channel, session, offer);
        dev.switch_state(State::Initialised)
    }

    /// The backend has taken the rings: starts.
    fn connect(&self, dev: &Device<Bound>) -> Result {
        let otherend = dev.otherend()?;
        let mut state = self.state.lock();
        let Connection::Offered(_, _, session, _) = &*state else {
            return Ok(());
        };
        let (taken, answer, epoch) = Transaction::snapshot(|t| {
            Ok((
                t.read_u32(otherend, node::SESSION)?,
                read_lineage(t, otherend)?,
                t.read_u32(otherend, node::EPOCH)?,
            ))
        })?;
        // A backend that shows an earlier session has not seen these rings yet.
        if taken != *session {
            return Ok(());
        }
        let Connection::Offered(link, channel, _, offer) =
            core::mem::replace(&mut *state, Connection::None)
        else {
            return Ok(());
        };
        let above = read_names(otherend)?;
        let comeback = link.accept(&offer, &answer).map_err(|_| EPROTO)?;
        link.set_epoch(epoch);
        self.bridge.set_uplink(&link, above, comeback);
        if link
            .attach(channel, ARef::from(dev), &self.complaints)
            .is_err()
        {
            // Its time was up just now: another one is offered.
            self.bridge.remove_link(&link);
            return start_anew(dev);
        }
        let watch = Watch::new(
            CString::try_from_fmt(fmt!("{}/{}", otherend.to_str()?, "mvm-ip"))?,
            Arc::new(
                Renamed {
                    bridge: self.bridge.clone(),
                    dev: ARef::from(dev),
                    complaints: self.complaints.clone(),
                    otherend: CString::try_from(otherend)?,
                },
                GFP_KERNEL,
            )?,
        );
        let watch = match watch {
            Ok(watch) => watch,
            Err(e) => {
                drop(link.close(&self.complaints));
                return Err(e);
            }
        };
        *state = Connection::Up(link, watch);
        drop(state);
        dev.switch_state(State::Connected)
    }

    /// Stops, whatever the state, and keeps the rings.
    fn stop(&self, then: Then) {
        let mut state = self.state.lock();
        let (channel, watch) = match core::mem::replace(&mut *state, Connection::None) {
            Connection::None => (None, None),
            Connection::Offered(_, channel, ..) | Connection::Ending(channel) => {
                (Some(channel), None)
            }
            Connection::Up(link, watch) => {
                let channel = match then {
                    Then::Park(rings) => link.park(&self.complaints, rings, PARK_UPLINK),
                    Then::End => link.close(&self.complaints),
                };
                (channel, Some(watch))
            }
        };
        if let Some(channel) = channel {
            *state = Connection::Ending(channel);
        }
        drop(state);
        // It ends when no watch is being told, and who is told of this device wants the state.
        drop(watch);
    }

    /// Stops, whatever the state, and gives the rings up: the backend has closed, or never will.
    fn disconnect(&self, then: Then) {
        self.stop(then);
        let old = core::mem::replace(&mut *self.state.lock(), Connection::None);
        drop(old);
    }
}

/// What is to become of the link when the backend closes: one that is to be removed does not come
/// back.
fn when_closed(dev: &Device<Bound>) -> Then {
    let online = dev
        .otherend()
        .and_then(|otherend| read_u32(otherend, c"online"));
    match online {
        Ok(0) => Then::End,
        _ => Then::Park(Rings::Live),
    }
}

impl Driver for Front {
    type Data = FrontData;

    const END: End = End::Front;
    const ID_TABLE: &'static [DeviceId] = &[DeviceId::new(c"mgmt"), DeviceId::END];

    fn probe<'a>(dev: &'a Device<Core<'_>>) -> impl PinInit<Self::Data, Error> + 'a {
        try_pin_init!(FrontData {
            bridge: crate::bridge().ok_or(ENODEV)?,
            complaints: Complaints::new()?,
            account: bridge.accounts.open(Owner::Uplink)?,
            lender: Lender::new(dev.otherend_id(), account.none_of(Slot::Pages))?,
            state <- new_mutex!(Connection::None, "mgmtfront"),
            // The device may have been closed by an earlier incarnation of this module.
            _: { start_anew(dev)? },
        })
    }

    fn otherend_changed(dev: &Device<Bound>, data: Pin<&FrontData>, state: State) -> Verdict {
        let result = match state {
            State::InitWait => {
                // Rings that were offered and not taken are as good for a new backend.
                if matches!(*data.state.lock(), Connection::Offered(..)) {
                    return Verdict::Keep;
                }
                data.disconnect(Then::Park(Rings::Live));
                start_anew(dev).and_then(|()| data.offer(dev))
            }
            State::Connected => data.connect(dev),
            // The backend still says goodbye to an earlier incarnation of this end.
            State::Closing | State::Closed if is_starting(dev) => Ok(()),
            State::Closing | State::Closed => {
                if dev.state() == State::Initialised {
                    // So that a new backend does not take rings that are about to go. Nothing to do
                    // if it cannot be written: `Closed` follows.
                    let _ = dev.switch_state(State::Closing);
                }
                if state == State::Closing {
                    data.stop(when_closed(dev));
                } else {
                    data.disconnect(when_closed(dev));
                }
                if dev.state() != State::Closed {
                    dev.frontend_closed();
                }
                Ok(())
            }
            State::Unknown | State::Initialising | State::Initialised => Ok(()),
        };
        if let Err(e) = result {
            data.stop(Then::End);
            data.complaints
                .fatal(dev, e, c"cannot connect to the backend");
        }
        Verdict::Keep
    }

    fn suspend(_dev: &Device<Bound>, data: Pin<&FrontData>) {
        if let Connection::Up(link, _) = &*data.state.lock() {
            link.pause();
        }
    }

    fn resume(_dev: &Device<Bound>, data: Pin<&FrontData>) -> Result {
        data.disconnect(Then::Park(Rings::Stale));
        Ok(())
    }

    fn unbind(dev: &Device<Core<'_>>, data: Pin<&FrontData>) {
        // First, so that the backend does not take rings that are about to go. Nothing to do if it
        // cannot be written: `Closed` follows.
        let _ = dev.switch_state(State::Closing);
        // After a resume in which nobody had made the nodes again, they are made now, and the
        // device with them.
        let then = if dev.otherend().is_err() {
            Then::Park(Rings::Stale)
        } else {
            Then::End
        };
        data.stop(then);
        wait_for_backend(dev);
        data.disconnect(Then::End);
    }
}

/// The registration of the driver.
pub(crate) type Registration = kernel::driver::Registration<xenbus::Adapter<Front>>;
