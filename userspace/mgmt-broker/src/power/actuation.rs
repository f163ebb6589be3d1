// SPDX-License-Identifier: MIT OR Apache-2.0

//! A thread of its own for the actuator (paper §4.2: a broker is multi-threaded): a toolstack call
//! takes a good part of an epoch, and messages must not wait for it.

use super::cap::{CapError, CpuCap};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

/// What the thread shall do.
#[derive(Clone, Debug)]
enum Job {
    Read { domain: u32 },
    Set { domain: u32, cap: u32, why: String },
}

/// What it did.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) domain: u32,
    /// The cap in force, percent.
    pub(super) result: Result<u32, CapError>,
}

/// The thread, seen from the broker. Dropping it waits for the jobs that were given.
#[derive(Debug)]
pub(super) struct Actuation {
    jobs: Option<Sender<Job>>,
    done: Receiver<Done>,
    thread: Option<JoinHandle<()>>,
}

impl Actuation {
    pub(super) fn start(mut actuator: Box<dyn CpuCap>) -> Self {
        let (jobs, todo) = channel();
        let (report, done) = channel();
        let thread = std::thread::spawn(move || {
            for job in todo {
                let (domain, result) = match job {
                    Job::Read { domain } => (domain, actuator.get(domain)),
                    Job::Set { domain, cap, why } => {
                        let done = actuator.set_for(domain, cap, &why);
                        (domain, done.map(|()| cap))
                    }
                };
                // Nobody listens any more when the broker stops; the rest is done all the same.
                let _ = report.send(Done { domain, result });
            }
        });
        Self {
            jobs: Some(jobs),
            done,
            thread: Some(thread),
        }
    }

    fn give(&self, job: Job) {
        if let Some(jobs) = &self.jobs {
            // Fails only if the thread panicked, and then nothing is done any more.
            if jobs.send(job).is_err() {
                tracing::error!("the actuator's thread is gone");
            }
        }
    }

    pub(super) fn read(&self, domain: u32) {
        self.give(Job::Read { domain });
    }

    pub(super) fn set(&self, domain: u32, cap: u32, why: impl Into<String>) {
        let why = why.into();
        self.give(Job::Set { domain, cap, why });
    }

    /// The next thing that was done, if any.
    pub(super) fn done(&self) -> Option<Done> {
        self.done.try_recv().ok()
    }
}

impl Drop for Actuation {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
