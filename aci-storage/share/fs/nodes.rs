//! The names that the kernel knows: a tree of numbers, because a path changes when a directory
//! above it is renamed.

use std::collections::HashMap;

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
}

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
        id
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
    }
}
