// SPDX-License-Identifier: MIT OR Apache-2.0

//! Health of brokers: each has threads of its own, and is started again when it fails.

use crate::application::{Application, serve};
use mgmt_channel::Result;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The pause before the first restart.
const FIRST: Duration = Duration::from_millis(100);
/// The longest one.
const LONGEST: Duration = Duration::from_secs(10);
/// Who has run for so long is well again.
const WELL: Duration = Duration::from_secs(30);
/// Between two looks at the stop flag.
const LOOK: Duration = Duration::from_millis(50);

/// The pauses before restarts: each is twice as long as the one before.
#[derive(Debug)]
pub struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Self(FIRST)
    }
}

impl Backoff {
    /// The pause for who failed after having run for so long.
    pub fn after(&mut self, ran: Duration) -> Duration {
        if ran >= WELL {
            self.0 = FIRST;
        }
        let pause = self.0;
        self.0 = (pause * 2).min(LONGEST);
        pause
    }
}

/// How a broker is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// It runs; otherwise it waits to be started again, or has ended.
    pub is_running: bool,
    /// How often it was started again.
    pub restarts: u32,
    /// Why it failed last.
    pub failure: Option<String>,
}

struct Hosted {
    name: String,
    health: Arc<Mutex<Health>>,
    thread: JoinHandle<()>,
}

/// Hosts brokers. One that fails, or panics, is started again; the others notice nothing.
pub struct Host {
    stop: Arc<AtomicBool>,
    hosted: Vec<Hosted>,
}

fn lock(health: &Mutex<Health>) -> MutexGuard<'_, Health> {
    health.lock().unwrap_or_else(|e| e.into_inner())
}

impl Host {
    /// One that stops all when this is set.
    pub fn new(stop: Arc<AtomicBool>) -> Self {
        Self {
            stop,
            hosted: Vec::new(),
        }
    }

    /// Hosts an application; `make` makes its policy, for each start anew.
    pub fn add<A: Application>(&mut self, make: impl Fn() -> A + Send + 'static) {
        self.run(A::APP, move |stop| serve(make(), stop));
    }

    /// Hosts whatever `run` does until it is told to stop.
    pub fn run(
        &mut self,
        name: &str,
        run: impl Fn(&dyn Fn() -> bool) -> Result<()> + Send + 'static,
    ) {
        let health = Arc::new(Mutex::new(Health::default()));
        let (stop, theirs, label) = (Arc::clone(&self.stop), Arc::clone(&health), name.to_owned());
        let thread = std::thread::spawn(move || supervise(&label, &run, &stop, &theirs));
        self.hosted.push(Hosted {
            name: name.to_owned(),
            health,
            thread,
        });
    }

    /// How each is.
    pub fn health(&self) -> Vec<(String, Health)> {
        let of = |hosted: &Hosted| (hosted.name.clone(), lock(&hosted.health).clone());
        self.hosted.iter().map(of).collect()
    }

    /// Waits until all have stopped.
    pub fn join(self) {
        for hosted in self.hosted {
            // It catches what a broker panics with, and does not itself.
            let _ = hosted.thread.join();
        }
    }
}

fn supervise(
    name: &str,
    run: &dyn Fn(&dyn Fn() -> bool) -> Result<()>,
    stop: &AtomicBool,
    health: &Mutex<Health>,
) {
    let stops = || stop.load(Ordering::Relaxed);
    let mut backoff = Backoff::default();
    while !stops() {
        lock(health).is_running = true;
        let begin = Instant::now();
        let ended = catch_unwind(AssertUnwindSafe(|| run(&stops)));
        lock(health).is_running = false;
        let failure = match ended {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it panicked".into(),
        };
        let pause = backoff.after(begin.elapsed());
        tracing::error!(broker = name, failure, ?pause, "failed; is started again");
        {
            let mut health = lock(health);
            health.failure = Some(failure);
            health.restarts = health.restarts.saturating_add(1);
        }
        let end = Instant::now() + pause;
        while !stops() && Instant::now() < end {
            std::thread::sleep(LOOK.min(pause));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mgmt_channel::Error;
    use std::sync::atomic::AtomicU32;

    #[test]
    fn pauses_double_and_who_is_well_begins_anew() {
        let mut backoff = Backoff::default();
        let short = Duration::from_secs(1);
        let pauses: Vec<u128> = (0..9).map(|_| backoff.after(short).as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 6400, 10000, 10000]);
        assert_eq!(backoff.after(WELL), FIRST);
    }

    #[test]
    fn who_fails_is_started_again_and_others_go_on() {
        let stop = Arc::new(AtomicBool::new(false));
        let mut host = Host::new(Arc::clone(&stop));
        let starts = Arc::new(AtomicU32::new(0));
        let theirs = Arc::clone(&starts);
        host.run("Bad", move |stop| {
            match theirs.fetch_add(1, Ordering::Relaxed) {
                0 => Err(Error::Gone),
                1 => panic!("on purpose"),
                _ => {
                    while !stop() {
                        std::thread::sleep(LOOK);
                    }
                    Ok(())
                }
            }
        });
        host.run("Good", |stop| {
            while !stop() {
                std::thread::sleep(LOOK);
            }
            Ok(())
        });
        while starts.load(Ordering::Relaxed) < 3 {
            std::thread::sleep(LOOK);
        }
        let health = host.health();
        assert_eq!((health[0].1.restarts, health[1].1.restarts), (2, 0));
        assert_eq!(health[0].1.failure.as_deref(), Some("it panicked"));
        stop.store(true, Ordering::Relaxed);
        host.join();
    }
}
