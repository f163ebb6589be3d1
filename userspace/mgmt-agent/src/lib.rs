// SPDX-License-Identifier: MIT OR Apache-2.0

//! The agent in a guest (paper §3.3, §5.1.1): it watches a server's response times and the VM's
//! processor, and tells the power broker once per epoch. It decides nothing.

mod cpu;
mod samples;
mod session;

pub use cpu::Utilization;
pub use samples::{Samples, Summary};
pub use session::{Config, EPOCH, run};
