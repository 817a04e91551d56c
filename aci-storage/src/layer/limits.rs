//! How much an archive may ask for.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::fault::Carried;

/// Upper bounds for one layer. A layer that passes one is refused as a whole.
///
/// The defaults are far above what images in use need and far below what would harm a host.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnpackLimits {
    /// Entries of the archive. Default 2,000,000.
    pub entries: u64,
    /// Bytes of the uncompressed archive. Default 64 GiB.
    pub bytes: u64,
    /// Uncompressed bytes for each compressed one, counted above the first 64 MiB. Default 200
    /// (gzip cannot exceed 1032).
    pub ratio: u64,
    /// Bytes of extended headers (PAX records, GNU long names) of one entry. Default 1 MiB.
    pub header_bytes: u64,
    /// Bytes of a path. Default 4,096, the kernel's `PATH_MAX`.
    pub path_bytes: usize,
    /// Directories above an entry. Default 256.
    pub depth: usize,
    /// Bytes of memory for the names, links and attributes of directories, where the tree is held
    /// in memory until the layer is complete (EROFS images). Default 512 MiB, some 4,000,000
    /// entries with short names.
    pub memory_bytes: u64,
}

impl Default for UnpackLimits {
    fn default() -> Self {
        Self {
            entries: 2_000_000,
            bytes: 64 << 30,
            ratio: 200,
            header_bytes: 1 << 20,
            path_bytes: 4096,
            depth: 256,
            memory_bytes: 512 << 20,
        }
    }
}

impl UnpackLimits {
    /// Below so many uncompressed bytes the ratio does not count.
    pub(crate) const RATIO_FLOOR: u64 = 64 << 20;
}

/// Counts both ends of a decompressor.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    compressed: Arc<AtomicU64>,
    bytes: u64,
    ratio: u64,
}

impl Budget {
    pub(crate) fn new(limits: &UnpackLimits) -> Self {
        Self {
            compressed: Arc::new(AtomicU64::new(0)),
            bytes: limits.bytes,
            ratio: limits.ratio,
        }
    }

    /// Counts what the decompressor takes in.
    pub(crate) fn compressed<R>(&self, inner: R) -> Compressed<R> {
        Compressed {
            inner,
            count: Arc::clone(&self.compressed),
        }
    }

    fn check(&self, done: u64) -> Result<(), String> {
        if done > self.bytes {
            return Err(format!("it holds more than {} bytes", self.bytes));
        }
        let taken = self.compressed.load(Ordering::Relaxed);
        if done > UnpackLimits::RATIO_FLOOR && done / taken.max(1) > self.ratio {
            return Err(format!(
                "it grows to more than {} times its compressed size",
                self.ratio
            ));
        }
        Ok(())
    }
}

/// The decompressor's input.
#[derive(Debug)]
pub(crate) struct Compressed<R> {
    inner: R,
    count: Arc<AtomicU64>,
}

impl<R: Read> Read for Compressed<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.count.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

/// The decompressor's output, which ends with an error when it exceeds the budget.
pub(crate) struct Metered<'a, R> {
    inner: R,
    budget: Budget,
    done: u64,
    heard: &'a mut dyn FnMut(u64),
}

impl<'a, R: Read> Metered<'a, R> {
    pub(crate) fn new(inner: R, budget: Budget, heard: &'a mut dyn FnMut(u64)) -> Self {
        Self {
            inner,
            budget,
            done: 0,
            heard,
        }
    }

    pub(crate) fn into_inner(self) -> R {
        self.inner
    }
}

impl<R: Read> Read for Metered<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.done += n as u64;
        self.budget
            .check(self.done)
            .map_err(|why| io::Error::other(Carried(why)))?;
        (self.heard)(self.budget.compressed.load(Ordering::Relaxed));
        Ok(n)
    }
}
