//! What the next share server has to know if this one is killed: which numbers the kernel was told
//! for which names, what is open and locked, and what was answered without being on the server.
//!
//! Notes go into memory files that the keeper holds, a line each, before the kernel hears of what
//! they say. Half a line, at the end, is of an operation that nobody was answered. When a file has
//! grown, what still holds is written to the other one, and counts once that is complete.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, MutexGuard};

use serde::{Deserialize, Serialize};

use super::locks::Held;
use super::nodes::{NodeNote, Nodes};

/// A file of notes is turned over when it is so long, in bytes, or four times what still held.
const LENGTH: u64 = 4 << 20;

/// An open file, as the next server needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OpenNote {
    pub(crate) id: u64,
    pub(crate) node: u64,
    pub(crate) access: u32,
    pub(crate) flags: i32,
    /// What it is asked back by.
    pub(crate) guid: [u8; 16],
    pub(crate) lease: [u8; 16],
    pub(crate) state: u32,
    /// What the server knew it by last, and whether it keeps it.
    pub(crate) file: (u64, u64),
    pub(crate) granted: bool,
    /// Which file it is.
    pub(crate) number: u64,
}

/// Something to be known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Note {
    /// What follows counts from here on, once [`Note::Complete`] stands; the greatest number does.
    Begin(u64),
    Complete,
    /// So many servers have begun.
    Server(u64),
    /// Who the server takes us for, and the first half of our lease keys.
    Client([u8; 16], u64),
    /// The session of the present connection.
    Session(u64),
    Node(NodeNote),
    /// A file was opened, or opened again.
    Open(OpenNote),
    Closed(u64),
    /// All locks of a node, by owner.
    Locks(u64, Vec<(u64, Held)>),
    /// Through this open file something was written that the server does not have.
    Dirty(u64),
    Clean(u64),
}

/// What notes come to.
#[derive(Debug)]
pub(crate) struct Book {
    pub(crate) servers: u64,
    pub(crate) client: Option<([u8; 16], u64)>,
    pub(crate) session: u64,
    pub(crate) nodes: Nodes,
    pub(crate) open: BTreeMap<u64, OpenNote>,
    pub(crate) locks: BTreeMap<u64, Vec<(u64, Held)>>,
    pub(crate) dirty: BTreeSet<u64>,
}

impl Default for Book {
    fn default() -> Self {
        Self {
            servers: 0,
            client: None,
            session: 0,
            nodes: Nodes::new(),
            open: BTreeMap::new(),
            locks: BTreeMap::new(),
            dirty: BTreeSet::new(),
        }
    }
}

impl Book {
    pub(crate) fn take(&mut self, note: Note) {
        match note {
            Note::Begin(_) | Note::Complete => {}
            Note::Server(count) => self.servers = count,
            Note::Client(guid, lease) => self.client = Some((guid, lease)),
            Note::Session(session) => self.session = session,
            Note::Node(note) => self.nodes.replay(note),
            Note::Open(open) => {
                if self.open.insert(open.id, open).is_none() {
                    self.nodes.opened(open.node);
                }
            }
            Note::Closed(id) => {
                self.dirty.remove(&id);
                if let Some(open) = self.open.remove(&id) {
                    self.nodes.closed_unseen(open.node);
                }
            }
            Note::Locks(node, held) => {
                if held.is_empty() {
                    self.locks.remove(&node);
                } else {
                    self.locks.insert(node, held);
                }
            }
            Note::Dirty(id) => {
                self.dirty.insert(id);
            }
            Note::Clean(id) => {
                self.dirty.remove(&id);
            }
        }
    }

    /// The fewest notes that come to the same.
    pub(crate) fn notes(&self) -> Vec<Note> {
        let mut notes = vec![Note::Server(self.servers), Note::Session(self.session)];
        notes.extend(self.client.map(|(guid, lease)| Note::Client(guid, lease)));
        notes.extend(self.nodes.notes().into_iter().map(Note::Node));
        notes.extend(self.open.values().copied().map(Note::Open));
        let locks = self.locks.iter();
        notes.extend(locks.map(|(node, held)| Note::Locks(*node, held.clone())));
        notes.extend(self.dirty.iter().copied().map(Note::Dirty));
        notes
    }
}

struct Pages {
    files: [File; 2],
    /// Which of them counts, how often it was turned, and how long it is.
    at: usize,
    turn: u64,
    length: u64,
    limit: u64,
}

/// The notes of this server.
pub(crate) struct Notes {
    /// `None` when they could not be written: the next server then begins with none.
    pages: Mutex<Option<Pages>>,
}

fn lines(notes: &[Note]) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    for note in notes {
        serde_json::to_writer(&mut text, note)?;
        text.push(b'\n');
    }
    Ok(text)
}

/// A file's turn, what it comes to, and where its last whole line ends; `None` if it does not
/// count.
fn read(file: &File) -> io::Result<Option<(u64, Book, u64)>> {
    let mut text = vec![0; usize::try_from(file.metadata()?.len()).unwrap_or(0)];
    file.read_exact_at(&mut text, 0)?;
    let (mut book, mut end) = (Book::default(), 0);
    let (mut turn, mut complete) = (None, false);
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let Some(whole) = line.strip_suffix(b"\n") else {
            break;
        };
        let Ok(note) = serde_json::from_slice(whole) else {
            break;
        };
        match note {
            Note::Begin(number) => turn = Some(number),
            Note::Complete => complete = true,
            note => book.take(note),
        }
        end += line.len() as u64;
    }
    Ok(turn.filter(|_| complete).map(|turn| (turn, book, end)))
}

impl Pages {
    fn open(files: [File; 2]) -> io::Result<(Self, Book)> {
        let found = [read(&files[0])?, read(&files[1])?];
        let turn = |at: usize| found[at].as_ref().map(|(turn, ..)| *turn);
        let at = usize::from(turn(1) > turn(0));
        let [first, second] = found;
        let (turn, book, length) = if at == 0 { first } else { second }.unwrap_or_default();
        let limit = LENGTH.max(length * 4);
        let mut this = Self {
            files,
            at,
            turn,
            length,
            limit,
        };
        // Not half a line in the middle.
        this.files[at].set_len(length)?;
        if length == 0 {
            this.add(&[Note::Begin(1), Note::Complete])?;
        }
        Ok((this, book))
    }

    fn add(&mut self, notes: &[Note]) -> io::Result<()> {
        let text = lines(notes)?;
        self.files[self.at].write_all_at(&text, self.length)?;
        self.length += text.len() as u64;
        Ok(())
    }

    /// Writes what still holds to the other file.
    fn turn(&mut self) -> io::Result<()> {
        let Some((turn, book, _)) = read(&self.files[self.at])? else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        let old = self.at;
        self.at = 1 - old;
        self.files[self.at].set_len(0)?;
        self.length = 0;
        self.turn = turn + 1;
        self.add(&[Note::Begin(self.turn)])?;
        self.add(&book.notes())?;
        self.add(&[Note::Complete])?;
        self.files[old].set_len(0)?;
        self.limit = LENGTH.max(self.length * 4);
        Ok(())
    }

    fn write(&mut self, notes: &[Note]) -> io::Result<()> {
        self.add(notes)?;
        if self.length > self.limit {
            self.turn()?;
        }
        Ok(())
    }
}

impl Notes {
    /// The notes in these files, and what they come to; empty files are new notes.
    pub(crate) fn open(files: [File; 2]) -> io::Result<(Self, Book)> {
        let (pages, book) = Pages::open(files)?;
        let pages = Mutex::new(Some(pages));
        Ok((Self { pages }, book))
    }

    fn pages(&self) -> MutexGuard<'_, Option<Pages>> {
        super::locked(&self.pages)
    }

    pub(crate) fn write(&self, notes: &[Note]) {
        if notes.is_empty() {
            return;
        }
        let mut pages = self.pages();
        if let Some(all) = pages.as_mut()
            && all.write(notes).is_err()
        {
            // Better none than some: what the next server does not know fails with `ESTALE`.
            for file in &all.files {
                let _ = file.set_len(0);
            }
            *pages = None;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::nodes::ROOT;
    use super::*;

    fn files() -> ([File; 2], [File; 2]) {
        let [a, b] = [tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap()];
        ([a.try_clone().unwrap(), b.try_clone().unwrap()], [a, b])
    }

    fn copies(files: &[File; 2]) -> [File; 2] {
        [files[0].try_clone().unwrap(), files[1].try_clone().unwrap()]
    }

    fn open(id: u64, node: u64) -> Note {
        Note::Open(OpenNote {
            id,
            node,
            access: 1,
            flags: 2,
            guid: [3; 16],
            lease: [4; 16],
            state: 7,
            file: (id, id),
            granted: true,
            number: 9,
        })
    }

    #[test]
    fn the_next_server_knows_what_was_noted_and_nothing_of_half_a_line() {
        let (given, kept) = files();
        let (notes, book) = Notes::open(given).unwrap();
        assert_eq!(book.servers, 0);
        let mut nodes = Nodes::new();
        let a = nodes.find(ROOT, "a");
        let b = nodes.find(a, "b");
        let c = nodes.find(ROOT, "c");
        nodes.moved((ROOT, "a"), (ROOT, "z"));
        nodes.hide(a, "b", "hidden");
        nodes.forget(c, 1);
        let all: Vec<_> = nodes.changes().into_iter().map(Note::Node).collect();
        notes.write(&all);
        notes.write(&[Note::Server(1), open(1, b), open(2, b), Note::Dirty(2)]);
        notes.write(&[Note::Closed(1)]);
        let end = kept[0].metadata().unwrap().len();
        kept[0].write_all_at(b"{\"Closed\":2", end).unwrap();
        drop(notes);

        let (notes, book) = Notes::open(copies(&kept)).unwrap();
        assert_eq!(book.servers, 1);
        assert_eq!(book.nodes.path(b).as_deref(), Some(r"z\hidden"));
        assert_eq!(book.nodes.path(c), None);
        assert_eq!(book.nodes.opens(b), 1);
        assert_eq!(book.open.keys().copied().collect::<Vec<_>>(), [2]);
        assert!(book.dirty.contains(&2));
        notes.write(&[Note::Closed(2)]);
        drop(notes);
        let (_, book) = Notes::open(kept).unwrap();
        assert!(book.open.is_empty() && book.dirty.is_empty());
    }

    #[test]
    fn notes_that_have_grown_are_turned_over_and_say_the_same() {
        let (given, kept) = files();
        let (notes, _) = Notes::open(given).unwrap();
        let mut nodes = Nodes::new();
        let long = "n".repeat(200);
        let mut last = 0;
        for round in 0..30_000 {
            let name = format!("{round}-{long}");
            last = nodes.find(ROOT, &name);
            if round % 100 != 0 {
                nodes.forget(last, 1);
            }
            let all: Vec<_> = nodes.changes().into_iter().map(Note::Node).collect();
            notes.write(&all);
        }
        drop(notes);
        let lengths = [0, 1].map(|at| kept[at].metadata().unwrap().len());
        assert!(lengths.iter().sum::<u64>() < 2 * LENGTH, "{lengths:?}");
        let (_, book) = Notes::open(kept).unwrap();
        assert_eq!(book.nodes.path(last), None);
        let at = book.nodes.known(ROOT, &format!("29900-{long}"));
        assert_eq!(at, nodes.known(ROOT, &format!("29900-{long}")));
        assert!(at.is_some());
        // A number is not given twice.
        let mut nodes = book.nodes;
        assert!(nodes.find(ROOT, "new") > last);
    }

    #[test]
    fn a_turn_that_was_not_completed_does_not_count() {
        let (given, kept) = files();
        let (notes, _) = Notes::open(given).unwrap();
        notes.write(&[Note::Server(1)]);
        drop(notes);
        let half = lines(&[Note::Begin(2), Note::Server(5)]).unwrap();
        kept[1].write_all_at(&half, 0).unwrap();
        let (_, book) = Notes::open(kept).unwrap();
        assert_eq!(book.servers, 1);
    }
}
