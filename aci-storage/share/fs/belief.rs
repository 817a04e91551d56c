//! What is believed for `actimeo` without asking the server: names that are not there, and the
//! attributes of directories.
//!
//! Before a program makes a file the kernel asks for its name, and a server looks through the whole
//! directory to say no. So when several names of a directory were not there within the time that
//! names are believed (`actimeo`), the directory is listed once, and for that time the answer is
//! known. Making a file asks the server all the same: it knows whether somebody else was faster.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use smb2::pack::FileTime;

use crate::smb::ops::Attributes;

/// After so many misses a directory is listed.
const MISSES: u32 = 4;
/// Larger directories are not listed for this.
const MOST: usize = 20_000;
/// So many directories are remembered.
const DIRECTORIES: usize = 64;

#[derive(Debug)]
struct Directory {
    since: Instant,
    misses: u32,
    /// All names, folded, as of `since`.
    names: Option<HashSet<String>>,
    /// Made since the listing began.
    made: HashSet<String>,
    listing: bool,
}

/// What is known of directories that are asked for names which are not there.
#[derive(Debug, Default)]
pub(crate) struct Absent {
    directories: HashMap<u64, Directory>,
}

/// What to do about a name that was not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Advice {
    Nothing,
    /// List the directory and tell [`Absent::listed`].
    List,
}

/// Servers take no heed of case.
fn fold(name: &str) -> String {
    name.to_lowercase()
}

impl Absent {
    /// Whether a name is known not to be there. Short names of Windows (`LONGNA~1`) are in no
    /// listing and never known.
    pub(crate) fn knows(&self, node: u64, name: &str, now: Instant, belief: Duration) -> bool {
        let Some(directory) = self.directories.get(&node) else {
            return false;
        };
        let Some(names) = &directory.names else {
            return false;
        };
        let folded = fold(name);
        now.saturating_duration_since(directory.since) < belief
            && !name.contains('~')
            && !names.contains(&folded)
            && !directory.made.contains(&folded)
    }

    /// The server was asked for a name that is not there.
    pub(crate) fn missed(&mut self, node: u64, now: Instant, belief: Duration) -> Advice {
        if belief.is_zero() {
            return Advice::Nothing;
        }
        if !self.directories.contains_key(&node) && self.directories.len() >= DIRECTORIES {
            self.directories
                .retain(|_, d| d.listing || now.saturating_duration_since(d.since) < belief);
            if self.directories.len() >= DIRECTORIES {
                return Advice::Nothing;
            }
        }
        let fresh = || Directory {
            since: now,
            misses: 0,
            names: None,
            made: HashSet::new(),
            listing: false,
        };
        let directory = self.directories.entry(node).or_insert_with(fresh);
        if directory.listing {
            return Advice::Nothing;
        }
        if now.saturating_duration_since(directory.since) >= belief {
            // One that was worth it is listed again at once.
            let again = directory.names.is_some();
            *directory = fresh();
            directory.misses = if again { MISSES } else { 0 };
        }
        directory.misses += 1;
        if directory.misses < MISSES || directory.names.is_some() {
            return Advice::Nothing;
        }
        directory.listing = true;
        directory.since = now;
        directory.made.clear();
        Advice::List
    }

    /// All names of a directory, asked for after [`Advice::List`]; `None` if it could not be had.
    pub(crate) fn listed<'a>(&mut self, node: u64, names: Option<impl Iterator<Item = &'a str>>) {
        let Some(directory) = self.directories.get_mut(&node) else {
            return;
        };
        directory.listing = false;
        directory.names = names.map(|names| names.take(MOST).map(fold).collect());
        if directory.names.as_ref().is_none_or(|n| n.len() >= MOST) {
            directory.names = None;
            directory.misses = 0;
        }
    }

    /// A name was made, or is about to be.
    pub(crate) fn made(&mut self, node: u64, name: &str) {
        if let Some(directory) = self.directories.get_mut(&node) {
            directory.made.insert(fold(name));
        }
    }
}

/// So many directories' attributes are remembered.
const SEEN: usize = 1024;

/// Attributes of directories: the kernel asks for them again after each file that is made there,
/// only to see the mode.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    directories: HashMap<u64, (Instant, Attributes)>,
}

impl Seen {
    pub(crate) fn get(&self, node: u64, now: Instant, belief: Duration) -> Option<Attributes> {
        let (since, attributes) = self.directories.get(&node)?;
        (now.saturating_duration_since(*since) < belief).then_some(*attributes)
    }

    pub(crate) fn put(&mut self, node: u64, now: Instant, attributes: Attributes) {
        if attributes.is_directory() {
            if self.directories.len() >= SEEN {
                self.directories.clear();
            }
            self.directories.insert(node, (now, attributes));
        }
    }

    /// A file was made in a directory at this time, by the server's clock.
    pub(crate) fn made(&mut self, node: u64, at: FileTime) {
        if let Some((_, attributes)) = self.directories.get_mut(&node) {
            for time in [&mut attributes.written, &mut attributes.changed] {
                if time.0 < at.0 {
                    *time = at;
                }
            }
        }
    }

    /// Something else was changed in a directory.
    pub(crate) fn forget(&mut self, node: u64) {
        self.directories.remove(&node);
    }
}
