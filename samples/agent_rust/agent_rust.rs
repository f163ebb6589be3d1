// SPDX-License-Identifier: GPL-2.0

//! An agent in the kernel, in Rust: serves an App_ID, answers whoever asks, and asks a broker itself
//! when it is loaded.
//!
//! ```sh
//! insmod agent_rust.ko            # serves AgentRust
//! insmod agent_rust.ko vm=0       # and asks Hello in the domain 0 of this platform
//! ```

use kernel::{
    prelude::*,
    str::CStr, //
};

#[path = "../../rust/agent/mod.rs"]
mod agent;

use agent::wire::{Address, AppId, Component, Flags, Header, Kind};

const APP: &CStr = c"AgentRust";
const BROKER: &str = "Hello";
const GREETING: &[u8] = b"hello from the kernel, in Rust";
const DEADLINE_MS: u32 = 10_000;
/// The class of usual messages.
const PRIORITY: u8 = 64;

module! {
    type: AgentRust,
    name: "agent_rust",
    authors: ["The mgmt developers"],
    description: "Sample agent for M-channels",
    license: "GPL",
    params: {
        vm: i32 {
            default: -1,
            description: "Domain of the broker to ask; none by default",
        },
    },
}

/// Answers whoever asks.
struct Hello;

impl agent::Receive for Hello {
    fn receive(&self, port: &agent::Port, message: agent::Message) {
        let asks = |header: Header| header.flags.contains(Flags::REQUEST);
        if !message.header().is_ok_and(asks) {
            return;
        }
        if let Err(e) = port.reply(&message, GREETING, GFP_ATOMIC) {
            pr_info!("no reply: {e:?}\n");
        }
    }
}

/// The module, while it is loaded.
struct AgentRust {
    _endpoint: agent::Endpoint<Hello>,
}

impl kernel::Module for AgentRust {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let name = agent::Name::Domain;
        let endpoint = agent::Endpoint::called(name, APP, agent::Bind::Alone, Hello)?;
        if let Ok(vm_id) = u32::try_from(module_parameters::vm.value()) {
            match ask(&endpoint, vm_id) {
                Ok(()) => {}
                Err(e) => pr_info!("{BROKER} did not answer: {e:?}\n"),
            }
        }
        Ok(Self {
            _endpoint: endpoint,
        })
    }
}

fn ask(port: &agent::Port, vm_id: u32) -> Result {
    let app = AppId::new(BROKER.as_bytes()).map_err(|_| EINVAL)?;
    // Without the address of a management VM, on this platform.
    let mvm_ip = [0; 16];
    let broker = Address::new(Component::Vm { mvm_ip, vm_id }, app);
    let header = Header {
        deadline_ms: DEADLINE_MS,
        priority: PRIORITY,
        ..Header::new(Kind::Data, broker, 0)
    };
    let reply = port.request(&header, b"who are you?")?;
    let mut text = [0; 64];
    let length = reply.read(0, &mut text);
    let text = text.get(..length).unwrap_or_default();
    pr_info!(
        "{BROKER} answered: {}\n",
        kernel::str::BStr::from_bytes(text)
    );
    Ok(())
}
