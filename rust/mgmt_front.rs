// SPDX-License-Identifier: GPL-2.0

//! `mgmtfront`: a guest's end of the channel to its management VM.
//!
//! ```text
//! other end        this end
//! InitWait         Initialising -> make rings, publish them -> Initialised
//! Connected        Initialised  -> read the names, start    -> Connected
//! InitWait         Connected    -> the backend started anew: stop, then as above
//! Closing, Closed  any          -> stop                     -> Closed
//! ```
//!
//! Any other state of the other end changes nothing.

use crate::{
    channel::{node, Channel, PROTOCOL},
    link::Link,
    mcb::Bridge,
    pure::{
        ring::{Consumer, Producer},
        route::{Above, Origin, VmName}, //
    },
    xen::{
        event::EventChannel,
        grant::{GrantedPages, SharedPages},
        ring::{ring_pages, RingMemory, MAX_PAGE_ORDER},
        xenbus::{
            self,
            read_hex,
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
    new_mutex,
    prelude::*,
    str::CString,
    sync::{aref::ARef, Arc, Mutex}, //
};

/// The frontend driver.
pub(crate) struct Front;

/// What the driver keeps of its device.
#[pin_data]
pub(crate) struct FrontData {
    bridge: Arc<Bridge>,
    complaints: Arc<Complaints>,
    #[pin]
    state: Mutex<Connection>,
}

enum Connection {
    None,
    /// The rings are published; the backend has not taken them yet.
    Offered(Arc<Link>, Channel),
    Up(Arc<Link>, #[allow(dead_code)] Watch<Renamed>),
}

/// Follows the address of the management VM.
pub(crate) struct Renamed {
    bridge: Arc<Bridge>,
    otherend: CString,
}

impl WatchHandler for Renamed {
    fn on_change(&self) {
        if let Err(e) = read_names(&self.otherend).map(|above| self.bridge.set_above(above)) {
            pr_warn!("cannot read the management VM's names: {:?}\n", e);
        }
    }
}

/// Reads what the backend calls this domain and itself.
fn read_names(otherend: &CStr) -> Result<Above> {
    let own = VmName {
        mvm_ip: read_hex(otherend, node::MVM_IP)?,
        vm_id: read_u32(otherend, node::VM_ID)?,
    };
    let mvm_id = read_u32(otherend, node::MVM_ID)?;
    Ok(Above::Connected { own, mvm_id })
}

fn make_ring(dev: &Device<Bound>, order: u32) -> Result<GrantedPages> {
    GrantedPages::new(dev, ring_pages(order))
}

impl FrontData {
    /// Makes the rings and publishes them.
    fn offer(&self, dev: &Device<Bound>) -> Result {
        let otherend = dev.otherend();
        if read_u32(otherend, node::BACKEND_PROTOCOL)? != PROTOCOL {
            return Err(EPROTONOSUPPORT);
        }
        let order = read_u32(otherend, node::MAX_PAGE_ORDER)?.min(MAX_PAGE_ORDER);
        let epoch = read_u32(otherend, node::EPOCH)?;

        let link = Link::new(
            &self.bridge,
            ARef::from(dev),
            &self.complaints,
            Origin::Uplink,
            epoch,
        )?;
        let tx = make_ring(dev, order)?;
        let rx = make_ring(dev, order)?;
        let (event, port) = EventChannel::alloc(dev, c"mgmtfront", link.clone())?;

        Transaction::run(|t| {
            let dir = dev.nodename();
            t.write(dir, node::PROTOCOL, fmt!("{}", PROTOCOL))?;
            t.write(dir, node::PAGE_ORDER, fmt!("{}", order))?;
            t.write(dir, node::EVENT_CHANNEL, fmt!("{}", port))?;
            for (prefix, ring) in [(node::TX_REF, &tx), (node::RX_REF, &rx)] {
                for (i, gref) in ring.refs().iter().enumerate() {
                    let name = CString::try_from_fmt(fmt!("{}{}", prefix, i))?;
                    t.write(dir, &name, fmt!("{}", gref))?;
                }
            }
            Ok(())
        })?;

        let channel = Channel {
            tx: Producer::new(RingMemory::new(SharedPages::Granted(tx))?),
            rx: Consumer::new(RingMemory::new(SharedPages::Granted(rx))?),
            event,
        };
        *self.state.lock() = Connection::Offered(link, channel);
        dev.switch_state(State::Initialised)
    }

    /// The backend has taken the rings: starts.
    fn connect(&self, dev: &Device<Bound>) -> Result {
        let mut state = self.state.lock();
        let (link, channel) = match core::mem::replace(&mut *state, Connection::None) {
            Connection::Offered(link, channel) => (link, channel),
            other => {
                *state = other;
                return Ok(());
            }
        };
        self.bridge.set_above(read_names(dev.otherend())?);
        let watch = Watch::new(
            CString::try_from_fmt(fmt!("{}/{}", dev.otherend().to_str()?, "mvm-ip"))?,
            Arc::new(
                Renamed {
                    bridge: self.bridge.clone(),
                    otherend: CString::try_from(dev.otherend())?,
                },
                GFP_KERNEL,
            )?,
        )?;
        self.bridge.add_link(&link)?;
        link.start(channel);
        *state = Connection::Up(link, watch);
        drop(state);
        dev.switch_state(State::Connected)
    }

    /// Stops, whatever the state.
    fn disconnect(&self) {
        let old = core::mem::replace(&mut *self.state.lock(), Connection::None);
        if let Connection::Up(link, _) | Connection::Offered(link, _) = &old {
            link.close();
        }
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
            state <- new_mutex!(Connection::None, "mgmtfront"),
            // The device may have been closed by an earlier incarnation of this module.
            _: { dev.switch_state(State::Initialising)? },
        })
    }

    fn otherend_changed(dev: &Device<Bound>, data: Pin<&FrontData>, state: State) -> Verdict {
        let result = match state {
            State::InitWait => {
                // Rings that were offered and not taken are as good for a new backend.
                if matches!(*data.state.lock(), Connection::Offered(..)) {
                    return Verdict::Keep;
                }
                data.disconnect();
                dev.switch_state(State::Initialising)
                    .and_then(|()| data.offer(dev))
            }
            State::Connected => data.connect(dev),
            State::Closing | State::Closed => {
                data.disconnect();
                if dev.state() != State::Closed {
                    dev.frontend_closed();
                }
                Ok(())
            }
            State::Unknown | State::Initialising | State::Initialised => Ok(()),
        };
        if let Err(e) = result {
            data.disconnect();
            data.complaints
                .fatal(dev, e, c"cannot connect to the backend");
        }
        Verdict::Keep
    }

    fn resume(_dev: &Device<Bound>, data: Pin<&FrontData>) -> Result {
        data.disconnect();
        Ok(())
    }

    fn unbind(_dev: &Device<Core<'_>>, data: Pin<&FrontData>) {
        data.disconnect();
    }
}

/// The registration of the driver.
pub(crate) type Registration = kernel::driver::Registration<xenbus::Adapter<Front>>;
