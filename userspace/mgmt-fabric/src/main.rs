// SPDX-License-Identifier: MIT OR Apache-2.0

//! `mgmt-fabric`: carries M-channels between this host and others.

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Parser, Subcommand};
use mgmt_channel::{Channel, Component, DEVICE};
use mgmt_fabric::bridge::Device;
use mgmt_fabric::node::{Node, Options, PORT};
use mgmt_fabric::tls::Tls;
use mgmt_fabric::{Host, certificates};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;

/// M-channels between the management VMs of different hosts
#[derive(Parser)]
#[command(version)]
struct Command {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// The authority that says which hosts belong to the fabric
    #[command(subcommand)]
    Ca(Ca),
    /// The certificates of hosts
    #[command(subcommand)]
    Cert(Cert),
    /// Carry messages until SIGTERM; at SIGHUP read the certificates anew, and which are revoked
    Run(Run),
}

#[derive(Subcommand)]
enum Ca {
    /// Make an authority: ca.pem and ca.key
    Init {
        /// Where
        #[arg(long, default_value = ".")]
        dir: PathBuf,
        /// What it is called
        #[arg(long, default_value = "M-channel fabric")]
        name: String,
    },
}

#[derive(Subcommand)]
enum Cert {
    /// Make a key and a certificate for a host: host.key, host.pem and ca.pem
    Issue {
        /// The address (MVM_IP) of the host's management VM
        host: IpAddr,
        /// Where the authority is
        #[arg(long, default_value = ".")]
        ca: PathBuf,
        /// Where they go; a directory named after the host if not given
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// Revoke all that were issued for a host so far, in the authority's revoked.pem, which belongs to
    /// where every host has its certificates
    Revoke {
        /// The address (MVM_IP) of the host's management VM
        host: IpAddr,
        /// Where the authority is
        #[arg(long, default_value = ".")]
        ca: PathBuf,
    },
}

#[derive(Args)]
struct Run {
    /// Where host.key, host.pem and ca.pem are
    #[arg(long, default_value = "/etc/mgmt/fabric")]
    certificates: PathBuf,
    /// The address of this management VM; else the one that the bridge has
    #[arg(long)]
    mvm_ip: Option<IpAddr>,
    /// A host of the fabric, and where it listens, if not at that address
    #[arg(long, value_name = "MVM_IP[=ADDRESS[:PORT]]", value_parser = peer)]
    peer: Vec<(Host, SocketAddr)>,
    /// Where to listen
    #[arg(long, default_value_t = SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT)))]
    listen: SocketAddr,
    /// What is kept for the next daemon; must not outlive the kernel
    #[arg(long, default_value = "/run/mgmt-fabric")]
    state: PathBuf,
    /// How many seconds messages wait for a host that is away
    #[arg(long, default_value_t = 30)]
    patience: u64,
    /// What is logged
    #[arg(long, env = "MGMT_FABRIC_LOG", default_value = "info")]
    log: String,
}

fn peer(text: &str) -> Result<(Host, SocketAddr)> {
    let (host, at) = text.split_once('=').unwrap_or((text, text));
    let host: IpAddr = host.parse().context("the address of a management VM")?;
    let at = match (at.parse::<SocketAddr>(), at.parse::<IpAddr>()) {
        (Ok(at), _) => at,
        (_, Ok(ip)) => SocketAddr::new(ip, PORT),
        _ => bail!("{at} is no address"),
    };
    Ok((host.into(), at))
}

fn main() -> ExitCode {
    let done = match Command::parse().verb {
        Verb::Ca(Ca::Init { dir, name }) => certificates::init(&dir, &name),
        Verb::Cert(Cert::Issue { host, ca, out }) => {
            let out = out.unwrap_or_else(|| host.to_string().into());
            certificates::issue(&ca, host, &out)
        }
        Verb::Cert(Cert::Revoke { host, ca }) => certificates::revoke(&ca, host),
        Verb::Run(options) => {
            let filter = tracing_subscriber::EnvFilter::try_new(&options.log)
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
            tracing_subscriber::fmt()
                .with_env_filter(filter)
                .with_writer(std::io::stderr)
                .with_target(false)
                .with_ansi(false)
                .init();
            run(options)
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mgmt-fabric: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: Run) -> Result<()> {
    let tls = Tls::load(&options.certificates)?;
    let channel = Channel::open()?;
    if let Some(ip) = options.mvm_ip {
        ensure!(
            tls.is_for(ip.into()),
            "this host is to be {ip}, and its certificate is not for that"
        );
        channel
            .set_mvm(ip)
            .context("setting the address of this management VM")?;
    }
    let host = match channel.info()?.component {
        Some(Component::Vm { mvm_ip, .. }) if mvm_ip != [0; 16] => Host(mvm_ip),
        _ => bail!("this management VM has no address: --mvm-ip"),
    };
    let certificates = options.certificates;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    LocalSet::new().block_on(&runtime, async {
        let listener = TcpListener::bind(options.listen)
            .await
            .with_context(|| format!("listening on {}", options.listen))?;
        let device = Device::open(Path::new(DEVICE)).context("the link to other platforms")?;
        let options = Options {
            host,
            peers: options.peer,
            patience: Duration::from_secs(options.patience),
            limits: mgmt_fabric::outgoing::Limits::default(),
            state: options.state,
        };
        let node = Node::new(device, options, tls)?;
        let mut terminated = signal(SignalKind::terminate())?;
        tracing::info!(%host, "ready");
        let mut hung_up = signal(SignalKind::hangup())?;
        let reload = async {
            while hung_up.recv().await.is_some() {
                match Tls::load(&certificates).and_then(|tls| node.reload(tls)) {
                    Ok(()) => tracing::info!("certificates read anew"),
                    Err(error) => tracing::error!("certificates not read, the old hold: {error:#}"),
                }
            }
        };
        tokio::select! {
            done = node.run(listener) => done.context("the bridge"),
            () = reload => Ok(()),
            _ = terminated.recv() => Ok(()),
            _ = tokio::signal::ctrl_c() => Ok(()),
        }
    })
}
