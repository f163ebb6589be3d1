// SPDX-License-Identifier: MIT OR Apache-2.0

//! Metrics for Prometheus, over HTTP: on a loopback address or a unix socket, as there is nobody's
//! name or password in it.

use crate::core::Core;
use anyhow::{Context, Result, bail};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use mgmt_channel::{Channel, LinkState};
use mgmt_maker::since_boot_ms;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;

/// Connections at a time.
const CONNECTIONS: usize = 16;
/// A request must be there within this time.
const REQUEST: Duration = Duration::from_secs(5);
/// How long the server waits before it looks whether all shall end.
const TICK: Duration = Duration::from_millis(500);

/// What the daemon counts of itself.
#[derive(Default)]
pub struct Metrics {
    done: AtomicU64,
    refused: AtomicU64,
}

impl Metrics {
    /// A request to the control interface was answered.
    pub fn request(&self, done: bool) {
        let counter = if done { &self.done } else { &self.refused };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Where to listen: `IP:PORT` of a loopback address, or `unix:PATH`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(try_from = "String")]
pub enum Listen {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl FromStr for Listen {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Self::Unix(path.into()));
        }
        let address: SocketAddr = text.parse().context("IP:PORT or unix:PATH is expected")?;
        if !address.ip().is_loopback() {
            bail!("{address}: only a loopback address, as anybody may read there");
        }
        Ok(Self::Tcp(address))
    }
}

impl TryFrom<String> for Listen {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map_err(|error| format!("{error:#}"))
    }
}

/// Starts the server.
pub fn serve(core: &Arc<Core>, listen: &Listen) -> Result<JoinHandle<Result<()>>> {
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_all().build().context("metrics")?;
    let _inside = runtime.enter();
    // Bound here, so that what is wrong is told at the start.
    let listener = match listen {
        Listen::Tcp(address) => {
            let socket = std::net::TcpListener::bind(address);
            let socket = socket.with_context(|| format!("metrics at {address}"))?;
            socket.set_nonblocking(true)?;
            Listener::Tcp(tokio::net::TcpListener::from_std(socket)?)
        }
        Listen::Unix(path) => {
            // What a daemon that was killed left.
            let _ = std::fs::remove_file(path);
            let socket = tokio::net::UnixListener::bind(path);
            Listener::Unix(socket.with_context(|| format!("metrics at {}", path.display()))?)
        }
    };
    let core = Arc::clone(core);
    Ok(std::thread::spawn(move || {
        runtime.block_on(accept(&core, listener));
        Ok(())
    }))
}

enum Listener {
    Tcp(tokio::net::TcpListener),
    Unix(tokio::net::UnixListener),
}

async fn accept(core: &Arc<Core>, listener: Listener) {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Collected(Arc::clone(core))));
    let registry = Arc::new(registry);
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    while !core.stopping() {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        let accepted = async {
            Ok::<Box<dyn Stream>, std::io::Error>(match &listener {
                Listener::Tcp(socket) => Box::new(socket.accept().await?.0),
                Listener::Unix(socket) => Box::new(socket.accept().await?.0),
            })
        };
        let stream = match tokio::time::timeout(TICK, accepted).await {
            Ok(Ok(stream)) => stream,
            // Out of files, say: better not at once again.
            Ok(Err(_)) => {
                tokio::time::sleep(TICK).await;
                continue;
            }
            Err(_) => continue,
        };
        let registry = Arc::clone(&registry);
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(REQUEST)
            .keep_alive(false)
            .serve_connection(
                TokioIo::new(stream),
                service_fn(move |request| {
                    let answer = respond(&registry, &request);
                    async { Ok::<_, Infallible>(answer) }
                }),
            );
        tokio::spawn(async move {
            // Who reads slowly holds its place only for a time.
            let _ = tokio::time::timeout(4 * REQUEST, connection).await;
            drop(permit);
        });
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

fn respond(registry: &Registry, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let say = |status, text: String| {
        let mut response = Response::new(Full::new(Bytes::from(text)));
        *response.status_mut() = status;
        let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        if status == StatusCode::OK {
            let kind = hyper::header::HeaderValue::from_static(kind);
            response
                .headers_mut()
                .insert(hyper::header::CONTENT_TYPE, kind);
        }
        response
    };
    if request.uri().path() != "/metrics" {
        return say(StatusCode::NOT_FOUND, "/metrics is here\n".into());
    }
    if request.method() != Method::GET {
        return say(StatusCode::METHOD_NOT_ALLOWED, String::new());
    }
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, registry) {
        Ok(()) => say(StatusCode::OK, text),
        Err(error) => say(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

/// Reads everything when it is asked for.
#[derive(Debug)]
struct Collected(Arc<Core>);

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Core")
    }
}

/// A family of values of one kind.
struct Family<'a, 'e> {
    encoder: &'a mut DescriptorEncoder<'e>,
}

impl Family<'_, '_> {
    fn write<L: EncodeLabelSet>(
        &mut self,
        kind: MetricType,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (L, u64)>,
    ) -> fmt::Result {
        let mut family = self.encoder.encode_descriptor(name, help, None, kind)?;
        for (labels, value) in values {
            let encoder = family.encode_family(&labels)?;
            match kind {
                MetricType::Counter => ConstCounter::new(value).encode(encoder)?,
                _ => ConstGauge::new(value as i64).encode(encoder)?,
            }
        }
        Ok(())
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let kind = MetricType::Gauge;
        let encoder = self.encoder.encode_descriptor(name, help, None, kind)?;
        ConstGauge::new(value as i64).encode(encoder)
    }
}

impl Collector for Collected {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let core = &self.0;
        let mut to = Family {
            encoder: &mut encoder,
        };
        let up = since_boot_ms().saturating_sub(core.started) / 1000;
        to.gauge("mgmtd_uptime_seconds", "Since mgmtd was started", up)?;
        let observe = u64::from(core.governor.observe());
        to.gauge("mgmtd_observe_only", "1: nothing is actuated", observe)?;
        let version = core.state.active().ok().flatten().unwrap_or(0);
        to.gauge("mgmtd_policy_version", "The policy that holds", version)?;
        let leases = core.governor.leases().len() as u64;
        to.gauge("mgmtd_leases", "Leases on actuators", leases)?;
        let (records, bytes) = core.state.audit_size().unwrap_or_default();
        to.gauge("mgmtd_audit_records", "Records of the audit log", records)?;
        to.gauge("mgmtd_audit_bytes", "Bytes of the audit log", bytes)?;
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let of = &core.governor.counters;
        let actuations = [
            ("done", &of.done),
            ("observed", &of.observed),
            ("withheld", &of.withheld),
            ("failed", &of.failed),
            ("returned", &of.returned),
        ];
        let actuations = actuations.map(|(name, n)| ([("outcome", name)], load(n)));
        let help = "Actuations, by what came of them";
        to.write(MetricType::Counter, "mgmtd_actuations", help, actuations)?;
        let requests = [
            ("done", &core.metrics.done),
            ("refused", &core.metrics.refused),
        ];
        let requests = requests.map(|(name, n)| ([("outcome", name)], load(n)));
        let help = "Requests to the control interface";
        to.write(MetricType::Counter, "mgmtd_requests", help, requests)?;
        // Without the module there is nothing more to tell.
        let Ok(channel) = Channel::open() else {
            return to.gauge("mgmt_module", "1: mgmt.ko is loaded", 0);
        };
        to.gauge("mgmt_module", "1: mgmt.ko is loaded", 1)?;
        bridge(&mut to, &channel)
    }
}

/// A counter of a link.
type Of = fn(&mgmt_channel::Link) -> u64;

/// What the bridge counts.
fn bridge(to: &mut Family<'_, '_>, channel: &Channel) -> fmt::Result {
    let links = channel.links().unwrap_or_default();
    let domain = |guest: Option<u32>| guest.map_or("uplink".into(), |id| id.to_string());
    let of = |value: Of| {
        let link = move |link: &mgmt_channel::Link| ([("domain", domain(link.guest))], value(link));
        links.iter().map(link).collect::<Vec<_>>()
    };
    let connected = of(|link| u64::from(link.state == LinkState::Connected));
    to.write(
        MetricType::Gauge,
        "mgmt_link_connected",
        "1: the link is connected",
        connected,
    )?;
    let queued = of(|link| u64::from(link.queued_messages));
    to.write(
        MetricType::Gauge,
        "mgmt_link_queued",
        "Messages that wait for the guest",
        queued,
    )?;
    let counters: [(&str, &str, Of); 6] = [
        ("mgmt_link_rx_messages", "Messages of the guest", |l| {
            l.rx_messages
        }),
        ("mgmt_link_rx_bytes", "Their bytes", |l| l.rx_bytes),
        ("mgmt_link_tx_messages", "Messages to the guest", |l| {
            l.tx_messages
        }),
        ("mgmt_link_tx_bytes", "Their bytes", |l| l.tx_bytes),
        ("mgmt_link_undeliverable", "Messages that came back", |l| {
            l.undeliverable
        }),
        (
            "mgmt_link_stalls",
            "Times that a receiver had no room for what came by it",
            |l| l.stalls,
        ),
    ];
    for (name, help, value) in counters {
        to.write(MetricType::Counter, name, help, of(value))?;
    }
    let accounts = channel.accounts().unwrap_or_default();
    let owner = |owner| match owner {
        mgmt_channel::Owner::User(uid) => format!("uid:{uid}"),
        mgmt_channel::Owner::Guest(id) => format!("vm:{id}"),
        mgmt_channel::Owner::Uplink => "uplink".into(),
        mgmt_channel::Owner::Fabric => "fabric".into(),
    };
    let refusals = accounts
        .iter()
        .map(|a| ([("account", owner(a.owner))], a.refusals));
    let help = "What an account had no room for";
    to.write(MetricType::Counter, "mgmt_account_refusals", help, refusals)?;
    let held = accounts
        .iter()
        .map(|a| ([("account", owner(a.owner))], u64::from(a.used.bytes)));
    let help = "Bytes on their way to an account's receivers";
    to.write(MetricType::Gauge, "mgmt_account_bytes", help, held)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_listens_beyond_this_host() {
        assert!(matches!("127.0.0.1:9643".parse(), Ok(Listen::Tcp(_))));
        assert!(matches!("[::1]:9643".parse(), Ok(Listen::Tcp(_))));
        assert_eq!(
            "unix:/run/m".parse::<Listen>().unwrap(),
            Listen::Unix("/run/m".into())
        );
        for wrong in ["0.0.0.0:9643", "192.0.2.1:1", "localhost", ""] {
            assert!(wrong.parse::<Listen>().is_err(), "{wrong}");
        }
    }
}
