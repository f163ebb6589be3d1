// SPDX-License-Identifier: GPL-2.0

//! Where the module has its red-black trees, the host has B-trees.

use crate::pure::directory::Map;
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
