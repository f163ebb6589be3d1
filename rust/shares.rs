// SPDX-License-Identifier: GPL-2.0

//! What each sender holds, in a tree.

use crate::pure::quota::{Amount, NoMemory, Shares};
use kernel::{
    prelude::*,
    rbtree::{RBTree, RBTreeNodeReservation}, //
};

/// The shares of senders that are told apart by an `S`.
pub(crate) struct Tree<S> {
    shares: RBTree<S, Amount>,
    /// Memory for the next share: a queue that is often empty has a new one with each message.
    spare: Option<RBTreeNodeReservation<S, Amount>>,
}

impl<S: Ord> Tree<S> {
    pub(crate) fn new() -> Self {
        Self {
            shares: RBTree::new(),
            spare: None,
        }
    }
}

impl<S: Ord + Copy> Shares<S> for Tree<S> {
    fn get(&self, sender: S) -> Option<Amount> {
        self.shares.get(&sender).copied()
    }

    fn get_mut(&mut self, sender: S) -> Option<&mut Amount> {
        self.shares.get_mut(&sender)
    }

    fn insert(&mut self, sender: S, share: Amount) -> Result<(), NoMemory> {
        let memory = match self.spare.take() {
            Some(spare) => spare,
            None => RBTreeNodeReservation::new(GFP_ATOMIC).map_err(|_| NoMemory)?,
        };
        self.shares.insert(memory.into_node(sender, share));
        Ok(())
    }

    fn remove(&mut self, sender: S) {
        let node = self.shares.remove_node(&sender);
        self.spare = node.map(|node| node.into_reservation());
    }
}
