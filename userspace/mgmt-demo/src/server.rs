// SPDX-License-Identifier: MIT OR Apache-2.0

//! The web server of the demonstration, with the agent that watches it, in one process.
//!
//! One worker takes the requests from a bounded queue, so that a starved server shows as long
//! response times, and recovers: what does not fit into the queue is turned away at once (503). The
//! response time is the server's own: from when the request was read, or the connection accepted,
//! until the answer was ready.

use crate::work::Work;
use anyhow::{Context, Result};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use mgmt_agent::{Config, Samples};
use mgmt_channel::Channel;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// What `serve` is told.
#[derive(clap::Args)]
pub struct Options {
    /// Where to listen.
    #[arg(long, default_value = "0.0.0.0:80")]
    listen: SocketAddr,
    /// What the agent calls itself.
    #[arg(long, default_value = "web")]
    name: String,
    /// Processor time of a request on the unrestricted CPU, milliseconds.
    #[arg(long, default_value_t = 8, value_name = "MS")]
    service_ms: u64,
    /// Requests that may wait; more are turned away.
    #[arg(long, default_value_t = 48)]
    queue: usize,
    /// The longest response time that is no violation, until the broker says otherwise.
    #[arg(long, default_value_t = 200, value_name = "MS")]
    sla_ms: u32,
}

/// A request that waits for the worker.
struct Job {
    arrived: Instant,
    number: u64,
    answer: oneshot::Sender<u64>,
}

/// What connections share.
struct Shared {
    queue: SyncSender<Job>,
    waiting: AtomicU32,
    samples: Samples,
}

/// Serves until killed.
pub fn serve(options: &Options) -> Result<()> {
    let target = Duration::from_millis(options.service_ms);
    let work = Work::calibrate(target);
    let (queue, jobs) = sync_channel(options.queue.max(1));
    let shared = Arc::new(Shared {
        queue,
        waiting: AtomicU32::new(0),
        samples: Samples::default(),
    });

    let mut config = Config::new(&options.name, options.sla_ms.saturating_mul(1000))?;
    config.service_us = target.as_micros() as u32;
    let for_agent = Arc::clone(&shared);
    std::thread::spawn(move || {
        let app = config.app;
        let open = || Channel::open()?.bound(app.as_str());
        mgmt_agent::run(config, &for_agent.samples, &open, &|| false);
    });
    let for_worker = Arc::clone(&shared);
    std::thread::spawn(move || worker(&work, &jobs, &for_worker));

    println!(
        "serving {} ({} KiB per request)",
        options.listen,
        work.kib()
    );
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("tokio")?;
    runtime.block_on(listen(options.listen, shared))
}

/// Works off the queue, one request at a time.
fn worker(work: &Work, jobs: &Receiver<Job>, shared: &Shared) {
    // The lowest priority of this process's threads: however much there is to do, the server turns
    // away what is too much, and the agent reports. Without it they only come later.
    let _ = rustix::process::nice(10);
    for job in jobs {
        let waiting = shared.waiting.fetch_sub(1, Ordering::Relaxed) - 1;
        shared.samples.set_queued(waiting);
        let digest = work.run(job.number);
        shared.samples.answered(job.arrived.elapsed());
        // The client may have gone; the work was done all the same.
        let _ = job.answer.send(digest);
    }
}

async fn listen(address: SocketAddr, shared: Arc<Shared>) -> Result<()> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("listening on {address}"))?;
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of files, for example: others may end meanwhile.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let accepted = Instant::now();
        let _ = stream.set_nodelay(true);
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            // The first request has waited since the connection was accepted.
            let first = AtomicBool::new(true);
            let service = service_fn(|request| {
                let arrived = match first.swap(false, Ordering::Relaxed) {
                    true => accepted,
                    false => Instant::now(),
                };
                answer(request, arrived, Arc::clone(&shared))
            });
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    arrived: Instant,
    shared: Arc<Shared>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (answer, digest) = oneshot::channel();
    let job = Job {
        arrived,
        number: request.uri().path().len() as u64,
        answer,
    };
    // Counted before it is queued: the worker may be faster than this thread.
    shared.waiting.fetch_add(1, Ordering::Relaxed);
    if shared.queue.try_send(job).is_err() {
        shared.waiting.fetch_sub(1, Ordering::Relaxed);
        shared.samples.rejected();
        return Ok(response(StatusCode::SERVICE_UNAVAILABLE, "busy\n".into()));
    }
    Ok(match digest.await {
        Ok(digest) => response(StatusCode::OK, format!("{digest:016x}\n")),
        Err(_) => response(StatusCode::INTERNAL_SERVER_ERROR, "no answer\n".into()),
    })
}

fn response(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response
}
