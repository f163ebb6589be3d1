// SPDX-License-Identifier: GPL-2.0

//! Where the module has its red-black trees, the host has B-trees.

use crate::pure::{
    directory::Map,
    quota::{Amount, NoMemory, Shares},
};
use alloc::collections::BTreeMap;

impl<K: Copy + Ord, V: Clone> Map<K, V> for BTreeMap<K, V> {
    type Entry = (K, V);

    fn get(&self, key: &K) -> Option<&V> {
        self.get(key)
    }

    fn lower_bound(&self, key: &K) -> Option<(K, V)> {
        let (key, value) = self.range(key..).next()?;
        Some((*key, value.clone()))
    }

    fn insert(&mut self, (key, value): Self::Entry) -> Option<Self::Entry> {
        let old = self.remove_entry(&key);
        self.insert(key, value);
        old
    }

    fn remove(&mut self, key: &K) -> Option<Self::Entry> {
        self.remove_entry(key)
    }
}

impl<S: Copy + Ord> Shares<S> for BTreeMap<S, Amount> {
    fn get(&self, sender: S) -> Option<Amount> {
        self.get(&sender).copied()
    }

    fn get_mut(&mut self, sender: S) -> Option<&mut Amount> {
        self.get_mut(&sender)
    }

    fn insert(&mut self, sender: S, share: Amount) -> Result<(), NoMemory> {
        self.insert(sender, share);
        Ok(())
    }

    fn remove(&mut self, sender: S) {
        self.remove(&sender);
    }
}
