// SPDX-License-Identifier: GPL-2.0

//! Requests of M-channels to the BMC, its answers back, and its events to all.
//!
//! Locks, in this order: `bmc`, `doors`, `queues`. With `queues`, nobody sleeps, and nothing is sent.

use crate::{
    agent::{
        self,
        wire::{Address, AppId, Component, Flags, Header, Kind}, //
    },
    bh::{new_spinlock_bh, SpinLockBh},
    requests::{Answer, App, Limits, Operation, Slot, Status, Table, EVENTS, MAX_DATA},
    smi::{self, User}, //
};
use kernel::{
    new_mutex,
    prelude::*,
    str::CString,
    sync::{Arc, ArcBorrow, Mutex},
    time::{Instant, Monotonic}, //
};

/// Requests that wait for the BMC, of all.
const REQUESTS: usize = 64;
/// Bounds of them. The layer below takes 100 of one user, and sends one at a time.
const LIMITS: Limits = Limits {
    each: 16,
    sent: 4,
    lost_after: 120_000,
};
/// Events that wait to be told; more are dropped. The BMC's log has them.
const EVENTS_QUEUED: usize = 32;

/// The wait for the BMC where the request has no deadline, and the longest, ms.
const USUAL_WAIT: u32 = 10_000;
const LONGEST_WAIT: u32 = 60_000;
/// How soon after a deadline who asked hears of it, ms.
const PERIOD: u32 = 50;
/// The class of usual messages.
const PRIORITY: u8 = 64;

/// The platform's BMC.
#[pin_data]
pub(crate) struct Bridge {
    /// The interface that is to be used; any, if it is negative.
    wanted: i32,
    started: Instant<Monotonic>,
    /// The interface that is used, and how.
    #[pin]
    bmc: Mutex<Option<(i32, User)>>,
    /// Where requests come from. Empty when the module goes.
    #[pin]
    doors: Mutex<Option<Doors>>,
    #[pin]
    queues: SpinLockBh<Queues>,
}

/// The endpoints.
struct Doors {
    apps: KVec<agent::Endpoint<Door>>,
    events: agent::Reader,
}

/// Takes the requests to one App_ID.
struct Door {
    app: App,
    bridge: Arc<Bridge>,
}

/// Who asked, and by which App_ID.
struct Asker {
    app: App,
    message: agent::Message,
}

type Memory = KVec<Option<Slot<Component, Asker>>>;

struct Queues {
    requests: Table<Memory>,
    events: KVec<Event>,
    /// Events that there was no room for.
    dropped: u64,
}

/// An event's record, 16 bytes; some maker's may be longer.
struct Event {
    data: [u8; 32],
    length: usize,
}

impl agent::Receive for Door {
    fn receive(&self, port: &agent::Port, message: agent::Message) {
        let Ok(header) = message.header() else {
            return;
        };
        if !header.flags.contains(Flags::REQUEST) {
            return;
        }
        if header.kind != Kind::Data {
            // Whoever asks whether there is somebody.
            let _ = port.reply(&message, &[], GFP_ATOMIC);
            return;
        }
        let refused = match self.decode(&message) {
            Ok(operation) => match self.bridge.add(self.app, &header, message, operation) {
                Ok(()) => return,
                Err(asker) => (asker.message, Status::Busy),
            },
            Err(status) => (message, status),
        };
        let (message, status) = refused;
        let _ = port.reply(&message, &Answer::from(status).head(), GFP_ATOMIC);
    }
}

impl Door {
    fn decode(&self, message: &agent::Message) -> Result<Operation, Status> {
        // One more, to see that it is longer.
        let mut payload = [0; MAX_DATA + 1];
        let length = message.read(0, &mut payload);
        let payload = payload.get(..length).unwrap_or_default();
        if length > MAX_DATA {
            return Err(Status::Malformed);
        }
        Operation::decode(self.app, payload)
    }
}

impl Bridge {
    pub(crate) fn new(wanted: i32) -> Result<Arc<Self>> {
        let mut memory = KVec::with_capacity(REQUESTS, GFP_KERNEL)?;
        for _ in 0..REQUESTS {
            memory.push(None, GFP_KERNEL)?;
        }
        let queues = Queues {
            requests: Table::new(memory, LIMITS),
            events: KVec::with_capacity(EVENTS_QUEUED, GFP_KERNEL)?,
            dropped: 0,
        };
        Arc::pin_init(
            pin_init!(Self {
                wanted,
                started: Instant::now(),
                bmc <- new_mutex!(None, "mgmt_ipmi_bmc"),
                doors <- new_mutex!(None, "mgmt_ipmi_doors"),
                queues <- new_spinlock_bh!(queues, "mgmt_ipmi_queues"),
            }),
            GFP_KERNEL,
        )
    }

    /// Opens the endpoints of the hardware with this serial number.
    pub(crate) fn open(self: &Arc<Self>, serial: &CStr) -> Result {
        // Requests may come before all are open: nobody looks for the endpoints until then.
        let mut doors = self.doors.lock();
        let name = agent::Name::Hardware(serial);
        let mut apps = KVec::with_capacity(App::ALL.len(), GFP_KERNEL)?;
        for app in App::ALL {
            let door = Door {
                app,
                bridge: self.clone(),
            };
            let app = CString::try_from_fmt(fmt!("{}", app.name()))?;
            let door = agent::Endpoint::called(name, &app, agent::Bind::Alone, door)?;
            apps.push(door, GFP_KERNEL)?;
        }
        let events = CString::try_from_fmt(fmt!("{EVENTS}"))?;
        let events = agent::Reader::open(name, &events, agent::Bind::Alone)?;
        *doors = Some(Doors { apps, events });
        Ok(())
    }

    /// Ends everything: afterwards nobody is left who would call it.
    pub(crate) fn close(&self) {
        let user = self.bmc.lock().take();
        // No response comes any more.
        drop(user);
        self.queues.lock().requests.gone();
        // Who still waits is told.
        self.tell();
        let doors = self.doors.lock().take();
        drop(doors);
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(0)
    }

    /// Adds a request; returns it if there is no room.
    fn add(
        &self,
        app: App,
        header: &Header,
        message: agent::Message,
        operation: Operation,
    ) -> Result<(), Asker> {
        let wait = match header.deadline_ms {
            0 => USUAL_WAIT,
            // A bit before, for the answer to arrive.
            left => (left - left / 8).min(LONGEST_WAIT),
        };
        let expires = self.now() + u64::from(wait);
        let owner = header.source.component;
        let asker = Asker { app, message };
        self.queues
            .lock()
            .requests
            .add(owner, asker, operation, expires)?;
        smi::work_now();
        Ok(())
    }

    /// An interface appeared.
    pub(crate) fn found(this: ArcBorrow<'_, Self>, interface: i32) {
        if this.wanted >= 0 && this.wanted != interface {
            return;
        }
        let mut bmc = this.bmc.lock();
        if bmc.is_some() {
            return;
        }
        match User::new(this, interface) {
            Ok(user) => {
                *bmc = Some((interface, user));
                pr_info!("interface {interface}\n");
            }
            Err(e) => pr_err!("interface {interface}: {e:?}\n"),
        }
        drop(bmc);
        smi::work_now();
    }

    /// An interface is gone.
    pub(crate) fn gone(&self, interface: i32) {
        let mut bmc = self.bmc.lock();
        if let Some((_, user)) = bmc.take_if(|(used, _)| *used == interface) {
            // No response comes any more.
            drop(user);
            self.queues.lock().requests.gone();
            pr_info!("interface {interface} is gone\n");
            smi::work_now();
        }
    }

    /// A response came from the BMC.
    pub(crate) fn response(&self, id: u64, netfn: u8, command: u8, data: &[u8]) {
        self.queues
            .lock()
            .requests
            .respond(id, netfn, command, data);
        smi::work_now();
    }

    /// An event came from the BMC.
    pub(crate) fn event(&self, record: &[u8]) {
        let mut event = Event {
            data: [0; 32],
            length: record.len().min(32),
        };
        for (to, from) in event.data.iter_mut().zip(record) {
            *to = *from;
        }
        let mut queues = self.queues.lock();
        if queues.events.push_within_capacity(event).is_err() {
            queues.dropped += 1;
        }
        drop(queues);
        smi::work_now();
    }

    /// Sends what is to be sent, and tells who is to be told.
    pub(crate) fn work(&self) {
        self.send();
        self.tell();
        self.tell_events();
        if !self.queues.lock().requests.is_empty() {
            smi::work_within(PERIOD);
        }
    }

    fn send(&self) {
        let bmc = self.bmc.lock();
        loop {
            let next = self.queues.lock().requests.next_to_send(self.now());
            let Some((id, request)) = next else {
                break;
            };
            let sent = match &*bmc {
                Some((_, user)) => user.request(id, &request).map_err(why_not),
                None => Err(Status::Absent),
            };
            if let Err(status) = sent {
                self.queues.lock().requests.not_sent(id, status);
            }
        }
    }

    fn tell(&self) {
        let doors = self.doors.lock();
        loop {
            let next = self.queues.lock().requests.next_done(self.now());
            let Some((asker, answer)) = next else {
                break;
            };
            let mut apps = App::ALL.iter();
            let at = apps.position(|app| *app == asker.app);
            let door = doors
                .as_ref()
                .zip(at)
                .and_then(|(all, at)| all.apps.get(at));
            if let Some(door) = door {
                let mut payload = KVec::with_capacity(Answer::HEAD + MAX_DATA, GFP_KERNEL);
                let filled = payload.as_mut().map_err(|_| ENOMEM).and_then(|payload| {
                    payload.extend_from_slice(&answer.head(), GFP_KERNEL)?;
                    Ok(payload.extend_from_slice(&answer.data, GFP_KERNEL)?)
                });
                // Who does not take it has left, or hears from the bridge.
                if let (Ok(payload), Ok(())) = (&payload, filled) {
                    let _ = door.reply(&asker.message, payload, GFP_KERNEL);
                }
            }
        }
    }

    fn tell_events(&self) {
        let doors = self.doors.lock();
        loop {
            let mut queues = self.queues.lock();
            let dropped = core::mem::take(&mut queues.dropped);
            let event = (!queues.events.is_empty()).then(|| queues.events.remove(0).ok());
            drop(queues);
            if dropped > 0 {
                pr_notice!("{dropped} events were not told\n");
            }
            let Some(Some(event)) = event else {
                break;
            };
            if let Some(doors) = &*doors {
                let record = event.data.get(..event.length).unwrap_or_default();
                let _ = tell_all(&doors.events, record);
            }
        }
    }
}

/// Broadcasts an event.
fn tell_all(port: &agent::Port, record: &[u8]) -> Result {
    let app = AppId::new(EVENTS.as_bytes()).map_err(|_| EINVAL)?;
    let header = Header {
        flags: Flags::BROADCAST,
        priority: PRIORITY,
        ..Header::new(Kind::Data, Address::new(Component::Platform, app), 0)
    };
    port.send(&header, record, GFP_KERNEL)
}

/// Why the IPMI layer did not take a request.
fn why_not(e: Error) -> Status {
    if e == EBUSY {
        Status::Resetting
    } else if e == ENODEV {
        Status::Absent
    } else if e == EINVAL || e == EMSGSIZE {
        Status::Refused
    } else {
        Status::Broken
    }
}
