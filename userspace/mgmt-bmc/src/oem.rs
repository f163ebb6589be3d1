// SPDX-License-Identifier: MIT OR Apache-2.0

//! Commands of our own: what the CPUs do comes in, what the model thinks comes out.
//!
//! The domain that runs the emulated CPUs' scheduler tells how fast they may be and how busy they
//! are: there is nobody else who could.

use crate::app::MAKER;
use crate::message::{Code, Outcome, Request};
use crate::power::Power;

/// Answers a request of the network function of makers. The maker comes first, both ways.
pub fn handle(power: &mut Power, request: &Request<'_>) -> Outcome {
    let data = request.data.strip_prefix(&MAKER);
    let data = data.ok_or(Code::INVALID_COMMAND)?;
    let answer = match request.command {
        0x01 => set_cpus(power, data)?,
        0x02 if data.is_empty() => model(power),
        0x02 => return Err(Code::LENGTH_INVALID),
        _ => return Err(Code::INVALID_COMMAND),
    };
    Ok([&MAKER[..], &answer].concat())
}

/// Set CPUs: the number of the first, then for each its performance and its utilization, percent.
fn set_cpus(power: &mut Power, data: &[u8]) -> Outcome {
    let (&first, cpus) = data.split_first().ok_or(Code::LENGTH_INVALID)?;
    if cpus.is_empty() || cpus.len() % 2 != 0 {
        return Err(Code::LENGTH_INVALID);
    }
    // All or none.
    let mut model = power.model.clone();
    for (cpu, values) in (usize::from(first)..).zip(cpus.chunks_exact(2)) {
        let performance = model.set_performance(cpu, values[0]);
        let both = performance.and_then(|()| model.set_utilization(cpu, values[1].into()));
        both.map_err(|_| Code::OUT_OF_RANGE)?;
    }
    power.model = model;
    Ok(Vec::new())
}

/// Get Model: where it is and where it goes, mW; states that it is slowed by, CPUs, states.
fn model(power: &Power) -> Vec<u8> {
    let model = &power.model;
    let mut out = Vec::new();
    for watts in [model.level(), model.target()] {
        out.extend(((watts * 1000.0) as u32).to_le_bytes());
    }
    let parameters = model.parameters();
    out.push(model.throttle() as u8);
    out.push(parameters.cpus as u8);
    out.push(parameters.states.len() as u8);
    out
}
