//! Writes an image from front to back, with corrections behind.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;

use super::format::BLOCK;
use crate::layer::fault::{Fault, shown};
use crate::layer::target::read_some;

/// So much is written at once.
const WINDOW: usize = 1 << 20;

/// A file that grows.
#[derive(Debug)]
pub(super) struct Output {
    file: File,
    /// What is not written yet, at its start.
    window: Box<[u8]>,
    /// So many bytes of the window are that.
    used: usize,
    /// Where the window begins.
    base: u64,
}

impl Output {
    pub(super) fn new(file: File) -> Self {
        Self {
            file,
            window: vec![0; WINDOW].into_boxed_slice(),
            used: 0,
            base: 0,
        }
    }

    /// Where the next byte goes.
    pub(super) fn position(&self) -> u64 {
        self.base + self.used as u64
    }

    fn make_room(&mut self) -> io::Result<()> {
        if self.used >= WINDOW {
            self.flush()?;
        }
        Ok(())
    }

    /// Writes what is held back. Zeros are left out, which makes a hole of them.
    fn flush(&mut self) -> io::Result<()> {
        let window = &self.window[..self.used];
        if window.iter().any(|byte| *byte != 0) {
            self.file.write_all_at(window, self.base)?;
        }
        self.base += self.used as u64;
        self.used = 0;
        Ok(())
    }

    /// The next so many bytes of the window, at most those that are free, to be filled.
    fn take(&mut self, count: u64) -> &mut [u8] {
        let free = &mut self.window[self.used..];
        let n = usize::try_from(count).map_or(free.len(), |n| n.min(free.len()));
        &mut free[..n]
    }

    pub(super) fn append(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.make_room()?;
            let to = self.take(bytes.len() as u64);
            let n = to.len();
            to.copy_from_slice(&bytes[..n]);
            self.used += n;
            bytes = &bytes[n..];
        }
        Ok(())
    }

    /// Appends exactly so many bytes of a reader; `path` is whose they are.
    pub(super) fn append_from(
        &mut self,
        data: &mut dyn Read,
        mut count: u64,
        path: &[u8],
    ) -> Result<(), Fault> {
        while count > 0 {
            self.make_room().map_err(|e| failed(path, e))?;
            let read = read_some(data, self.take(count))?;
            self.used += read;
            if read == 0 {
                return Err(Fault::cut_off(path));
            }
            count -= read as u64;
        }
        Ok(())
    }

    /// Appends zeros up to an offset.
    pub(super) fn fill_up_to(&mut self, offset: u64) -> io::Result<()> {
        while self.position() < offset {
            self.make_room()?;
            let to = self.take(offset - self.position());
            let n = to.len();
            to.fill(0);
            self.used += n;
        }
        Ok(())
    }

    /// Appends zeros up to the next block.
    pub(super) fn fill_block(&mut self) -> io::Result<()> {
        self.fill_up_to(self.position().next_multiple_of(BLOCK as u64))
    }

    /// Changes bytes that were appended.
    pub(super) fn correct(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let Some(start) = at.checked_sub(self.base) else {
            let before = usize::try_from(self.base - at).unwrap_or(usize::MAX);
            let (old, new) = bytes.split_at(before.min(bytes.len()));
            self.file.write_all_at(old, at)?;
            return if new.is_empty() {
                Ok(())
            } else {
                self.correct(self.base, new)
            };
        };
        let start = usize::try_from(start).map_err(io::Error::other)?;
        self.window[..self.used][start..start + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    /// Ends the file here.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.flush()?;
        // The last bytes may be a hole.
        self.file.set_len(self.base)
    }
}

pub(super) fn failed(path: &[u8], cause: io::Error) -> Fault {
    Fault::Write(format!("write '{}'", shown(path)), cause)
}
