// SPDX-License-Identifier: MIT OR Apache-2.0

//! The load generator: requests at a chosen rate, whether the server keeps up or not (open loop),
//! as users who do not know of each other send them: a seeded Poisson process. Or as many as the
//! server can take (closed loop), to measure its capacity.

use anyhow::{Context, Result, bail};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1::SendRequest;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// Requests under way to one server at most: above its queue, so that it can turn some away.
const OUTSTANDING: u64 = 96;
/// An answer later than this is none.
const PATIENCE: Duration = Duration::from_secs(15);

/// What the clients of one server saw.
#[derive(Debug, Default)]
pub struct Seen {
    /// Requests sent.
    pub sent: AtomicU64,
    /// Answered with 200.
    pub answered: AtomicU64,
    /// Turned away with 503.
    pub busy: AtomicU64,
    /// Without an answer: connection refused or broken, or out of patience.
    pub failed: AtomicU64,
    /// Not sent, as too many were under way.
    pub dropped: AtomicU64,
}

impl Seen {
    /// (sent, answered, busy, failed, dropped)
    pub fn counts(&self) -> [u64; 5] {
        let all = [
            &self.sent,
            &self.answered,
            &self.busy,
            &self.failed,
            &self.dropped,
        ];
        all.map(|counter| counter.load(Ordering::Relaxed))
    }
}

/// xorshift64*: the same seed gives the same load, on every machine.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Uniform in (0, 1].
    fn unit(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let bits = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11;
        (bits + 1) as f64 / (1u64 << 53) as f64
    }

    /// The time to the next arrival of a Poisson process of this rate per second, seconds.
    fn gap(&mut self, rate: f64) -> f64 {
        -self.unit().ln() / rate
    }
}

type Sender = SendRequest<Empty<Bytes>>;

/// One server and the idle connections to it.
#[derive(Clone)]
struct Target {
    address: SocketAddr,
    idle: Arc<Mutex<Vec<Sender>>>,
}

impl Target {
    fn new(address: SocketAddr) -> Self {
        Self {
            address,
            idle: Arc::default(),
        }
    }

    fn idle(&self) -> Option<Sender> {
        let mut idle = self.idle.lock().unwrap_or_else(|e| e.into_inner());
        idle.retain(|sender| !sender.is_closed());
        let ready = idle.iter().rposition(SendRequest::is_ready)?;
        Some(idle.swap_remove(ready))
    }

    async fn connect(&self) -> Result<Sender> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(sender)
    }

    async fn request(&self) -> Result<StatusCode> {
        let mut sender = match self.idle() {
            Some(sender) => sender,
            None => self.connect().await?,
        };
        let request = Request::get("/")
            .header(hyper::header::HOST, "demo")
            .body(Empty::new())?;
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        answer.into_body().collect().await?;
        let mut idle = self.idle.lock().unwrap_or_else(|e| e.into_inner());
        idle.push(sender);
        Ok(status)
    }

    /// Sends a request, which the caller has counted as sent.
    async fn counted_request(&self, seen: &Seen) {
        let counter = match tokio::time::timeout(PATIENCE, self.request()).await {
            Ok(Ok(StatusCode::OK)) => &seen.answered,
            Ok(Ok(StatusCode::SERVICE_UNAVAILABLE)) => &seen.busy,
            _ => &seen.failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Sends requests to `address` for `duration` at `rate` per second, starting now.
async fn open_loop(address: SocketAddr, rate: f64, duration: Duration, seed: u64, seen: Arc<Seen>) {
    let target = Target::new(address);
    let mut random = Random::new(seed);
    let start = tokio::time::Instant::now();
    let mut at = random.gap(rate);
    while at < duration.as_secs_f64() {
        tokio::time::sleep_until(start + Duration::from_secs_f64(at)).await;
        at += random.gap(rate);
        let [sent, answered, busy, failed, _] = seen.counts();
        if sent - answered - busy - failed >= OUTSTANDING {
            seen.dropped.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        // Here and not in the task: what has not begun yet is under way, too.
        seen.sent.fetch_add(1, Ordering::Relaxed);
        let (target, seen) = (target.clone(), Arc::clone(&seen));
        tokio::spawn(async move { target.counted_request(&seen).await });
    }
    // What is under way may still be answered.
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        let [sent, answered, busy, failed, _] = seen.counts();
        if sent == answered + busy + failed {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// One server's part of a load.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// The server.
    pub address: SocketAddr,
    /// Requests per second.
    pub rate: f64,
    /// Of its Poisson process.
    pub seed: u64,
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("tokio")
}

/// A load that runs in a thread of its own.
pub struct Load {
    /// What each part's clients see, in the order of the parts.
    pub seen: Vec<Arc<Seen>>,
    thread: std::thread::JoinHandle<Result<()>>,
}

impl Load {
    /// Starts the load of all parts.
    pub fn start(parts: &[Part], duration: Duration) -> Self {
        let parts = parts.to_vec();
        let seen: Vec<Arc<Seen>> = parts.iter().map(|_| Arc::default()).collect();
        let theirs = seen.clone();
        let thread = std::thread::spawn(move || {
            runtime()?.block_on(async {
                let tasks: Vec<_> = parts
                    .iter()
                    .zip(theirs)
                    .map(|(p, seen)| {
                        tokio::spawn(open_loop(p.address, p.rate, duration, p.seed, seen))
                    })
                    .collect();
                for task in tasks {
                    task.await.context("load")?;
                }
                Ok(())
            })
        });
        Self { seen, thread }
    }

    /// Waits until it is over and the last answers are in.
    pub fn finish(self) -> Result<()> {
        let done = self.thread.join();
        done.unwrap_or_else(|_| bail!("the load generator panicked"))
    }
}

/// How many requests per second the server answers when some are always waiting: its capacity.
pub fn capacity(address: SocketAddr, duration: Duration) -> Result<f64> {
    const CLIENTS: usize = 4;
    runtime()?.block_on(async {
        let target = Target::new(address);
        // A server that is only just starting shall not count as slow.
        let end = Instant::now() + Duration::from_secs(20);
        while let Err(error) = target.request().await {
            if Instant::now() > end {
                return Err(error.context(format!("no answer from {address}")));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let seen: Arc<Seen> = Arc::default();
        let start = Instant::now();
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                let (target, seen) = (target.clone(), Arc::clone(&seen));
                tokio::spawn(async move {
                    while start.elapsed() < duration {
                        seen.sent.fetch_add(1, Ordering::Relaxed);
                        target.counted_request(&seen).await;
                    }
                })
            })
            .collect();
        for client in clients {
            client.await.context("load")?;
        }
        let [sent, answered, _, failed, _] = seen.counts();
        if failed > 0 || answered == 0 {
            bail!("{address}: {answered} of {sent} requests were answered, {failed} failed");
        }
        Ok(answered as f64 / start.elapsed().as_secs_f64())
    })
}

/// What `load` is told.
#[derive(clap::Args)]
pub struct Options {
    /// The server.
    #[arg(long)]
    target: SocketAddr,
    /// Requests per second; without it, the server's capacity is measured.
    #[arg(long)]
    rate: Option<f64>,
    /// How long.
    #[arg(long, default_value_t = 10, value_name = "SECONDS")]
    duration: u64,
    /// Of the arrivals.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// The generator by itself.
pub fn load(options: &Options) -> Result<()> {
    let duration = Duration::from_secs(options.duration);
    let Some(rate) = options.rate else {
        let capacity = capacity(options.target, duration)?;
        println!("{{\"capacity_per_second\":{capacity:.1}}}");
        return Ok(());
    };
    if !(rate > 0.0 && rate <= 1e5) {
        bail!("--rate: above 0, at most 100000");
    }
    let part = Part {
        address: options.target,
        rate,
        seed: options.seed,
    };
    let load = Load::start(&[part], duration);
    let seen = Arc::clone(&load.seen[0]);
    load.finish()?;
    let [sent, answered, busy, failed, dropped] = seen.counts();
    println!(
        "{{\"sent\":{sent},\"answered\":{answered},\"busy\":{busy},\"failed\":{failed},\
         \"dropped\":{dropped}}}"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_one_load_at_the_rate_asked_for() {
        let arrivals = |seed| {
            let mut random = Random::new(seed);
            let gaps = std::iter::repeat_with(|| random.gap(50.0));
            gaps.take(10_000).collect::<Vec<f64>>()
        };
        assert_eq!(arrivals(7), arrivals(7));
        assert_ne!(arrivals(7), arrivals(8));
        let mean = arrivals(7).iter().sum::<f64>() / 10_000.0;
        assert!((mean - 0.02).abs() < 0.001, "{mean}");
        assert!(arrivals(7).iter().all(|&gap| gap >= 0.0 && gap.is_finite()));
    }
}
