// SPDX-License-Identifier: GPL-2.0

//! `mgmtback`: the management VM's end of the channel to one guest.
//!
//! ```text
//! other end     this end
//! Initialising  any but InitWait -> stop                          -> InitWait
//! Initialised   InitWait         -> map the rings, start          -> Connected
//! Closing       any              -> stop                          -> Closing
//! Closed        any but InitWait -> stop, leave if not online     -> Closed
//! Unknown       any              -> the nodes are gone: stop, leave
//! ```
//!
//! Any other state of the other end changes nothing: it may show any state at any time.

use crate::{
    channel::{node, Channel, PROTOCOL},
    link::Link,
    mcb::Bridge,
    pure::{
        ring::{Consumer, Producer},
        route::Origin, //
    },
    xen::{
        event::EventChannel,
        grant::{MappedPages, SharedPages, MAX_PAGES},
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
    sync::{aref::ARef, Arc, Mutex}, //
};

/// The backend driver.
pub(crate) struct Back;

/// What the driver keeps of one guest.
#[pin_data]
pub(crate) struct BackData {
    bridge: Arc<Bridge>,
    complaints: Arc<Complaints>,
    #[pin]
    link: Mutex<Option<Arc<Link>>>,
}

/// 16 bytes as hexadecimal digits.
struct Hex([u8; 16]);

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Maps one ring, by the grants that the guest has published.
fn map_ring(dev: &Device<Bound>, prefix: &str, order: u32) -> Result<RingMemory> {
    let mut refs = [0; MAX_PAGES];
    let refs = refs.get_mut(..ring_pages(order)).ok_or(EINVAL)?;
    for (i, gref) in refs.iter_mut().enumerate() {
        let name = CString::try_from_fmt(fmt!("{}{}", prefix, i))?;
        *gref = read_u32(dev.otherend(), &name)?;
    }
    RingMemory::new(SharedPages::Mapped(MappedPages::new(dev, refs)?))
}

impl BackData {
    /// Publishes what the guest needs to know, for a new incarnation of the channel.
    fn publish(&self, dev: &Device<Bound>) -> Result {
        let names = self.bridge.names();
        let epoch = self.bridge.new_epoch();
        Transaction::run(|t| {
            let dir = dev.nodename();
            t.write(dir, node::BACKEND_PROTOCOL, fmt!("{}", PROTOCOL))?;
            t.write(dir, node::MAX_PAGE_ORDER, fmt!("{}", MAX_PAGE_ORDER))?;
            t.write(dir, node::VM_ID, fmt!("{}", dev.otherend_id()))?;
            t.write(dir, node::MVM_ID, fmt!("{}", names.mvm.vm_id))?;
            t.write(dir, node::MVM_IP, fmt!("{}", Hex(names.mvm.mvm_ip)))?;
            t.write(dir, node::EPOCH, fmt!("{}", epoch))
        })?;
        dev.switch_state(State::InitWait)
    }

    /// Maps what the guest has published, and starts. All of it is checked, none of it trusted.
    fn connect(&self, dev: &Device<Bound>) -> Result {
        let otherend = dev.otherend();
        if read_u32(otherend, node::PROTOCOL)? != PROTOCOL {
            return Err(EPROTONOSUPPORT);
        }
        let order = read_u32(otherend, node::PAGE_ORDER)?;
        if order > MAX_PAGE_ORDER {
            return Err(EINVAL);
        }
        let port = read_u32(otherend, node::EVENT_CHANNEL)?;
        // Our own node: the epoch that `publish` wrote.
        let epoch = read_u32(dev.nodename(), node::EPOCH)?;

        let origin = Origin::Guest(dev.otherend_id().into());
        let link = Link::new(
            &self.bridge,
            ARef::from(dev),
            &self.complaints,
            origin,
            epoch,
        )?;
        let channel = Channel {
            // The guest's tx is our rx.
            rx: Consumer::new(map_ring(dev, node::TX_REF, order)?),
            tx: Producer::new(map_ring(dev, node::RX_REF, order)?),
            event: EventChannel::bind_interdomain(dev, port, c"mgmtback", link.clone())?,
        };
        self.bridge.add_link(&link)?;
        *self.link.lock() = Some(link.clone());
        dev.switch_state(State::Connected)?;
        link.start(channel);
        Ok(())
    }

    /// Stops, if there is a channel.
    fn disconnect(&self) {
        if let Some(link) = self.link.lock().take() {
            link.close();
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
            link <- new_mutex!(None, "mgmtback"),
        })
        .pin_chain(move |data| data.publish(dev))
    }

    fn otherend_changed(dev: &Device<Bound>, data: Pin<&BackData>, state: State) -> Verdict {
        let connected = data.link.lock().is_some();
        let result = match state {
            State::Initialising => {
                data.disconnect();
                if dev.state() == State::InitWait {
                    Ok(())
                } else {
                    data.publish(dev)
                }
            }
            State::Initialised if !connected && dev.state() == State::InitWait => data.connect(dev),
            // Its rings are of an earlier time: it starts anew when it sees that we wait.
            State::Initialised | State::Connected | State::InitWait => Ok(()),
            State::Closing => {
                data.disconnect();
                dev.switch_state(State::Closing)
            }
            // A frontend that is not there yet: we wait for it.
            State::Closed if dev.state() == State::InitWait && dev.is_online() => Ok(()),
            State::Closed => {
                data.disconnect();
                let result = dev.switch_state(State::Closed);
                if !dev.is_online() {
                    return Verdict::Unregister;
                }
                result
            }
            State::Unknown => {
                data.disconnect();
                return Verdict::Unregister;
            }
        };
        if let Err(e) = result {
            data.disconnect();
            data.complaints
                .fatal(dev, e, c"cannot connect to the frontend");
        }
        Verdict::Keep
    }

    fn resume(_dev: &Device<Bound>, data: Pin<&BackData>) -> Result {
        data.disconnect();
        Ok(())
    }

    fn unbind(_dev: &Device<Core<'_>>, data: Pin<&BackData>) {
        data.disconnect();
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
        let told = xenbus::write(link.dev.nodename(), node::MVM_IP, fmt!("{}", Hex(ip)));
        result = result.and(told);
        match id.checked_add(1) {
            Some(next) => from = next,
            None => break,
        }
    }
    result
}

/// The registration of the driver.
pub(crate) type Registration = kernel::driver::Registration<xenbus::Adapter<Back>>;
