//! Reading a blob while it is still being fetched.
//!
//! Whoever unpacks a layer reads the file behind the one who writes it, so what was fetched by an
//! earlier pull needs no case of its own, nothing waits in memory, and a slow reader holds nobody
//! up. The end of the file is told only when size and digest were found right.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::trees::lock;

/// How far a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// So many bytes can be read, and more will come.
    Growing(u64),
    /// These are all, and they are right.
    Whole(u64),
    /// Nobody writes any more.
    GivenUp,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn set(&self, state: State) {
        *lock(&self.state) = state;
        self.changed.notify_all();
    }
}

/// The writer's end; dropped before the blob is whole it sends the reader away.
#[derive(Debug)]
pub(crate) struct Growing(Arc<Shared>);

/// The reader's end.
#[derive(Debug)]
pub(crate) struct Along {
    file: File,
    at: u64,
    shared: Arc<Shared>,
}

/// For a file which has `size` bytes now. The reader does not move the file's own position.
pub(crate) fn along(file: File, size: u64) -> (Growing, Along) {
    let shared = Arc::new(Shared {
        state: Mutex::new(State::Growing(size)),
        changed: Condvar::new(),
    });
    let along = Along {
        file,
        at: 0,
        shared: Arc::clone(&shared),
    };
    (Growing(shared), along)
}

impl Growing {
    /// The file has so many bytes now.
    pub(crate) fn reached(&self, size: u64) {
        self.0.set(State::Growing(size));
    }

    /// The file is what it was to be.
    pub(crate) fn whole(self, size: u64) {
        self.0.set(State::Whole(size));
    }
}

impl Drop for Growing {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        if let State::Growing(_) = *state {
            *state = State::GivenUp;
        }
        drop(state);
        self.0.changed.notify_all();
    }
}

impl Along {
    /// Whether all of it is there.
    pub(crate) fn is_whole(&self) -> bool {
        matches!(*lock(&self.shared.state), State::Whole(_))
    }

    /// Waits until there is something to read; how many bytes, none at the end.
    fn wait(&self) -> io::Result<u64> {
        let mut state = lock(&self.shared.state);
        loop {
            match *state {
                State::Growing(size) if size > self.at => return Ok(size - self.at),
                State::Whole(size) => return Ok(size.saturating_sub(self.at)),
                State::GivenUp => return Err(io::Error::other("it was not fetched to its end")),
                State::Growing(_) => {}
            }
            let waited = self.shared.changed.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Read for Along {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.wait()?).map_or(buf.len(), |there| there.min(buf.len()));
        if most == 0 {
            return Ok(0);
        }
        match self.file.read_at(&mut buf[..most], self.at)? {
            0 => Err(io::Error::other("the file became shorter")),
            n => {
                self.at += n as u64;
                Ok(n)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn file() -> (tempfile::NamedTempFile, File) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let again = file.reopen().unwrap();
        (file, again)
    }

    #[test]
    fn the_end_is_told_only_when_the_content_is_right() {
        let (mut to, from) = file();
        to.write_all(b"from before, ").unwrap();
        let (growing, mut along) = along(from, 13);
        let reader = std::thread::spawn(move || {
            let mut all = String::new();
            along.read_to_string(&mut all).map(|_| all)
        });
        let mut size = 13;
        for word in ["a", " and", " b"] {
            to.write_all(word.as_bytes()).unwrap();
            size += word.len() as u64;
            growing.reached(size);
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert!(!reader.is_finished(), "it took silence for the end");
        growing.whole(size);
        assert_eq!(reader.join().unwrap().unwrap(), "from before, a and b");
    }

    #[test]
    fn a_writer_that_gives_up_sends_the_reader_away() {
        let (mut to, from) = file();
        to.write_all(b"some").unwrap();
        let (growing, mut along) = along(from, 4);
        let mut some = [0; 4];
        along.read_exact(&mut some).unwrap();
        let reader = std::thread::spawn(move || along.read_exact(&mut [0]));
        drop(growing);
        let error = reader.join().unwrap().unwrap_err();
        assert!(error.to_string().contains("not fetched"), "{error}");
    }

    #[test]
    fn a_file_that_shrinks_is_no_end() {
        let (to, from) = file();
        let (growing, mut along) = along(from, 10);
        growing.whole(10);
        drop(to);
        let error = along.read_exact(&mut [0; 10]).unwrap_err();
        assert!(error.to_string().contains("shorter"), "{error}");
    }
}
