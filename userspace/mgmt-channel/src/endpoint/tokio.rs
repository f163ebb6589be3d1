// SPDX-License-Identifier: MIT OR Apache-2.0

//! The endpoint for tasks. A task of its own reads for all.

use super::state::State;
use super::{EndpointBuilder, Incoming, Presence, question};
use crate::channel::{RETRY_FIRST, RETRY_LONGEST, Until};
use crate::{Address, AppId, Channel, Component, Error, Event, Flags, Info, Kind, Message, Result};
use futures_core::Stream;
use rustix::io::Errno;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout_at};

/// Between two attempts to open the device.
const RECONNECT: Duration = Duration::from_millis(200);

/// A bound App_ID, for tasks, which may share it. It is [`Endpoint`](super::Endpoint), with
/// futures that may be dropped at any time.
#[derive(Debug)]
pub struct AsyncEndpoint {
    shared: Arc<Shared>,
    reader: JoinHandle<()>,
}

struct Shared {
    options: EndpointBuilder,
    link: Mutex<Link>,
    state: Mutex<State>,
    /// There is room, or the link is to be looked at.
    changed: Notify,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.options.fmt(f)
    }
}

#[derive(Default)]
struct Link {
    channel: Option<Arc<AsyncFd<Channel>>>,
    is_old: bool,
    is_suspended: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

impl EndpointBuilder {
    /// Opens it for tasks. Only within a runtime.
    pub fn open_async(self) -> Result<AsyncEndpoint> {
        let state = State::new(self.requests_only);
        let shared = Arc::new(Shared {
            options: self,
            link: Mutex::default(),
            state: Mutex::new(state),
            changed: Notify::new(),
        });
        match shared.channel() {
            Err(_) if shared.options.is_lazy => {}
            opened => drop(opened?),
        }
        let reader = tokio::spawn(read(Arc::clone(&shared)));
        Ok(AsyncEndpoint { shared, reader })
    }
}

impl Shared {
    /// The device, opened and bound anew where that is needed.
    fn channel(&self) -> Result<Arc<AsyncFd<Channel>>> {
        let mut link = lock(&self.link);
        if let Some(channel) = &link.channel {
            return Ok(Arc::clone(channel));
        }
        if link.is_suspended {
            return Err(Error::Gone);
        }
        let channel = self.options.make(true)?;
        // SAFETY: the channel owns its file, which is the same until it is dropped, and `AsyncFd`
        // drops it after its registration.
        let channel = unsafe { AsyncFd::register_with_interest(channel, Interest::READABLE) };
        let channel = Arc::new(channel.map_err(|error| Error::Os {
            call: "epoll",
            errno: Errno::from_io_error(&error.into_parts().1).unwrap_or(Errno::IO),
        })?);
        let watched = lock(&self.state).watched();
        for about in watched {
            channel.get_ref().send(&question(about, Event::Watch))?;
        }
        if std::mem::replace(&mut link.is_old, true) {
            lock(&self.state).restored();
        }
        link.channel = Some(Arc::clone(&channel));
        Ok(channel)
    }

    fn lose(&self, channel: &Arc<AsyncFd<Channel>>) {
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

    async fn send(&self, message: &Message) -> Result<()> {
        let wait = self.options.send_wait;
        let deadline = Duration::from_millis(message.header.deadline_ms.into());
        let limit = wait.or((!deadline.is_zero()).then_some(deadline));
        let until = Until::of(limit);
        let bytes = message.encode();
        let mut pause = RETRY_FIRST;
        let mut is_second = false;
        loop {
            let channel = self.channel()?;
            match channel.get_ref().send_bytes(&bytes) {
                Err(Error::WouldBlock) => {
                    if until.left().is_some_and(|left| left.is_zero()) {
                        return Err(Error::TimedOut);
                    }
                    sleep(pause).await;
                    pause = (pause * 2).min(RETRY_LONGEST);
                }
                // Nothing was sent: by the next device, if there is one.
                Err(Error::Gone | Error::NotBound) if !is_second => {
                    is_second = true;
                    self.lose(&channel);
                }
                done => return done,
            }
        }
    }
}

/// Reads until it is aborted.
async fn read(shared: Arc<Shared>) {
    let mut buffer = Vec::new();
    loop {
        let channel = match shared.channel() {
            Ok(channel) => channel,
            Err(_) => {
                sleep(RECONNECT).await;
                continue;
            }
        };
        let is_gone = {
            let mut changed = pin!(shared.changed.notified());
            let mut all = pin!(read_all(&shared, &channel, &mut buffer));
            let first = poll_fn(|cx| match changed.as_mut().poll(cx) {
                Poll::Ready(()) => Poll::Ready(false),
                Poll::Pending => all.as_mut().poll(cx).map(|()| true),
            });
            first.await
        };
        if is_gone {
            shared.lose(&channel);
            drop(channel);
            sleep(RECONNECT).await;
        }
    }
}

/// Reads from this device until it has gone.
async fn read_all(shared: &Shared, channel: &AsyncFd<Channel>, buffer: &mut Vec<u8>) {
    loop {
        if lock(&shared.state).starves() {
            return std::future::pending().await;
        }
        let Ok(mut ready) = channel.readable().await else {
            return;
        };
        match channel
            .get_ref()
            .recv_until(buffer, Until::of(Some(Duration::ZERO)))
        {
            Ok(Some(message)) => lock(&shared.state).enter(message),
            Ok(None) => ready.clear_ready(),
            Err(Error::Wire(_)) => {}
            Err(_) => return,
        }
        // A flood must not keep the other tasks from running.
        tokio::task::yield_now().await;
    }
}

impl Drop for AsyncEndpoint {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// Ends the request that nobody waits for any more.
struct Request<'a>(&'a Shared, u64);

impl Drop for Request<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).end_request(self.1);
    }
}

impl AsyncEndpoint {
    /// Binds `app`, alone. Only within a runtime.
    pub fn open(app: &str) -> Result<Self> {
        EndpointBuilder::new(app)?.open_async()
    }

    /// What this endpoint and its domain are.
    pub fn info(&self) -> Result<Info> {
        self.shared.channel()?.get_ref().info()
    }

    /// See [`Endpoint::send`](super::Endpoint::send).
    pub async fn send(&self, to: Address, payload: Vec<u8>) -> Result<u64> {
        self.send_message(Message::data(to, payload)).await
    }

    /// See [`Endpoint::broadcast`](super::Endpoint::broadcast).
    pub async fn broadcast(&self, to: Address, payload: Vec<u8>) -> Result<u64> {
        let mut message = Message::data(to, payload);
        message.header.flags = Flags::BROADCAST;
        self.send_message(message).await
    }

    /// Answers a request.
    pub async fn reply(&self, request: &Message, payload: Vec<u8>) -> Result<u64> {
        self.send_message(request.reply(payload)).await
    }

    /// See [`Endpoint::send_message`](super::Endpoint::send_message).
    pub async fn send_message(&self, mut message: Message) -> Result<u64> {
        let id = lock(&self.shared.state).sending(&mut message.header);
        let sent = self.shared.send(&message).await;
        if sent.is_err() {
            lock(&self.shared.state).not_sent(id);
        }
        sent.map(|()| id)
    }

    /// See [`Endpoint::request`](super::Endpoint::request).
    pub async fn request(
        &self,
        to: Address,
        payload: Vec<u8>,
        timeout: Duration,
    ) -> Result<Message> {
        self.request_message(Message::data(to, payload), timeout)
            .await
    }

    /// See [`Endpoint::request_message`](super::Endpoint::request_message).
    pub async fn request_message(
        &self,
        mut message: Message,
        timeout: Duration,
    ) -> Result<Message> {
        message.header.flags = message.header.flags.union(Flags::REQUEST);
        let until = message.ask_within(timeout);
        let id = lock(&self.shared.state).expect(&mut message.header, false);
        let _request = Request(&self.shared, id);
        if let Err(error) = self.shared.send(&message).await {
            lock(&self.shared.state).not_sent(id);
            return Err(error);
        }
        let answer = poll_fn(|cx| lock(&self.shared.state).poll_answer(id, cx.waker()));
        let left = until.left().unwrap_or(timeout);
        tokio::time::timeout(left, answer)
            .await
            .unwrap_or(Err(Error::TimedOut))
    }

    /// Receives the next thing, however long that takes.
    pub async fn recv(&self) -> Result<Incoming> {
        let was_full = lock(&self.shared.state).is_full();
        let incoming = poll_fn(|cx| lock(&self.shared.state).poll_recv(cx.waker())).await;
        if was_full {
            self.shared.changed.notify_one();
        }
        Ok(incoming)
    }

    /// See [`Endpoint::discover`](super::Endpoint::discover).
    pub async fn discover(
        &self,
        component: Component,
        app: AppId,
        wait: Duration,
    ) -> Result<Vec<Address>> {
        let end = Instant::now() + wait;
        let mut message = Message::new(Kind::Discover, Address::new(component, app), Vec::new());
        message.header.flags = Flags::REQUEST.union(Flags::BROADCAST);
        let id = lock(&self.shared.state).expect(&mut message.header, true);
        let _request = Request(&self.shared, id);
        self.shared.send(&message).await?;
        let answer = poll_fn(|cx| lock(&self.shared.state).poll_answer(id, cx.waker()));
        if let Ok(Err(error)) = timeout_at(end, answer).await {
            return Err(error);
        }
        Ok(lock(&self.shared.state).end_request(id))
    }

    /// See [`Endpoint::watch`](super::Endpoint::watch).
    pub async fn watch(&self, component: Component, app: AppId) -> Result<AsyncWatch> {
        let about = Address::new(component, app);
        let key = lock(&self.shared.state).watch(about);
        let watch = AsyncWatch {
            shared: Arc::clone(&self.shared),
            key,
        };
        match self.shared.send(&question(about, Event::Watch)).await {
            Err(Error::Open { .. } | Error::Gone) if self.shared.options.is_lazy => {}
            asked => asked?,
        }
        Ok(watch)
    }

    /// See [`Endpoint::suspend`](super::Endpoint::suspend). It is given back when this returns,
    /// unless a task is sending.
    pub async fn suspend(&self) {
        let channel = {
            let mut link = lock(&self.shared.link);
            link.is_suspended = true;
            let Some(channel) = link.channel.take() else {
                return;
            };
            lock(&self.shared.state).lost();
            Arc::downgrade(&channel)
        };
        self.shared.changed.notify_one();
        while channel.strong_count() > 0 {
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// See [`Endpoint::resume`](super::Endpoint::resume).
    pub fn resume(&self) -> Result<()> {
        lock(&self.shared.link).is_suspended = false;
        self.shared.channel().map(drop)
    }
}

/// Who comes and goes, as a stream. Ends when it is dropped.
#[derive(Debug)]
pub struct AsyncWatch {
    shared: Arc<Shared>,
    key: u64,
}

impl AsyncWatch {
    /// The next event; errors as those of [`Watch::next`](super::Watch::next).
    pub async fn next(&mut self) -> Result<Presence> {
        poll_fn(|cx| lock(&self.shared.state).poll_watch(self.key, cx.waker())).await
    }
}

impl Stream for AsyncWatch {
    type Item = Result<Presence>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let polled = lock(&self.shared.state).poll_watch(self.key, cx.waker());
        polled.map(Some)
    }
}

impl Drop for AsyncWatch {
    fn drop(&mut self) {
        let Some(about) = lock(&self.shared.state).unwatch(self.key) else {
            return;
        };
        let channel = lock(&self.shared.link).channel.clone();
        if let Some(channel) = channel {
            // If it cannot be told, the bridge tells what nobody listens to.
            let _ = channel.get_ref().send(&question(about, Event::Unwatch));
        }
    }
}
