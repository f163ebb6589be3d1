// SPDX-License-Identifier: MIT OR Apache-2.0

//! The loop: the machine's requests, the lines that steer, and the time.

use crate::clients::Clients;
use crate::link::Link;
use anyhow::Result;
use mgmt_bmc::app::Attention;
use mgmt_bmc::bmc::{Bmc, Effect};
use mgmt_bmc::control::{self, Connection};
use mgmt_bmc::fault::Faults;
use mgmt_bmc::power::STEP;
use mgmt_bmc::vm::{self, Frame};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::path::Path;
use std::time::Instant;

pub(crate) struct Server {
    bmc: Bmc,
    faults: Faults,
    link: Link,
    clients: Clients,
    started: Instant,
    hangs: bool,
    trace: bool,
}

impl Server {
    pub(crate) fn new(
        bmc: Bmc,
        faults: Faults,
        vm: &Path,
        control: &Path,
        trace: bool,
    ) -> Result<Self> {
        Ok(Self {
            bmc,
            faults,
            link: Link::new(vm),
            clients: Clients::listen(control)?,
            started: Instant::now(),
            hangs: false,
            trace,
        })
    }

    pub(crate) fn run(mut self) -> Result<()> {
        self.log("started");
        loop {
            self.wait()?;
            self.bmc.advance(self.started.elapsed());
            self.steer();
            if self.link.connect() {
                self.log("connected to the machine");
                self.bmc.tell_again();
            }
            if !self.hangs {
                self.serve();
                self.tell();
                self.link.send_due();
            }
            self.link.flush();
        }
    }

    /// Until something comes, or a step of the model or a late reply is due.
    fn wait(&self) -> Result<()> {
        let due = self
            .link
            .due()
            .map(|at| at.saturating_duration_since(Instant::now()));
        let timeout = due
            .filter(|_| !self.hangs)
            .map_or(STEP, |due| due.min(STEP));
        let timeout = Timespec::try_from(timeout)?;
        let mut fds: Vec<_> = self
            .clients
            .waits()
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        if let Some((fd, writes)) = self.link.waits() {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, !self.hangs);
            flags.set(PollFlags::OUT, writes);
            // One that hangs does not see that the connection ends, either.
            if !flags.is_empty() {
                fds.push(PollFd::from_borrowed_fd(fd, flags));
            }
        }
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    fn steer(&mut self) {
        let Self {
            bmc,
            faults,
            link,
            clients,
            hangs,
            started,
            ..
        } = self;
        clients.serve(|line| {
            let (answer, connection) = control::run(line, bmc, faults);
            log(*started, &format!("control: {line}: {answer}"));
            match connection {
                Connection::Keep => {}
                Connection::Resume => *hangs = false,
                Connection::Hang => *hangs = true,
                Connection::Break(time) => link.disconnect(time),
            }
            answer
        });
    }

    fn serve(&mut self) {
        let was_up = self.link.is_up();
        for frame in self.link.receive() {
            match frame {
                Ok(Frame::Message(id, request)) => self.answer(id, &request),
                Ok(Frame::Command(command)) if command[0] == vm::RESET => {
                    self.log("the machine was reset");
                }
                Ok(Frame::Command(_)) => {}
                Err(mistake) => self.log(&format!("not a frame: {mistake:?}")),
            }
        }
        if was_up && !self.link.is_up() {
            self.log("the machine closed the connection");
        }
    }

    fn answer(&mut self, id: u8, request: &[u8]) {
        let Some(reply) = self.bmc.handle(request) else {
            return self.log(&format!("not a request: {request:02x?}"));
        };
        if self.trace {
            self.log(&format!("{request:02x?} -> {:02x?}", &reply[2..]));
        }
        // What the reply changes for the machine it knows first.
        self.tell();
        for sending in self.faults.apply(id, request, &reply) {
            self.link.send_after(sending.after, sending.bytes);
        }
    }

    fn tell(&mut self) {
        if !self.link.is_up() {
            return;
        }
        for effect in self.bmc.effects() {
            let command = match effect {
                Effect::Interrupts(true) => vm::ENABLE_INTERRUPTS,
                Effect::Interrupts(false) => vm::DISABLE_INTERRUPTS,
                Effect::Attention(Attention::None) => vm::NO_ATTENTION,
                Effect::Attention(Attention::Shown) => vm::ATTENTION,
                Effect::Attention(Attention::Interrupt) => vm::ATTENTION_INTERRUPT,
                Effect::PowerOff => vm::POWER_OFF,
                Effect::ResetMachine => vm::RESET,
            };
            self.log(&format!("to the machine: {effect:?}"));
            self.link.send(&vm::command(&[command]));
        }
    }

    fn log(&self, text: &str) {
        log(self.started, text);
    }
}

fn log(started: Instant, text: &str) {
    eprintln!("[{:9.3}] {text}", started.elapsed().as_secs_f64());
}
