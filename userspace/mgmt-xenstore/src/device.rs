// SPDX-License-Identifier: MIT OR Apache-2.0

//! The nodes that attach a guest: what libxl would write, did it know devices of kind `mgmt`.

use crate::{Access, Error, Perm, Result, Transaction, Xenstore};
use std::time::{Duration, Instant};

/// `enum xenbus_state`: `Initialising`.
const INITIALISING: u32 = 1;
/// `enum xenbus_state`: `Closing`.
const CLOSING: u32 = 5;
/// `enum xenbus_state`: `Closed`.
const CLOSED: u32 = 6;

/// How long [`detach`] waits by default for the two drivers to let go.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// One M-channel device: guest and management VM. There is one per guest, number 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// The guest's domain id.
    pub guest: u32,
    /// The management VM's domain id.
    pub backend: u32,
}

impl Device {
    /// The guest's side.
    pub fn frontend_path(&self) -> String {
        format!("/local/domain/{}/device/mgmt/0", self.guest)
    }

    /// The management VM's side.
    pub fn backend_path(&self) -> String {
        format!("{}/{}/0", backends(self.backend), self.guest)
    }
}

fn backends(backend: u32) -> String {
    format!("/local/domain/{backend}/backend/mgmt")
}

/// A name of `enum xenbus_state`.
pub fn state_name(state: Option<u32>) -> &'static str {
    match state {
        None => "-",
        Some(1) => "Initialising",
        Some(2) => "InitWait",
        Some(3) => "Initialised",
        Some(4) => "Connected",
        Some(5) => "Closing",
        Some(6) => "Closed",
        Some(7) => "Reconfiguring",
        Some(8) => "Reconfigured",
        Some(_) => "Unknown",
    }
}

/// How the nodes of a guest stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// Which device.
    pub device: Device,
    /// The guest's xenbus state; its own word.
    pub frontend: Option<u32>,
    /// The management VM's xenbus state.
    pub backend: Option<u32>,
}

/// What [`attach`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attached {
    /// The nodes were made.
    New,
    /// Half of them were there, left by somebody who is gone: removed and made again.
    ReplacedLeftover,
}

/// What [`detach`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detached {
    /// The drivers closed the channel, or there were none, and the nodes are gone.
    Closed,
    /// The drivers did not close in time; the nodes were removed under them.
    Forced,
}

/// The domain that this connection's xenstored sees us as; `None` where nobody says.
///
/// Every domain finds its own number under the relative path `domid`.
pub fn own_domain(store: &mut Xenstore) -> Result<Option<u32>> {
    match store.read("domid") {
        Ok(id) => Ok(id.trim().parse().ok()),
        Err(e) if e.is("ENOENT") => Ok(None),
        Err(e) => Err(e),
    }
}

/// Makes the nodes for `device`, in one transaction.
pub fn attach(store: &mut Xenstore, device: Device) -> Result<Attached> {
    let Device { guest, backend } = device;
    if guest == backend {
        return Err(Error::OwnDomain(guest));
    }
    if !exists(store, guest)? {
        // What a dead domain of that number has left behind goes as well.
        remove(store, device)?;
        return Err(Error::NoDomain(guest));
    }
    let (front, back) = (device.frontend_path(), device.backend_path());
    store.transaction(|t| {
        let has_front = t.read_if_any(&format!("{front}/backend"))?;
        let has_back = t.read_if_any(&format!("{back}/frontend"))?;
        match (has_front, has_back) {
            (Some(points_to), Some(_)) if points_to == back => {
                return Err(Error::AlreadyAttached(guest));
            }
            _ => {}
        }
        let leftover = t.read_if_any(&front)?.is_some() || t.read_if_any(&back)?.is_some();
        t.remove(&front)?;
        t.remove(&back)?;
        make(t, device)?;
        Ok(if leftover {
            Attached::ReplacedLeftover
        } else {
            Attached::New
        })
    })
}

/// Permissions as libxl's: each side owns its directory, the other side reads it, nobody else.
fn make(t: &mut Transaction<'_>, device: Device) -> Result<()> {
    let Device { guest, backend } = device;
    let (front, back) = (device.frontend_path(), device.backend_path());
    let perms = |owner, reader| {
        [(owner, Access::None), (reader, Access::Read)]
            .map(|(domain, access)| Perm { domain, access })
    };
    let initialising = INITIALISING.to_string();

    t.mkdir(&front, &perms(guest, backend))?;
    t.write(&format!("{front}/backend"), &back)?;
    t.write(&format!("{front}/backend-id"), &backend.to_string())?;
    t.write(&format!("{front}/state"), &initialising)?;

    t.mkdir(&back, &perms(backend, guest))?;
    t.write(&format!("{back}/frontend"), &front)?;
    t.write(&format!("{back}/frontend-id"), &guest.to_string())?;
    t.write(&format!("{back}/online"), "1")?;
    t.write(&format!("{back}/state"), &initialising)
}

/// Asks both drivers to close, waits up to `timeout` until they have, and removes the nodes.
pub fn detach(store: &mut Xenstore, device: Device, timeout: Duration) -> Result<Detached> {
    let back = device.backend_path();
    let state_path = format!("{back}/state");
    if store.read_if_any(&state_path)?.is_none() {
        // Half a device is removed, too, but was not attached.
        let half = store.read_if_any(&device.frontend_path())?.is_some();
        remove(store, device)?;
        return if half || exists(store, device.guest)? {
            Err(Error::NotAttached(device.guest))
        } else {
            Err(Error::NoDomain(device.guest))
        };
    }
    let before = status(store, device)?;
    let there = store.transaction(|t| {
        // Writing would make the node again, had it just gone.
        if t.read_if_any(&state_path)?.is_none() {
            return Ok(false);
        }
        t.write(&format!("{back}/online"), "0")?;
        if before.backend != Some(CLOSED) {
            t.write(&state_path, &CLOSING.to_string())?;
        }
        Ok(true)
    })?;
    // Without a driver on a side there is nobody to wait for.
    let nobody = before.backend == Some(INITIALISING)
        || matches!(before.frontend, None | Some(INITIALISING | CLOSED))
        || !exists(store, device.guest)?;
    let closed = !there || nobody || wait_closed(store, &state_path, timeout)?;
    remove(store, device)?;
    Ok(if closed {
        Detached::Closed
    } else {
        Detached::Forced
    })
}

/// Waits until the backend is closed or gone. False if `timeout` passed first.
fn wait_closed(store: &mut Xenstore, state_path: &str, timeout: Duration) -> Result<bool> {
    const TOKEN: &str = "mgmt-detach";
    let end = Instant::now() + timeout;
    store.watch(state_path, TOKEN)?;
    let mut others = Vec::new();
    let closed = loop {
        match store.read_if_any(state_path)?.as_deref().map(parse_state) {
            None | Some(Some(CLOSED)) => break true,
            _ => {}
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break false;
        }
        match store.event(left)? {
            Some(event) if event.token == TOKEN => {}
            Some(event) => others.push(event),
            None => break false,
        }
    };
    store.unwatch(state_path, TOKEN)?;
    // The caller's own watches must not miss anything.
    store.give_back(others);
    Ok(closed)
}

/// Removes both directories, and the parents that this makes empty.
pub fn remove(store: &mut Xenstore, device: Device) -> Result<()> {
    let (front, back) = (device.frontend_path(), device.backend_path());
    let done = remove_together(store, &front, &back);
    if !matches!(done, Err(Error::Conflict)) {
        return done;
    }
    // A guest that never stops writing to its side must not keep the device.
    store.remove(&front)?;
    store.remove(&back)
}

fn remove_together(store: &mut Xenstore, front: &str, back: &str) -> Result<()> {
    store.transaction(|t| {
        // What may be left empty above each: `mgmt`, and for the backend the guest's number.
        for (path, parents) in [(front, 1), (back, 2)] {
            t.remove(path)?;
            let mut path = path;
            for _ in 0..parents {
                path = path.rsplit_once('/').map_or("", |(parent, _)| parent);
                if t.read_if_any(path)?.is_some() && t.directory(path)?.is_empty() {
                    t.remove(path)?;
                }
            }
        }
        Ok(())
    })
}

/// How the nodes of `device` stand.
pub fn status(store: &mut Xenstore, device: Device) -> Result<Status> {
    let mut state = |directory: String| -> Result<Option<u32>> {
        let text = store.read_if_any(&format!("{directory}/state"))?;
        Ok(text.as_deref().and_then(parse_state))
    };
    Ok(Status {
        device,
        frontend: state(device.frontend_path())?,
        backend: state(device.backend_path())?,
    })
}

/// The guests that have a device of this management VM, dead ones included.
pub fn attached(store: &mut Xenstore, backend: u32) -> Result<Vec<Device>> {
    numbers(store, &backends(backend)).map(|guests| {
        let device = |guest| Device { guest, backend };
        guests.into_iter().map(device).collect()
    })
}

/// The domains that there are.
pub fn domains(store: &mut Xenstore) -> Result<Vec<u32>> {
    numbers(store, "/local/domain")
}

/// Whether a domain of this number is there.
pub fn exists(store: &mut Xenstore, domain: u32) -> Result<bool> {
    match store.is_introduced(domain) {
        // The toolstack removes the directory of a domain that it destroys before it is released.
        Ok(introduced) => {
            let home = format!("/local/domain/{domain}");
            Ok(introduced && store.read_if_any(&home)?.is_some())
        }
        // A management VM without that privilege still sees what it was given to see.
        Err(e) if e.is("EACCES") || e.is("EPERM") => Ok(store
            .read_if_any(&format!("/local/domain/{domain}"))?
            .is_some()),
        // Not a number that a domain can have.
        Err(e) if e.is("EINVAL") || e.is("ENOENT") => Ok(false),
        Err(e) => Err(e),
    }
}

/// Removes the devices of domains that are gone. Returns which.
pub fn sweep(store: &mut Xenstore, backend: u32) -> Result<Vec<Device>> {
    let mut removed = Vec::new();
    for device in attached(store, backend)? {
        if !exists(store, device.guest)? {
            remove(store, device)?;
            removed.push(device);
        }
    }
    Ok(removed)
}

fn numbers(store: &mut Xenstore, path: &str) -> Result<Vec<u32>> {
    let names = match store.directory(path) {
        Ok(names) => names,
        Err(e) if e.is("ENOENT") => Vec::new(),
        Err(e) => return Err(e),
    };
    let mut numbers: Vec<u32> = names.iter().filter_map(|n| n.parse().ok()).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// A guest may write anything into its state: only a small number counts.
fn parse_state(text: &str) -> Option<u32> {
    text.parse().ok().filter(|&state| state <= 8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;

    const DEVICE: Device = Device {
        guest: 3,
        backend: 0,
    };

    #[test]
    fn attach_writes_what_the_toolstack_would() {
        let fake = Fake::start(&[3]);
        let mut store = fake.client();
        assert_eq!(attach(&mut store, DEVICE).unwrap(), Attached::New);
        for (path, value) in [
            (
                "/local/domain/3/device/mgmt/0/backend",
                "/local/domain/0/backend/mgmt/3/0",
            ),
            ("/local/domain/3/device/mgmt/0/backend-id", "0"),
            ("/local/domain/3/device/mgmt/0/state", "1"),
            (
                "/local/domain/0/backend/mgmt/3/0/frontend",
                "/local/domain/3/device/mgmt/0",
            ),
            ("/local/domain/0/backend/mgmt/3/0/frontend-id", "3"),
            ("/local/domain/0/backend/mgmt/3/0/online", "1"),
            ("/local/domain/0/backend/mgmt/3/0/state", "1"),
        ] {
            assert_eq!(store.read(path).unwrap(), value, "{path}");
        }
        let perms = |store: &mut Xenstore, path: &str| store.perms(path).unwrap();
        assert_eq!(
            perms(&mut store, "/local/domain/3/device/mgmt/0"),
            ["n3", "r0"]
        );
        assert_eq!(
            perms(&mut store, "/local/domain/3/device/mgmt/0/state"),
            ["n3", "r0"]
        );
        assert_eq!(
            perms(&mut store, "/local/domain/0/backend/mgmt/3/0"),
            ["n0", "r3"]
        );
        assert_eq!(attached(&mut store, 0).unwrap(), [DEVICE]);
    }

    #[test]
    fn attach_refuses_what_makes_no_sense() {
        let fake = Fake::start(&[3]);
        let mut store = fake.client();
        attach(&mut store, DEVICE).unwrap();
        for (guest, message) in [
            (3, "domain 3 is already attached"),
            (4, "there is no domain 4"),
            (0, "domain 0 is the management VM itself"),
        ] {
            let error = attach(&mut store, Device { guest, backend: 0 }).unwrap_err();
            assert_eq!(error.to_string(), message);
        }
        assert_eq!(attached(&mut store, 0).unwrap(), [DEVICE]);
    }

    #[test]
    fn attach_replaces_a_leftover_half() {
        for half in [DEVICE.frontend_path(), DEVICE.backend_path()] {
            let fake = Fake::start(&[3]);
            let mut store = fake.client();
            store.write(&format!("{half}/state"), "6").unwrap();
            let done = attach(&mut store, DEVICE).unwrap();
            assert_eq!(done, Attached::ReplacedLeftover, "{half}");
            assert_eq!(status(&mut store, DEVICE).unwrap().backend, Some(1));
        }
    }

    #[test]
    fn a_dead_domains_leftovers_go() {
        let fake = Fake::start(&[3, 5]);
        let mut store = fake.client();
        attach(&mut store, DEVICE).unwrap();
        let live = Device {
            guest: 5,
            backend: 0,
        };
        attach(&mut store, live).unwrap();
        fake.kill(3);
        assert_eq!(sweep(&mut store, 0).unwrap(), [DEVICE]);
        assert_eq!(attached(&mut store, 0).unwrap(), [live]);
        assert!(
            store
                .read_if_any("/local/domain/0/backend/mgmt/3")
                .unwrap()
                .is_none()
        );
        let error = attach(&mut store, DEVICE).unwrap_err();
        assert!(matches!(error, Error::NoDomain(3)));
    }

    #[test]
    fn detach_waits_for_the_drivers_and_leaves_nothing() {
        let fake = Fake::start(&[3]);
        let mut store = fake.client();
        attach(&mut store, DEVICE).unwrap();
        let (front, back) = (DEVICE.frontend_path(), DEVICE.backend_path());
        for side in [&front, &back] {
            store.write(&format!("{side}/state"), "4").unwrap();
        }
        store.watch("/local/domain/0/backend/mgmt", "mine").unwrap();
        // The drivers: as soon as the backend is told to close, it does.
        let mut driver = fake.client();
        let state = format!("{back}/state");
        let driver = std::thread::spawn(move || {
            driver.watch(&state, "w").unwrap();
            while driver.read(&state).unwrap() != "5" {
                driver.event(Duration::from_secs(5)).unwrap().unwrap();
            }
            driver.write(&state, "6").unwrap();
        });
        let done = detach(&mut store, DEVICE, Duration::from_secs(5)).unwrap();
        assert_eq!(done, Detached::Closed);
        driver.join().unwrap();
        assert_eq!(fake.dump(), Fake::start(&[3]).dump());
        let own = store.event(Duration::from_secs(5)).unwrap().unwrap();
        assert_eq!(own.token, "mine", "events of other watches are kept");
        let again = detach(&mut store, DEVICE, Duration::from_secs(5)).unwrap_err();
        assert!(matches!(again, Error::NotAttached(3)));
    }

    #[test]
    fn detach_does_not_wait_for_ever_or_for_nobody() {
        let fake = Fake::start(&[3]);
        let mut store = fake.client();
        let start = Instant::now();
        attach(&mut store, DEVICE).unwrap();
        // No driver has touched it: no wait.
        let done = detach(&mut store, DEVICE, Duration::from_secs(60)).unwrap();
        assert_eq!(done, Detached::Closed);
        // A silent guest: forced in the end.
        attach(&mut store, DEVICE).unwrap();
        for side in [DEVICE.frontend_path(), DEVICE.backend_path()] {
            store.write(&format!("{side}/state"), "4").unwrap();
        }
        let done = detach(&mut store, DEVICE, Duration::from_millis(100)).unwrap();
        assert_eq!(done, Detached::Forced);
        assert!(start.elapsed() < Duration::from_secs(30));
        assert_eq!(fake.dump(), Fake::start(&[3]).dump());
        let error = detach(
            &mut store,
            Device {
                guest: 9,
                backend: 0,
            },
            CLOSE_TIMEOUT,
        );
        assert!(matches!(error, Err(Error::NoDomain(9))));
    }

    #[test]
    fn a_guests_nonsense_is_no_state() {
        let fake = Fake::start(&[3]);
        let mut store = fake.client();
        attach(&mut store, DEVICE).unwrap();
        let path = format!("{}/state", DEVICE.frontend_path());
        for nonsense in ["", "9", "-1", "4 ", "99999999999999999999", "\u{fffd}"] {
            store.write(&path, nonsense).unwrap();
            assert_eq!(
                status(&mut store, DEVICE).unwrap().frontend,
                None,
                "{nonsense:?}"
            );
        }
    }

    #[test]
    fn transactions_that_meet_others_are_repeated() {
        let fake = Fake::start(&[3]);
        let mut store = fake.client();
        fake.disturb(3);
        attach(&mut store, DEVICE).unwrap();
        assert_eq!(attached(&mut store, 0).unwrap(), [DEVICE]);
        fake.disturb(1000);
        let error = detach(&mut store, DEVICE, CLOSE_TIMEOUT).unwrap_err();
        assert!(matches!(error, Error::Conflict));
    }
}
