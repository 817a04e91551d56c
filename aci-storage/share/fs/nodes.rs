//! The names that the kernel knows: a tree of numbers, because a path changes when a directory
//! above it is renamed.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::smb::ops::Attributes;

/// The share itself, as FUSE numbers it.
pub(crate) const ROOT: u64 = 1;

#[derive(Debug)]
struct Node {
    parent: u64,
    /// As the server has it.
    name: String,
    /// How often the kernel was told of it and has not forgotten.
    lookups: u64,
    /// How many descriptors are open.
    opens: u64,
    /// Its name was taken away while it was open: on the server it has this hidden name.
    hidden: bool,
    /// Length and time of the last write, as the kernel was told them last.
    told: Option<(u64, u64)>,
}

/// The nodes that the kernel knows.
#[derive(Debug)]
pub(crate) struct Nodes {
    nodes: HashMap<u64, Node>,
    names: HashMap<(u64, String), u64>,
    next: u64,
    /// What has changed and is not noted yet.
    changes: Vec<NodeNote>,
}

/// What the next share server has to know of nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum NodeNote {
    /// A number, its parent's and its name; whether it is found by that name, and whether its file
    /// is to be deleted.
    Known(u64, u64, String, bool, bool),
    Removed(u64, String),
    Moved((u64, String), (u64, String)),
    Hidden(u64, String, String),
    Unhidden(u64),
    Gone(u64),
    /// Lower numbers are not given any more.
    Next(u64),
}

/// How often the kernel was told of a node, as far as a server knows that it was not told by: often.
const MANY: u64 = u64::MAX / 2;

/// What of a file's attributes shows that it was written.
fn mark(attributes: &Attributes) -> (u64, u64) {
    (attributes.size, attributes.written.0)
}

/// Of a node that nobody opens or knows any more and whose file is to go: its path.
pub(crate) type Doomed = Option<String>;

impl Nodes {
    pub(crate) fn new() -> Self {
        let root = Node {
            parent: ROOT,
            name: String::new(),
            lookups: 1,
            opens: 0,
            hidden: false,
            told: None,
        };
        Self {
            nodes: HashMap::from([(ROOT, root)]),
            names: HashMap::new(),
            next: ROOT + 1,
            changes: Vec::new(),
        }
    }

    /// The node of a name, which the kernel is told of once more.
    pub(crate) fn find(&mut self, parent: u64, name: &str) -> u64 {
        let key = (parent, name.to_owned());
        if let Some(&id) = self.names.get(&key) {
            if let Some(node) = self.nodes.get_mut(&id) {
                node.lookups += 1;
            }
            return id;
        }
        let id = self.next;
        self.next += 1;
        let node = Node {
            parent,
            name: name.to_owned(),
            lookups: 1,
            opens: 0,
            hidden: false,
            told: None,
        };
        self.nodes.insert(id, node);
        self.names.insert(key, id);
        let known = NodeNote::Known(id, parent, name.to_owned(), true, false);
        self.changes.push(known);
        id
    }

    /// What has changed since this was asked last.
    pub(crate) fn changes(&mut self) -> Vec<NodeNote> {
        std::mem::take(&mut self.changes)
    }

    /// What notes of these nodes say, in as few as can be.
    pub(crate) fn notes(&self) -> Vec<NodeNote> {
        let known = self.nodes.iter().filter(|(id, _)| **id != ROOT);
        let known = known.map(|(id, node)| {
            let key = (node.parent, node.name.clone());
            let named = self.names.get(&key) == Some(id);
            NodeNote::Known(*id, node.parent, key.1, named, node.hidden)
        });
        known.chain([NodeNote::Next(self.next)]).collect()
    }

    /// Takes up what an earlier server noted.
    pub(crate) fn replay(&mut self, note: NodeNote) {
        match note {
            NodeNote::Known(id, parent, name, named, hidden) => {
                self.next = self.next.max(id + 1);
                if named {
                    self.names.insert((parent, name.clone()), id);
                }
                let node = Node {
                    parent,
                    name,
                    lookups: MANY,
                    opens: 0,
                    hidden,
                    told: None,
                };
                self.nodes.insert(id, node);
            }
            NodeNote::Removed(parent, name) => self.removed(parent, &name),
            NodeNote::Moved(from, to) => self.moved((from.0, &from.1), (to.0, &to.1)),
            NodeNote::Hidden(parent, name, hidden) => self.hide(parent, &name, &hidden),
            NodeNote::Unhidden(id) => self.unhide(id),
            NodeNote::Gone(id) => {
                if let Some(node) = self.nodes.remove(&id) {
                    let key = (node.parent, node.name);
                    if self.names.get(&key) == Some(&id) {
                        self.names.remove(&key);
                    }
                }
            }
            NodeNote::Next(next) => self.next = self.next.max(next),
        }
        self.changes.clear();
    }

    /// Hidden files that nobody has open any more, and their paths.
    pub(crate) fn doomed(&self) -> Vec<(u64, String)> {
        let doomed = self.nodes.iter().filter(|(_, n)| n.hidden && n.opens == 0);
        doomed
            .filter_map(|(id, _)| Some((*id, self.path(*id)?)))
            .collect()
    }

    /// A descriptor is closed, as an earlier server noted.
    pub(crate) fn closed_unseen(&mut self, id: u64) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.opens = node.opens.saturating_sub(1);
        }
    }

    /// The node of a name, if the kernel knows it.
    pub(crate) fn known(&self, parent: u64, name: &str) -> Option<u64> {
        self.names.get(&(parent, name.to_owned())).copied()
    }

    /// The path on the server, components parted by a backslash; `None` for a number that stands
    /// for nothing.
    pub(crate) fn path(&self, id: u64) -> Option<String> {
        let mut parts = Vec::new();
        let mut at = id;
        while at != ROOT {
            let node = self.nodes.get(&at)?;
            parts.push(node.name.as_str());
            at = node.parent;
        }
        parts.reverse();
        Some(parts.join("\\"))
    }

    /// The path of a name below a node.
    pub(crate) fn below(&self, parent: u64, name: &str) -> Option<String> {
        let path = self.path(parent)?;
        Some(if path.is_empty() {
            name.to_owned()
        } else {
            format!("{path}\\{name}")
        })
    }

    /// The kernel is told of a node's attributes.
    pub(crate) fn tell(&mut self, id: u64, attributes: &Attributes) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.told = Some(mark(attributes));
        }
    }

    /// Whether the kernel was told of these attributes last.
    pub(crate) fn is_told(&self, id: u64, attributes: &Attributes) -> bool {
        let told = self.nodes.get(&id).and_then(|node| node.told);
        told == Some(mark(attributes))
    }

    /// The kernel forgets a node so many times.
    pub(crate) fn forget(&mut self, id: u64, times: u64) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.lookups = node.lookups.saturating_sub(times);
        }
        self.tidy(id);
    }

    /// A descriptor is opened.
    pub(crate) fn opened(&mut self, id: u64) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.opens += 1;
        }
    }

    /// A descriptor is closed; with the last, answers the path of a hidden file, which is to be
    /// deleted and then [`unhide`](Self::unhide)d.
    pub(crate) fn closed(&mut self, id: u64) -> Doomed {
        let path = self.path(id);
        let node = self.nodes.get_mut(&id)?;
        node.opens = node.opens.saturating_sub(1);
        if node.opens == 0 && node.hidden {
            return path;
        }
        self.tidy(id);
        None
    }

    /// A hidden file was deleted at last.
    pub(crate) fn unhide(&mut self, id: u64) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.hidden = false;
            self.changes.push(NodeNote::Unhidden(id));
        }
        self.tidy(id);
    }

    /// Whether a directory has hidden files.
    pub(crate) fn has_hidden(&self, id: u64) -> bool {
        self.nodes.values().any(|n| n.hidden && n.parent == id)
    }

    /// How many descriptors of a node are open.
    pub(crate) fn opens(&self, id: u64) -> u64 {
        self.nodes.get(&id).map_or(0, |n| n.opens)
    }

    /// How many descriptors are open in all.
    pub(crate) fn all_opens(&self) -> u64 {
        self.nodes.values().map(|n| n.opens).sum()
    }

    /// A file was deleted or replaced: its name stands for nothing known any more.
    pub(crate) fn removed(&mut self, parent: u64, name: &str) {
        if let Some(id) = self.names.remove(&(parent, name.to_owned())) {
            let removed = NodeNote::Removed(parent, name.to_owned());
            self.changes.push(removed);
            self.tidy(id);
        }
    }

    /// A file got another name. What stood there is no longer known by it.
    pub(crate) fn moved(&mut self, from: (u64, &str), to: (u64, &str)) {
        self.removed(to.0, to.1);
        let Some(id) = self.names.remove(&(from.0, from.1.to_owned())) else {
            return;
        };
        if let Some(node) = self.nodes.get_mut(&id) {
            node.parent = to.0;
            node.name = to.1.to_owned();
        }
        self.names.insert((to.0, to.1.to_owned()), id);
        let owned = |(parent, name): (u64, &str)| (parent, name.to_owned());
        self.changes.push(NodeNote::Moved(owned(from), owned(to)));
    }

    /// An open file was deleted: it keeps a hidden name until the last descriptor is closed.
    pub(crate) fn hide(&mut self, parent: u64, name: &str, hidden: &str) {
        let Some(id) = self.names.remove(&(parent, name.to_owned())) else {
            return;
        };
        if let Some(node) = self.nodes.get_mut(&id) {
            node.name = hidden.to_owned();
            node.hidden = true;
        }
        let note = NodeNote::Hidden(parent, name.to_owned(), hidden.to_owned());
        self.changes.push(note);
    }

    fn tidy(&mut self, id: u64) {
        let Some(node) = self.nodes.get(&id) else {
            return;
        };
        if id == ROOT || node.lookups > 0 || node.opens > 0 || node.hidden {
            return;
        }
        let key = (node.parent, node.name.clone());
        if self.names.get(&key) == Some(&id) {
            self.names.remove(&key);
        }
        self.nodes.remove(&id);
        self.changes.push(NodeNote::Gone(id));
    }
}
