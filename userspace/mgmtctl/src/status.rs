// SPDX-License-Identifier: MIT OR Apache-2.0

//! What there is to see of this domain's bridge and its links.

use crate::{daemon, guests, table};
use anyhow::{Context, Result};
use mgmt_channel::{Channel, Info, Link, show_component};
use mgmt_xenstore::device::{self, Status, state_name};
use mgmt_xenstore::{Error, Xenstore};
use std::collections::BTreeMap;
use std::net::IpAddr;

pub fn set_mvm(path: &str, ip: IpAddr) -> Result<()> {
    Ok(Channel::open_at(path)?.set_mvm(ip)?)
}

/// One line of the table.
#[derive(Default)]
struct Row {
    name: String,
    nodes: Option<Status>,
    link: Option<Link>,
}

pub fn show(path: &str) -> Result<()> {
    // Each half is worth showing where the other is missing.
    let module = module(path);
    let nodes = nodes();
    let mut rows: BTreeMap<Option<u32>, Row> = BTreeMap::new();
    match &module {
        Ok((info, links)) => {
            print_info(info);
            match daemon::status(path) {
                Ok(Some(status)) => print!("{}", daemon::describe(&status)),
                Ok(None) if info.mvm => println!("daemon      mgmtd does not run"),
                Ok(None) => {}
                Err(error) => println!("daemon      {error:#}"),
            }
            for link in links {
                rows.entry(link.guest).or_default().link = Some(link.clone());
            }
        }
        Err(error) => println!("module      {error:#}"),
    }
    match &nodes {
        Ok(nodes) => {
            for (status, name) in nodes {
                let row = rows.entry(Some(status.device.guest)).or_default();
                row.name.clone_from(name);
                row.nodes = Some(*status);
            }
        }
        Err(error) => println!("xenstore    {error:#}"),
    }
    if !rows.is_empty() {
        println!();
        print_table(&rows);
    }
    match (module, nodes) {
        (Err(e), Err(_)) => Err(e.context("neither the module nor xenstore can be reached")),
        _ => Ok(()),
    }
}

fn module(path: &str) -> Result<(Info, Vec<Link>)> {
    let channel = Channel::open_at(path)?;
    let links = channel.links().context("links")?;
    Ok((channel.info()?, links))
}

/// The guests of this management VM, each with its name.
fn nodes() -> Result<Vec<(Status, String)>> {
    let store = &mut Xenstore::connect()?;
    let backend = guests::backend(store, None)?;
    let devices = match device::attached(store, backend) {
        // A guest sees nothing of other domains.
        Err(Error::Refused { code, .. }) if code == "EACCES" => Vec::new(),
        devices => devices?,
    };
    let mut nodes = Vec::new();
    for device in devices {
        let name = store.read_if_any(&format!("/local/domain/{}/name", device.guest))?;
        nodes.push((
            device::status(store, device)?,
            name.unwrap_or_else(|| "(gone)".into()),
        ));
    }
    Ok(nodes)
}

fn print_info(info: &Info) {
    let yes = |on, text| if on { text } else { "no" };
    let component = info.component.as_ref();
    println!(
        "component   {}",
        component.map_or("unknown".into(), show_component)
    );
    println!("management  {}", yes(info.mvm, "yes"));
    println!("uplink      {}", yes(info.uplink, "connected"));
    println!("guests      {} connected", info.links);
    println!("endpoints   {}", info.endpoints);
    println!("messages    up to {} bytes", info.max_payload);
}

fn print_table(rows: &BTreeMap<Option<u32>, Row>) {
    let head = [
        "DOMAIN", "NAME", "FRONTEND", "BACKEND", "LINK", "EPOCH", "RX", "RX-BYTES", "TX",
        "TX-BYTES", "RETURNED", "STALLS", "QUEUED",
    ];
    let mut table = vec![head.map(str::to_owned).to_vec()];
    for (guest, row) in rows {
        let node = |state: fn(&Status) -> Option<u32>| {
            state_name(row.nodes.as_ref().and_then(state)).to_owned()
        };
        let mut line = vec![
            guest.map_or("uplink".into(), |id| id.to_string()),
            // A name is the toolstack's, but may be long.
            row.name.chars().take(24).collect(),
            node(|s| s.frontend),
            node(|s| s.backend),
        ];
        match &row.link {
            None => line.extend(std::iter::repeat_n("-".to_owned(), 9)),
            Some(link) => {
                line.push(link.state.to_string());
                line.push(link.epoch.to_string());
                let counters = [
                    link.rx_messages,
                    link.rx_bytes,
                    link.tx_messages,
                    link.tx_bytes,
                    link.undeliverable,
                    link.stalls,
                ];
                line.extend(counters.map(|n| n.to_string()));
                line.push(format!("{}/{}B", link.queued_messages, link.queued_bytes));
            }
        }
        table.push(line);
    }
    table::print(&table);
}
