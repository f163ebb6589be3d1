// SPDX-License-Identifier: GPL-2.0

//! What holds where no rule does, and what no rule can change.

use super::{
    party::{Party, Place},
    Verdict, //
};

/// The built-in table: the first that applies decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuiltIn {
    /// What is said to come back to somebody that may have sent nothing there: denied. No rule is asked
    /// about it, but about what may have been sent.
    Undeliverable,
    /// Within one domain all passes. No rule is asked.
    SameDomain,
    /// From this platform's management VM to anybody: passes.
    FromMvm,
    /// From a guest or the hardware of this platform to its management VM: passes.
    ToMvm,
    /// Between guests of this platform: denied.
    GuestToGuest,
    /// From a guest to this platform's hardware: denied.
    GuestToHardware,
    /// Everything else, so from and to other platforms: denied.
    Elsewhere,
}

impl BuiltIn {
    /// All of them, in their order.
    pub const TABLE: [Self; 7] = [
        Self::Undeliverable,
        Self::SameDomain,
        Self::FromMvm,
        Self::ToMvm,
        Self::GuestToGuest,
        Self::GuestToHardware,
        Self::Elsewhere,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Undeliverable => "undeliverable",
            Self::SameDomain => "same-domain",
            Self::FromMvm => "from-mvm",
            Self::ToMvm => "to-mvm",
            Self::GuestToGuest => "guest-to-guest",
            Self::GuestToHardware => "guest-to-hardware",
            Self::Elsewhere => "elsewhere",
        }
    }

    /// What it says.
    pub fn verdict(self) -> Verdict {
        match self {
            Self::SameDomain | Self::FromMvm | Self::ToMvm => Verdict::Allow,
            Self::Undeliverable | Self::GuestToGuest | Self::GuestToHardware | Self::Elsewhere => {
                Verdict::Deny
            }
        }
    }

    /// The one that decides before any rule is asked.
    pub(super) fn before_rules(source: &Party, destination: &Party) -> Option<Self> {
        source
            .is_same_domain(destination)
            .then_some(Self::SameDomain)
    }

    /// The one that decides where no rule does.
    pub(super) fn after_rules(source: &Party, destination: &Party) -> Self {
        match (source.place(), destination.place()) {
            (Place::Mvm, _) => Self::FromMvm,
            (Place::Guest | Place::Hardware, Place::Mvm) => Self::ToMvm,
            (Place::Guest, Place::Guest) => Self::GuestToGuest,
            (Place::Guest, Place::Hardware) => Self::GuestToHardware,
            _ => Self::Elsewhere,
        }
    }
}
