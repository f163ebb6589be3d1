// SPDX-License-Identifier: GPL-2.0

//! What can be wrong without a kernel: ring, large messages, lineages, routing, names, directory,
//! accounts, patience, pace, policy, flows, the link to other platforms.
//!
//! Nothing here allocates, blocks, or knows of Xen. Compiled into the module and into host tests.

pub mod account;
pub mod directory;
pub mod fabric;
pub mod flow;
pub mod large;
pub mod lineage;
pub mod pace;
pub mod patience;
// mgmtctl uses the rest.
#[allow(dead_code, unused_imports)]
pub mod policy;
pub mod quota;
pub mod ring;
pub mod route;
pub mod uuid;
