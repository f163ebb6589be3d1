// SPDX-License-Identifier: MIT OR Apache-2.0

//! A xenstored for tests: a tree, permissions, watches, and transactions that may be disturbed.

use crate::Xenstore;
use crate::wire::{Op, Packet, strings};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

type Tree = BTreeMap<String, (String, Vec<String>)>;

#[derive(Default)]
struct State {
    tree: Tree,
    domains: BTreeSet<u32>,
    transactions: BTreeMap<u32, Tree>,
    next_transaction: u32,
    /// So many commits to come meet another transaction.
    disturbed: u32,
    watches: Vec<(String, String, UnixStream)>,
}

/// The server; clients are connected to it by threads that end with them.
#[derive(Clone)]
pub(crate) struct Fake(Arc<Mutex<State>>);

impl Fake {
    /// With Dom0 and these domains.
    pub(crate) fn start(domains: &[u32]) -> Self {
        let fake = Self(Arc::default());
        {
            let mut state = fake.0.lock().unwrap();
            for &id in domains.iter().chain(&[0]) {
                state.domains.insert(id);
                let perms = vec!["n0".to_owned(), format!("r{id}")];
                let home = format!("/local/domain/{id}");
                for path in [
                    home.clone(),
                    format!("{home}/device"),
                    format!("{home}/backend"),
                ] {
                    state.tree.insert(path, (String::new(), perms.clone()));
                }
            }
        }
        fake
    }

    pub(crate) fn client(&self) -> Xenstore {
        let (mine, theirs) = UnixStream::pair().unwrap();
        let fake = self.clone();
        std::thread::spawn(move || fake.serve(mine));
        Xenstore::over(theirs.into())
    }

    /// The domain dies, and the toolstack removes its home.
    pub(crate) fn kill(&self, domain: u32) {
        let mut state = self.0.lock().unwrap();
        state.domains.remove(&domain);
        let home = format!("/local/domain/{domain}");
        state.tree.retain(|path, _| !below(path, &home));
    }

    pub(crate) fn disturb(&self, commits: u32) {
        self.0.lock().unwrap().disturbed = commits;
    }

    pub(crate) fn dump(&self) -> Vec<String> {
        self.0.lock().unwrap().tree.keys().cloned().collect()
    }

    fn serve(&self, mut stream: UnixStream) {
        let mut input = Vec::new();
        let mut part = [0; 512];
        while let Ok(n @ 1..) = stream.read(&mut part) {
            input.extend_from_slice(&part[..n]);
            while let Some(request) = Packet::take(&mut input).unwrap() {
                let mut state = self.0.lock().unwrap();
                let (op, payload) = match state.answer(&request, &stream) {
                    Ok(payload) => (request.op, payload),
                    Err(code) => (Op::Error as u32, format!("{code}\0").into_bytes()),
                };
                let answer = Packet {
                    op,
                    payload,
                    ..request
                };
                stream.write_all(&answer.encode()).unwrap();
                state.fire(&request);
            }
        }
    }
}

fn below(path: &str, root: &str) -> bool {
    path == root
        || path
            .strip_prefix(root)
            .is_some_and(|rest| rest.starts_with('/'))
}

impl State {
    fn tree(&mut self, transaction: u32) -> Result<&mut Tree, &'static str> {
        match transaction {
            0 => Ok(&mut self.tree),
            id => self.transactions.get_mut(&id).ok_or("ENOENT"),
        }
    }

    fn answer(&mut self, request: &Packet, stream: &UnixStream) -> Result<Vec<u8>, &'static str> {
        let ok = || Ok(b"OK\0".to_vec());
        let arguments = strings(&request.payload);
        let path = arguments.first().cloned().unwrap_or_default();
        let is = |op| request.is(op);
        if is(Op::TransactionStart) {
            self.next_transaction += 1;
            self.transactions
                .insert(self.next_transaction, self.tree.clone());
            return Ok(format!("{}\0", self.next_transaction).into_bytes());
        }
        if is(Op::TransactionEnd) {
            let tree = self
                .transactions
                .remove(&request.transaction)
                .ok_or("ENOENT")?;
            if path == "T" {
                if self.disturbed > 0 {
                    self.disturbed -= 1;
                    return Err("EAGAIN");
                }
                self.tree = tree;
            }
            return ok();
        }
        if is(Op::IsDomainIntroduced) {
            let id: u32 = path.parse().map_err(|_| "EINVAL")?;
            let answer = if self.domains.contains(&id) { "T" } else { "F" };
            return Ok(format!("{answer}\0").into_bytes());
        }
        if is(Op::Watch) {
            let watch = (path, arguments[1].clone(), stream.try_clone().unwrap());
            self.watches.push(watch);
            return ok();
        }
        if is(Op::Unwatch) {
            self.watches
                .retain(|(p, t, _)| (p, t) != (&path, &arguments[1]));
            return ok();
        }
        let tree = self.tree(request.transaction)?;
        if is(Op::Write) || is(Op::Mkdir) {
            let value = arguments.get(1).cloned().unwrap_or_default();
            make(tree, &path, value);
            return ok();
        }
        if !tree.contains_key(&path) {
            return Err("ENOENT");
        }
        if is(Op::Read) {
            Ok(tree[&path].0.clone().into_bytes())
        } else if is(Op::GetPerms) {
            Ok(tree[&path]
                .1
                .iter()
                .flat_map(|p| format!("{p}\0").into_bytes())
                .collect())
        } else if is(Op::SetPerms) {
            tree.get_mut(&path).unwrap().1 = arguments[1..].to_vec();
            ok()
        } else if is(Op::Rm) {
            tree.retain(|p, _| !below(p, &path));
            ok()
        } else if is(Op::Directory) {
            let children: BTreeSet<&str> = tree
                .keys()
                .filter_map(|p| p.strip_prefix(&path)?.strip_prefix('/')?.split('/').next())
                .collect();
            Ok(children
                .iter()
                .flat_map(|c| format!("{c}\0").into_bytes())
                .collect())
        } else {
            Err("ENOSYS")
        }
    }

    /// Events, coarsely: a watch fires when it is set, and on any change (or end of a transaction).
    fn fire(&mut self, request: &Packet) {
        let arguments = strings(&request.payload);
        let new = request.is(Op::Watch);
        let change = [Op::Write, Op::Rm, Op::TransactionEnd]
            .iter()
            .any(|&op| request.is(op));
        if !(new || change && (request.transaction == 0 || request.is(Op::TransactionEnd))) {
            return;
        }
        for (path, token, stream) in &mut self.watches {
            if new && (&arguments[0], &arguments[1]) != (path, token) {
                continue;
            }
            let event = Packet {
                op: Op::WatchEvent as u32,
                request: 0,
                transaction: 0,
                payload: format!("{path}\0{token}\0").into_bytes(),
            };
            let _ = stream.write_all(&event.encode());
        }
    }
}

/// Makes a node and its parents; new ones inherit permissions.
fn make(tree: &mut Tree, path: &str, value: String) {
    if let Some(node) = tree.get_mut(path) {
        node.0 = value;
        return;
    }
    let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
    if !parent.is_empty() && !tree.contains_key(parent) {
        make(tree, parent, String::new());
    }
    let perms = tree
        .get(parent)
        .map_or_else(Vec::new, |node| node.1.clone());
    tree.insert(path.to_owned(), (value, perms));
}
