// SPDX-License-Identifier: MIT OR Apache-2.0

//! The endpoint for threads.
//!
//! Whoever waits reads for all: one thread at a time, which hands the others what is theirs. So a
//! program with one thread needs no second one, and a request costs it no switch of threads.

use super::state::State;
use super::{EndpointBuilder, Incoming, Presence, question};
use crate::channel::Until;
use crate::{Address, AppId, Channel, Component, Error, Event, Flags, Info, Kind, Message, Result};
use std::cell::RefCell;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// A reader looks so often whether it shall give the device back.
const SLICE: Duration = Duration::from_secs(1);
/// Between two attempts to open the device.
const RECONNECT: Duration = Duration::from_millis(200);

/// A bound App_ID, for threads, which may share it.
///
/// ```no_run
/// use mgmt_channel::{Address, AppId, Component, Endpoint, Incoming};
/// use std::time::Duration;
///
/// # fn main() -> mgmt_channel::Result<()> {
/// let endpoint = Endpoint::open("Example")?;
/// let broker = Address::new(Component::Mvm, AppId::new(b"Inventory")?);
/// let answer = endpoint.request(broker, b"list".to_vec(), Duration::from_secs(2))?;
/// endpoint.send(broker, answer.payload)?;
/// while let Some(incoming) = endpoint.recv(Some(Duration::from_secs(1)))? {
///     if let Incoming::Undeliverable(back) = incoming {
///         println!("message {} came back: {:?}", back.id, back.reason);
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Endpoint {
    shared: Arc<Shared>,
}

struct Shared {
    options: EndpointBuilder,
    // Locked in this order.
    link: Mutex<Link>,
    buffer: Mutex<Vec<u8>>,
    state: Mutex<State>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.options.fmt(f)
    }
}

/// The device, if it is there.
#[derive(Default)]
struct Link {
    channel: Option<Arc<Channel>>,
    /// It was there before.
    is_old: bool,
    is_suspended: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

thread_local! {
    static WAKER: RefCell<Waker> = RefCell::new(Arc::new(Unpark(std::thread::current())).into());
}

impl EndpointBuilder {
    /// Opens it.
    pub fn open(self) -> Result<Endpoint> {
        let state = State::new(self.requests_only);
        let shared = Arc::new(Shared {
            options: self,
            link: Mutex::default(),
            buffer: Mutex::default(),
            state: Mutex::new(state),
        });
        match shared.channel() {
            Err(_) if shared.options.is_lazy => {}
            opened => drop(opened?),
        }
        Ok(Endpoint { shared })
    }

    /// Makes the channel.
    pub(super) fn make(&self, nonblocking: bool) -> Result<Channel> {
        let channel = (self.connect)()?;
        channel.set_nonblocking(nonblocking)?;
        Ok(channel)
    }
}

impl Shared {
    /// The device, opened and bound anew where that is needed.
    fn channel(&self) -> Result<Arc<Channel>> {
        let mut link = lock(&self.link);
        if let Some(channel) = &link.channel {
            return Ok(Arc::clone(channel));
        }
        if link.is_suspended {
            return Err(Error::Gone);
        }
        let channel = Arc::new(self.options.make(self.options.send_wait.is_some())?);
        let watched = lock(&self.state).watched();
        for about in watched {
            channel.send(&question(about, Event::Watch))?;
        }
        if std::mem::replace(&mut link.is_old, true) {
            lock(&self.state).restored();
        }
        link.channel = Some(Arc::clone(&channel));
        Ok(channel)
    }

    /// `channel` is of no use any more.
    fn lose(&self, channel: &Arc<Channel>) {
        let mut link = lock(&self.link);
        if link
            .channel
            .as_ref()
            .is_some_and(|c| Arc::ptr_eq(c, channel))
        {
            link.channel = None;
            lock(&self.state).lost();
        }
    }

    fn send(&self, message: &Message) -> Result<()> {
        let send = |channel: &Channel| match self.options.send_wait {
            Some(wait) => channel.send_timeout(message, wait),
            None => channel.send(message),
        };
        let channel = self.channel()?;
        match send(&channel) {
            Err(Error::Gone | Error::NotBound) => {}
            done => return done,
        }
        // Nothing was sent: by the next device, if there is one.
        self.lose(&channel);
        send(&*self.channel()?)
    }

    /// Reads one message for whomever it is.
    fn read(&self, until: Until) -> Option<Message> {
        let pause = |longest: Duration| {
            std::thread::sleep(until.left().map_or(longest, |left| left.min(longest)));
        };
        let Ok(channel) = self.channel() else {
            pause(RECONNECT);
            return None;
        };
        let slice = match until {
            Until::Told(_) => until,
            _ => Until::of(Some(until.left().map_or(SLICE, |left| left.min(SLICE)))),
        };
        match channel.recv_until(&mut lock(&self.buffer), slice) {
            Ok(message) => message,
            // It was taken, and is of no use.
            Err(Error::Wire(_)) => None,
            Err(_) => {
                self.lose(&channel);
                pause(RECONNECT);
                None
            }
        }
    }

    /// Waits until `poll` is ready; `None` if it is not in time.
    fn wait<T>(
        &self,
        until: Until,
        mut poll: impl FnMut(&mut State, &Waker) -> Poll<T>,
    ) -> Option<T> {
        let waker = WAKER.with_borrow(Waker::clone);
        // However little time there is, what is there is taken.
        let mut goes_on = true;
        loop {
            let mut state = lock(&self.state);
            let mut ready = poll(&mut state, &waker);
            if ready.is_pending() && state.starves() {
                ready = poll(&mut state, &waker);
            }
            let is_late = !goes_on && until.left().is_some_and(|left| left.is_zero());
            if ready.is_ready() || is_late {
                if !state.is_reading {
                    // Another one has to read now.
                    state.wake_all();
                }
                return match ready {
                    Poll::Ready(value) => Some(value),
                    Poll::Pending => None,
                };
            }
            let leads = !std::mem::replace(&mut state.is_reading, true);
            drop(state);
            if leads {
                let message = self.read(until);
                goes_on = message.is_some();
                let mut state = lock(&self.state);
                state.is_reading = false;
                if let Some(message) = message {
                    state.enter(message);
                }
            } else {
                goes_on = false;
                std::thread::park_timeout(until.left().unwrap_or(SLICE));
            }
        }
    }
}

/// Ends the request that nobody waits for any more.
struct Request<'a>(&'a Shared, u64);

impl Drop for Request<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).end_request(self.1);
    }
}

impl Endpoint {
    /// Binds `app`, alone.
    pub fn open(app: &str) -> Result<Self> {
        EndpointBuilder::new(app)?.open()
    }

    /// What this endpoint and its domain are.
    pub fn info(&self) -> Result<Info> {
        self.shared.channel()?.info()
    }

    /// Sends `payload`; the number that an [`Undeliverable`](super::Undeliverable) has, if it
    /// comes back.
    pub fn send(&self, to: Address, payload: Vec<u8>) -> Result<u64> {
        self.send_message(Message::data(to, payload))
    }

    /// Sends to all who have bound the App_ID in the component, on the platform, or everywhere.
    pub fn broadcast(&self, to: Address, payload: Vec<u8>) -> Result<u64> {
        let mut message = Message::data(to, payload);
        message.header.flags = Flags::BROADCAST;
        self.send_message(message)
    }

    /// Answers a request.
    pub fn reply(&self, request: &Message, payload: Vec<u8>) -> Result<u64> {
        self.send_message(request.reply(payload))
    }

    /// Sends any message. One without a correlation id gets one.
    pub fn send_message(&self, mut message: Message) -> Result<u64> {
        let id = lock(&self.shared.state).sending(&mut message.header);
        let sent = self.shared.send(&message);
        if sent.is_err() {
            lock(&self.shared.state).not_sent(id);
        }
        sent.map(|()| id)
    }

    /// Sends a request and waits for its answer.
    ///
    /// Fails with [`Error::Undeliverable`] if it comes back, [`Error::Terminated`] if the receiver
    /// refuses it, [`Error::TimedOut`] if there is no answer in time, and [`Error::Lost`] if the
    /// device goes: it may have arrived then.
    pub fn request(&self, to: Address, payload: Vec<u8>, timeout: Duration) -> Result<Message> {
        self.request_message(Message::data(to, payload), timeout)
    }

    /// [`Endpoint::request`] of any message. One without a deadline gets `timeout` for one.
    pub fn request_message(&self, mut message: Message, timeout: Duration) -> Result<Message> {
        message.header.flags = message.header.flags.union(Flags::REQUEST);
        let until = message.ask_within(timeout);
        let id = lock(&self.shared.state).expect(&mut message.header, false);
        let request = Request(&self.shared, id);
        if let Err(error) = self.shared.send(&message) {
            lock(&self.shared.state).not_sent(id);
            return Err(error);
        }
        let answer = self
            .shared
            .wait(until, |state, waker| state.poll_answer(id, waker));
        drop(request);
        answer.unwrap_or(Err(Error::TimedOut))
    }

    /// Receives, waiting up to `timeout` (`None`: without end). `Ok(None)` when nothing came.
    pub fn recv(&self, timeout: Option<Duration>) -> Result<Option<Incoming>> {
        Ok(self.shared.wait(Until::of(timeout), State::poll_recv))
    }

    /// Who serves `app` in `component`, which may be [`Component::Platform`] or
    /// [`Component::Everywhere`]; answers are collected for `wait`.
    pub fn discover(
        &self,
        component: Component,
        app: AppId,
        wait: Duration,
    ) -> Result<Vec<Address>> {
        let mut message = Message::new(Kind::Discover, Address::new(component, app), Vec::new());
        message.header.flags = Flags::REQUEST.union(Flags::BROADCAST);
        let id = lock(&self.shared.state).expect(&mut message.header, true);
        let request = Request(&self.shared, id);
        self.shared.send(&message)?;
        let until = Until::of(Some(wait));
        if let Some(Err(error)) = self
            .shared
            .wait(until, |state, waker| state.poll_answer(id, waker))
        {
            return Err(error);
        }
        let found = lock(&self.shared.state).end_request(id);
        drop(request);
        Ok(found)
    }

    /// Tells who comes and goes: who serves `app` in `component`, or on the platform.
    pub fn watch(&self, component: Component, app: AppId) -> Result<Watch> {
        let about = Address::new(component, app);
        let key = lock(&self.shared.state).watch(about);
        let watch = Watch {
            shared: Arc::clone(&self.shared),
            key,
        };
        match self.shared.send(&question(about, Event::Watch)) {
            // It is asked for when there is a device.
            Err(Error::Open { .. } | Error::Gone) if self.shared.options.is_lazy => {}
            asked => asked?,
        }
        Ok(watch)
    }

    /// Gives the device back, so that its module can be removed, and does not open it again before
    /// [`Endpoint::resume`]. False if a thread still uses it after `timeout`; one that receives lets
    /// go within a second.
    pub fn suspend(&self, timeout: Duration) -> bool {
        let end = Instant::now() + timeout;
        let channel = {
            let mut link = lock(&self.shared.link);
            link.is_suspended = true;
            let Some(channel) = link.channel.take() else {
                return true;
            };
            lock(&self.shared.state).lost();
            Arc::downgrade(&channel)
        };
        while channel.strong_count() > 0 {
            if Instant::now() >= end {
                return false;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        true
    }

    /// Opens the device again after [`Endpoint::suspend`]. If that fails, it is tried again with
    /// each use.
    pub fn resume(&self) -> Result<()> {
        lock(&self.shared.link).is_suspended = false;
        self.shared.channel().map(drop)
    }
}

/// Who comes and goes, for threads. Ends when it is dropped.
#[derive(Debug)]
pub struct Watch {
    shared: Arc<Shared>,
    key: u64,
}

impl Watch {
    /// The next event, waiting up to `timeout` (`None`: without end).
    ///
    /// [`Error::Backlog`] once if events were lost, as nobody took them: then watch anew.
    pub fn next(&self, timeout: Option<Duration>) -> Result<Option<Presence>> {
        let poll = |state: &mut State, waker: &Waker| state.poll_watch(self.key, waker);
        self.shared.wait(Until::of(timeout), poll).transpose()
    }
}

impl Iterator for Watch {
    type Item = Result<Presence>;

    /// Waits for the next event, without end.
    fn next(&mut self) -> Option<Self::Item> {
        Watch::next(self, None).transpose()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let Some(about) = lock(&self.shared.state).unwatch(self.key) else {
            return;
        };
        let channel = lock(&self.shared.link).channel.clone();
        if let Some(channel) = channel {
            // If it cannot be told, the bridge tells what nobody listens to.
            let _ = channel.send(&question(about, Event::Unwatch));
        }
    }
}
