// SPDX-License-Identifier: MIT OR Apache-2.0

//! Looks at M-channels, attaches guests, sends and listens, checks rules, talks to mgmtd.

mod accounts;
mod daemon;
mod generate;
mod guests;
mod ipmi;
mod look;
mod messages;
mod policy;
mod smart;
mod status;
mod table;

use clap::{CommandFactory as _, Parser, Subcommand};
use mgmt_channel::{ComponentName, Destination};
use std::process::ExitCode;

/// Manage M-channels.
///
/// A component is written self, mvm, vm:ID (on this platform), vm:IP/ID, uuid:UUID or hw:SERIAL, and all of
/// them platform or everywhere; an address APP@COMPONENT. A domain is written as its number or its name.
///
/// Exit status: 0 done, 1 failed (the cause is on standard error), 2 usage.
#[derive(Parser)]
#[command(name = "mgmtctl", version)]
struct Cli {
    /// The device.
    #[arg(long, global = true, default_value = mgmt_channel::DEVICE)]
    device: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make the xenstore nodes that give a guest its M-channel.
    Attach {
        /// The guests.
        #[arg(required = true, value_name = "DOMAIN")]
        domains: Vec<String>,
        /// Succeed if it is attached already.
        #[arg(long)]
        if_needed: bool,
        /// The management VM, if it is not this domain.
        #[arg(long, value_name = "ID")]
        backend: Option<u32>,
    },
    /// Close a guest's M-channel and remove its xenstore nodes.
    Detach {
        /// The guests.
        #[arg(required = true, value_name = "DOMAIN")]
        domains: Vec<String>,
        /// Succeed if it is not attached.
        #[arg(long)]
        if_needed: bool,
        /// Wait so many seconds for the drivers to close before removing the nodes.
        #[arg(long, default_value_t = 5, value_name = "SECONDS")]
        timeout: u64,
        /// The management VM, if it is not this domain.
        #[arg(long, value_name = "ID")]
        backend: Option<u32>,
    },
    /// Show this domain, its links and their counters, and the xenstore states.
    Status,
    /// Show who has bound which App_ID in this domain, and what waits there.
    Endpoints,
    /// Show this domain's links and their counters.
    Links,
    /// Show links, brokers and what they want, again and again.
    Watch(look::WatchOptions),
    /// Print what becomes of each message, by the tracepoints of this domain's bridge.
    Trace(look::TraceOptions),
    /// Show whose messages and requests this domain holds, how many it may, and what it refused.
    Accounts,
    /// Say what address (MVM_IP) this management VM has.
    SetMvm {
        /// Its address.
        ip: std::net::IpAddr,
    },
    /// Send one message of kind data.
    Send {
        /// Where to, as APP@COMPONENT.
        to: Destination,
        /// Its content.
        text: String,
        /// The App_ID to send as.
        #[arg(long = "as", value_name = "APP")]
        app: Option<String>,
        /// Wait so many milliseconds for an answer, or for the message to come back.
        #[arg(long, default_value_t = 200, value_name = "MS")]
        wait: u64,
        #[command(flatten)]
        options: messages::Options,
    },
    /// List who serves an App_ID.
    Discover {
        /// The App_ID.
        app: String,
        /// Where: a domain, all of the platform, or everywhere: on all hosts of the fabric.
        #[arg(long = "in", default_value = "platform", value_name = "COMPONENT")]
        component: ComponentName,
        /// Collect answers for so many milliseconds.
        #[arg(long, default_value_t = 500, value_name = "MS")]
        wait: u64,
    },
    /// Print the messages that an App_ID gets; answer pings.
    Listen {
        /// The App_ID to serve.
        app: String,
        /// Stop after so many messages.
        #[arg(long)]
        count: Option<u64>,
    },
    /// Ask an application whether it is there, and how long the answer takes.
    Ping {
        /// Whom, as APP@COMPONENT.
        to: Destination,
        /// How often.
        #[arg(long, short, default_value_t = 3)]
        count: u32,
        /// Milliseconds between two.
        #[arg(long, default_value_t = 1000, value_name = "MS")]
        interval: u64,
        /// The App_ID to send as.
        #[arg(long = "as", value_name = "APP")]
        app: Option<String>,
    },
    /// Ask the platform's BMC, through the hardware M-channel.
    Ipmi(ipmi::Options),
    /// Show the health of the platform's disks, through the M-channels of mgmt-smart.
    Smart(smart::Options),
    /// Check the rules of who may talk to whom, try them, load them.
    #[command(subcommand)]
    Policy(policy::Command),
    /// Read and set what an administrator wants of brokers.
    #[command(subcommand)]
    Goal(daemon::GoalCommand),
    /// Say what brokers would set now, and why; and what came of what they wanted.
    Plan,
    /// Have mgmtd set nothing at all, whatever brokers want; or say whether it does.
    Observe {
        /// on or off; without it, say which.
        to: Option<daemon::Switch>,
    },
    /// See who holds actuators; set one by hand.
    #[command(subcommand)]
    Actuator(daemon::ActuatorCommand),
    /// Print who changed what, and what each broker did, and why.
    Audit(daemon::AuditOptions),
    /// Write shell completions or manual pages.
    #[command(hide = true, subcommand)]
    Generate(generate::Command),
}

fn main() -> ExitCode {
    // As for any command, `mgmtctl status | head` ends quietly.
    // SAFETY: No other thread runs yet, and the default action needs no handler.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    let cli = Cli::parse();
    let done = match &cli.command {
        Command::Attach {
            domains,
            if_needed,
            backend,
        } => guests::attach(domains, *if_needed, *backend),
        Command::Detach {
            domains,
            if_needed,
            timeout,
            backend,
        } => guests::detach(domains, *if_needed, *timeout, *backend),
        Command::Status => status::show(&cli.device),
        Command::Accounts => accounts::show(&cli.device),
        Command::SetMvm { ip } => status::set_mvm(&cli.device, *ip),
        Command::Send {
            to,
            text,
            app,
            wait,
            options,
        } => messages::send(&cli.device, to, text, app.as_deref(), *wait, options),
        Command::Discover {
            app,
            component,
            wait,
        } => messages::discover(&cli.device, app, *component, *wait),
        Command::Listen { app, count } => messages::listen(&cli.device, app, *count),
        Command::Ping {
            to,
            count,
            interval,
            app,
        } => messages::ping(&cli.device, to, *count, *interval, app.as_deref()),
        Command::Ipmi(options) => ipmi::run(&cli.device, options),
        Command::Smart(options) => smart::run(&cli.device, options),
        Command::Policy(command) => policy::run(&cli.device, command),
        Command::Endpoints => look::endpoints(),
        Command::Links => look::links(&cli.device),
        Command::Watch(options) => look::watch(&cli.device, options),
        Command::Trace(options) => look::trace(options),
        Command::Goal(command) => daemon::goal(&cli.device, command),
        Command::Plan => daemon::plan(&cli.device),
        Command::Observe { to } => daemon::observe(&cli.device, *to),
        Command::Actuator(command) => daemon::actuator(&cli.device, command),
        Command::Audit(options) => daemon::audit(&cli.device, options),
        Command::Generate(command) => generate::run(command, Cli::command()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mgmtctl: {error:#}");
            ExitCode::FAILURE
        }
    }
}
