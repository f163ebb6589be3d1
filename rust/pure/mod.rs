// SPDX-License-Identifier: GPL-2.0

//! What can be wrong without a kernel: ring arithmetic, routing, shares.
//!
//! Nothing here allocates, blocks, or knows of Xen. Compiled into the module and into host tests.

pub mod quota;
pub mod ring;
pub mod route;
