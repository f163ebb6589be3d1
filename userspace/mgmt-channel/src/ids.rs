// SPDX-License-Identifier: MIT OR Apache-2.0

//! Correlation ids.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};

/// Ids that nobody can guess who has not seen them, and others of the same: a reply that has one is
/// the answer.
#[derive(Debug, Default)]
pub(crate) struct Ids {
    keys: RandomState,
    last: AtomicU64,
}

impl Ids {
    pub(crate) fn next(&self) -> u64 {
        let last = self.last.fetch_add(1, Ordering::Relaxed);
        // 0 stands for none.
        self.keys.hash_one(last).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_reply_can_be_guessed() {
        let (some, others) = (Ids::default(), Ids::default());
        let ids: HashSet<_> = (0..1000)
            .flat_map(|_| [some.next(), others.next()])
            .collect();
        assert_eq!(ids.len(), 2000);
        // Not counted, and not near each other.
        let near = |id: &u64| (1..1000).any(|by| ids.contains(&id.wrapping_add(by)));
        assert!(!ids.iter().any(near));
    }
}
