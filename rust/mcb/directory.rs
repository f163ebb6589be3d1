// SPDX-License-Identifier: GPL-2.0

//! The bridge's directory: that of `pure`, in the kernel's trees.

use super::{Endpoint, Fabric, Refused};
use crate::{
    link::Link,
    pure::{
        directory::{self, Map, NoReceiver},
        uuid::Uuid, //
    }, //
};
use kernel::{
    rbtree::{RBTree, RBTreeNode},
    sync::Arc, //
};

/// What the directory is made of.
pub(super) struct Parts;

pub(super) type Directory = directory::Directory<Parts>;

impl directory::Parts for Parts {
    type Endpoint = Arc<Endpoint>;
    type Link = Arc<Link>;
    type Fabric = Arc<Fabric>;
    type Map<K: Copy + Ord, V: Clone> = RBTree<K, V>;

    fn stable_name(link: &Arc<Link>) -> Option<Uuid> {
        link.uuid
    }

    fn is_arriving(link: &Arc<Link>) -> bool {
        link.is_arriving()
    }
}

impl<K: Copy + Ord, V: Clone> Map<K, V> for RBTree<K, V> {
    type Entry = RBTreeNode<K, V>;

    fn get(&self, key: &K) -> Option<&V> {
        self.get(key)
    }

    fn lower_bound(&self, key: &K) -> Option<(K, V)> {
        let cursor = self.cursor_lower_bound(key)?;
        let (key, value) = cursor.current();
        Some((*key, value.clone()))
    }

    fn insert(&mut self, entry: Self::Entry) -> Option<Self::Entry> {
        self.insert(entry)
    }

    fn remove(&mut self, key: &K) -> Option<Self::Entry> {
        self.remove_node(key)
    }
}

impl From<NoReceiver> for Refused {
    fn from(why: NoReceiver) -> Self {
        match why {
            NoReceiver::Unreachable(reason) => Self::Unreachable(reason),
            NoReceiver::NotConnected => Self::NotConnected,
        }
    }
}
