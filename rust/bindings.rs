// SPDX-License-Identifier: GPL-2.0

//! Bindings to what the `kernel` crate does not bind yet: xenbus, grants, event channels, and our
//! own `helpers.c`.
//!
//! Made by bindgen during the build; types that `kernel::bindings` has are taken from there.

#![allow(
    clippy::all,
    clippy::cast_lossless,
    clippy::ptr_as_ptr,
    clippy::ref_as_ptr,
    clippy::undocumented_unsafe_blocks,
    dead_code,
    improper_ctypes,
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unreachable_pub,
    unsafe_op_in_unsafe_fn,
    unused_imports
)]

use kernel::ffi;
use pin_init::MaybeZeroable;

pub use kernel::bindings::*;

include!(concat!(env!("MGMT_OBJTREE"), "/rust/bindings_generated.rs"));

// SAFETY: The structure has no padding and no interior mutability.
unsafe impl kernel::transmute::AsBytes for mgmt_info {}
// SAFETY: As above.
unsafe impl kernel::transmute::AsBytes for mgmt_link {}
// SAFETY: As above.
unsafe impl kernel::transmute::AsBytes for mgmt_policy_load {}
// SAFETY: As above.
unsafe impl kernel::transmute::AsBytes for mgmt_policy_read {}
// SAFETY: As above.
unsafe impl kernel::transmute::AsBytes for mgmt_rule {}
// SAFETY: As above.
unsafe impl kernel::transmute::AsBytes for mgmt_account {}
// SAFETY: As above.
unsafe impl kernel::transmute::AsBytes for mgmt_fabric {}
// SAFETY: As above.
unsafe impl kernel::transmute::AsBytes for mgmt_exchange {}
// SAFETY: As above.
unsafe impl kernel::transmute::AsBytes for mgmt_hardware {}
// SAFETY: Its fields are integers: any bytes are valid.
unsafe impl kernel::transmute::FromBytes for mgmt_policy_load {}
// SAFETY: As above.
unsafe impl kernel::transmute::FromBytes for mgmt_policy_read {}
// SAFETY: As above.
unsafe impl kernel::transmute::FromBytes for mgmt_rule {}
// SAFETY: As above.
unsafe impl kernel::transmute::FromBytes for mgmt_fabric {}
// SAFETY: As above.
unsafe impl kernel::transmute::FromBytes for mgmt_fabric_settle {}
// SAFETY: As above.
unsafe impl kernel::transmute::FromBytes for mgmt_fabric_moved {}
// SAFETY: As above.
unsafe impl kernel::transmute::FromBytes for mgmt_fabric_here {}
// SAFETY: As above.
unsafe impl kernel::transmute::FromBytes for mgmt_fabric_platform {}
// SAFETY: As above.
unsafe impl kernel::transmute::FromBytes for mgmt_exchange {}
// SAFETY: As above.
unsafe impl kernel::transmute::FromBytes for mgmt_hardware {}
// SAFETY: As above.
unsafe impl kernel::transmute::FromBytes for mgmt_fabric_hardware {}
