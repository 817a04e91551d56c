//! Blobs by digest, in the places that the OCI image layout gives them.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use aci_core::error::{Error, ErrorKind, Result};

use super::along::{Along, Growing, along};
use super::digest::{Digest, Hasher};
use super::manifest::{Descriptor, MAX_JSON};
use super::trees::lock;
use crate::fail;
use crate::tree::make_private_dir;

/// The directory of blobs and those for what is not yet one.
#[derive(Debug)]
pub(crate) struct Blobs {
    dir: PathBuf,
    tmp: PathBuf,
    /// What was fetched of blobs whose pull broke off, by the digest that they are to have.
    partial: PathBuf,
    /// Whose file of these is being written.
    claims: Arc<Mutex<HashSet<Digest>>>,
}

/// A file in `partial` is this pull's as long as this lives.
#[derive(Debug)]
struct Claim {
    digest: Digest,
    all: Arc<Mutex<HashSet<Digest>>>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        lock(&self.all).remove(&self.digest);
    }
}

impl Blobs {
    /// Over a store's directory; `tmp` must exist.
    pub(crate) fn open(store: &Path, tmp: &Path) -> Result<Self> {
        let dir = store.join("blobs").join("sha256");
        fs::create_dir_all(&dir).map_err(|e| fail::io("images.open", "make it", &dir, e))?;
        let partial = store.join("partial");
        make_private_dir(&partial)?;
        Ok(Self {
            dir,
            tmp: tmp.to_owned(),
            partial,
            claims: Arc::default(),
        })
    }

    pub(crate) fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.join(digest.hex())
    }

    /// Whether a blob is there in full length. Blobs get their name only after they were checked.
    pub(crate) fn has(&self, digest: &Digest, size: u64) -> bool {
        fs::metadata(self.path(digest)).is_ok_and(|meta| meta.is_file() && meta.len() == size)
    }

    pub(crate) fn open_blob(&self, digest: &Digest) -> Result<File> {
        let path = self.path(digest);
        File::open(&path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => Error::new(
                ErrorKind::Corrupt,
                "images.read",
                format!("the store lacks the blob {digest}"),
            )
            .hint("import or pull the image again"),
            _ => fail::io("images.read", "open it", &path, e),
        })
    }

    /// Reads a small blob and checks it again.
    pub(crate) fn read(&self, digest: &Digest) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.open_blob(digest)?
            .take(MAX_JSON + 1)
            .read_to_end(&mut bytes)
            .map_err(|e| fail::io("images.read", "read it", &self.path(digest), e))?;
        check_bytes(&bytes, digest)?;
        Ok(bytes)
    }

    /// Keeps small content.
    pub(crate) fn put(&self, bytes: &[u8]) -> Result<Digest> {
        let digest = Digest::of(bytes);
        if !self.has(&digest, bytes.len() as u64) {
            let (written, _) = self.stage(&mut &bytes[..], &mut |_| {})?;
            self.adopt(written)?;
        }
        Ok(digest)
    }

    /// Keeps the content that a descriptor announces, if it is that.
    pub(crate) fn ingest(
        &self,
        wanted: &Descriptor,
        from: &mut dyn Read,
        heard: &mut dyn FnMut(u64),
    ) -> Result<()> {
        // One byte more than announced shows that there is more.
        let mut bounded = from.take(wanted.size.saturating_add(1));
        let (staged, read) = self.stage(&mut bounded, heard)?;
        if read != wanted.size || staged.digest != wanted.digest {
            let found = if read > wanted.size {
                "it is longer".to_owned()
            } else {
                format!("it has {read} bytes and the digest {}", staged.digest)
            };
            return Err(Error::new(
                ErrorKind::Corrupt,
                "images.ingest",
                format!(
                    "the content does not match {} of {} bytes: {found}",
                    wanted.digest, wanted.size
                ),
            ));
        }
        self.adopt(staged)
    }

    /// Writes content to a temporary file and learns its digest.
    pub(crate) fn stage(
        &self,
        from: &mut dyn Read,
        heard: &mut dyn FnMut(u64),
    ) -> Result<(Staged, u64)> {
        let mut stager = self.stager()?;
        let mut buffer = vec![0; 256 * 1024];
        loop {
            let n = match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => {
                    return Err(Error::new(
                        ErrorKind::Corrupt,
                        "images.ingest",
                        format!("the content cannot be read: {e}"),
                    )
                    .because(e));
                }
            };
            stager
                .write_all(&buffer[..n])
                .map_err(|e| fail::io("images.ingest", "write it", &stager.path, e))?;
            heard(stager.size);
        }
        let staged = stager.finish();
        let size = staged.size;
        Ok((staged, size))
    }

    /// A temporary file to write content to.
    pub(crate) fn stager(&self) -> Result<Stager> {
        let path = self.tmp.join(uuid::Uuid::new_v4().simple().to_string());
        let file =
            File::create_new(&path).map_err(|e| fail::io("images.ingest", "make it", &path, e))?;
        Ok(Stager {
            path,
            file: Some(file),
            hasher: Hasher::default(),
            size: 0,
            claim: None,
        })
    }

    /// A file for a blob that is fetched, with what an earlier pull fetched of it; that is hashed
    /// again. It is kept when it is dropped before its end, so that the next pull goes on there.
    /// While another pull has that file (from another registry), it is an ordinary one.
    pub(crate) fn resume(&self, wanted: &Descriptor) -> Result<Stager> {
        if !lock(&self.claims).insert(wanted.digest) {
            return self.stager();
        }
        let claim = Claim {
            digest: wanted.digest,
            all: Arc::clone(&self.claims),
        };
        let path = self.partial.join(wanted.digest.hex());
        let failed = |e| fail::io("images.ingest", "take it up again", &path, e);
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed)?;
        // What is longer cannot be the start of it.
        if file.metadata().map_err(failed)?.len() > wanted.size {
            file.set_len(0).map_err(failed)?;
        }
        let mut hasher = Hasher::default();
        let mut size = 0;
        let mut buffer = vec![0; 256 * 1024];
        loop {
            match file.read(&mut buffer).map_err(failed)? {
                0 => break,
                n => {
                    hasher.update(&buffer[..n]);
                    size += n as u64;
                }
            }
        }
        Ok(Stager {
            path,
            file: Some(file),
            hasher,
            size,
            claim: Some(claim),
        })
    }

    /// What broken-off pulls left, with its size and age. A file from the future is new.
    pub(crate) fn partial(&self) -> Result<Vec<(Digest, u64, Duration)>> {
        let failed = |e| fail::io("images.list", "list it", &self.partial, e);
        let now = SystemTime::now();
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.partial).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let digest = entry.file_name().to_str().and_then(Digest::from_hex);
            if let (Some(digest), Ok(meta)) = (digest, entry.metadata()) {
                let changed = meta.modified().unwrap_or(now);
                let age = now.duration_since(changed).unwrap_or_default();
                all.push((digest, meta.len(), age));
            }
        }
        Ok(all)
    }

    pub(crate) fn remove_partial(&self, digest: &Digest) -> Result<()> {
        remove(&self.partial.join(digest.hex()))
    }

    /// Makes staged content a blob: flushed first, then given its name, which
    /// [`Blobs::keep_names`] makes durable.
    pub(crate) fn adopt(&self, staged: Staged) -> Result<()> {
        let to = self.path(&staged.digest);
        let failed = |e: io::Error| fail::io("images.ingest", "keep it", &to, e);
        if let Some(file) = &staged.file {
            file.sync_all().map_err(failed)?;
        }
        fs::rename(&staged.path, &to).map_err(failed)
    }

    /// Makes the names of all blobs durable; to be done before a reference names one.
    pub(crate) fn keep_names(&self) -> Result<()> {
        sync_dir(&self.dir)
    }

    /// Every blob and its size.
    pub(crate) fn list(&self) -> Result<Vec<(Digest, u64)>> {
        let failed = |e| fail::io("images.list", "list it", &self.dir, e);
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let digest = entry.file_name().to_str().and_then(Digest::from_hex);
            if let (Some(digest), Ok(meta)) = (digest, entry.metadata()) {
                all.push((digest, meta.len()));
            }
        }
        Ok(all)
    }

    pub(crate) fn remove(&self, digest: &Digest) -> Result<()> {
        remove(&self.path(digest))
    }
}

/// Removes a file that may have gone.
fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(fail::io("images.collect", "remove it", path, e))
        }
        _ => Ok(()),
    }
}

/// A file that is being written; deleted if it is not finished, unless it is to be taken up again.
#[derive(Debug)]
pub(crate) struct Stager {
    path: PathBuf,
    file: Option<File>,
    hasher: Hasher,
    size: u64,
    /// With one it is taken up again.
    claim: Option<Claim>,
}

impl Stager {
    /// Something failed on this file; `what` completes "cannot ...".
    pub(crate) fn failed(&self, what: &str, cause: io::Error) -> Error {
        fail::io("images.ingest", what, &self.path, cause)
    }

    /// Bytes that are there.
    pub(crate) const fn size(&self) -> u64 {
        self.size
    }

    /// For who reads what is written, as it comes.
    pub(crate) fn along(&self) -> Result<(Growing, Along)> {
        let failed = |e| self.failed("read it", e);
        let file = File::open(&self.path).map_err(failed)?;
        Ok(along(file, self.size))
    }

    /// Does not keep what is there for another try.
    pub(crate) fn discard(mut self) {
        self.size = 0;
    }

    pub(crate) fn finish(mut self) -> Staged {
        Staged {
            path: self.path.clone(),
            file: self.file.take(),
            digest: std::mem::take(&mut self.hasher).finish(),
            size: self.size,
            _claim: self.claim.take(),
        }
    }
}

impl Write for Stager {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let file = self.file.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        let n = file.write(buf)?;
        self.hasher.update(&buf[..n]);
        self.size += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Stager {
    fn drop(&mut self) {
        if self.file.is_some() && !(self.claim.is_some() && self.size > 0) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// A temporary file with known content; deleted if it does not become a blob.
#[derive(Debug)]
pub(crate) struct Staged {
    path: PathBuf,
    file: Option<File>,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    /// Until it has its name.
    _claim: Option<Claim>,
}

impl Staged {
    /// Reads it from the start.
    pub(crate) fn reader(&self) -> Result<File> {
        File::open(&self.path).map_err(|e| fail::io("images.ingest", "read it", &self.path, e))
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // After adoption there is nothing of this name.
        let _ = fs::remove_file(&self.path);
    }
}

/// Checks bytes that were read from somewhere.
pub(crate) fn check_bytes(bytes: &[u8], digest: &Digest) -> Result<()> {
    let found = Digest::of(bytes);
    if found == *digest {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Corrupt,
        "images.read",
        format!("the content of {digest} has the digest {found}"),
    )
    .hint("import or pull the image again"))
}

/// Reads a manifest or configuration of unknown origin within its bound.
pub(super) fn read_small(reader: &mut dyn Read, what: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader
        .take(MAX_JSON + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| {
            Error::new(
                ErrorKind::Internal,
                "images.read",
                format!("cannot read {what}: {e}"),
            )
            .because(e)
        })?;
    if bytes.len() as u64 > MAX_JSON {
        return Err(Error::new(
            ErrorKind::Invalid,
            "images.read",
            format!("{what} is larger than {MAX_JSON} bytes"),
        ));
    }
    Ok(bytes)
}

/// Replaces a file as one act that survives a crash.
pub(crate) fn write_atomically(path: &Path, tmp: &Path, bytes: &[u8]) -> Result<()> {
    let staged = tmp.join(uuid::Uuid::new_v4().simple().to_string());
    let failed = |e: io::Error| fail::io("images.write", "write it", path, e);
    let write = || {
        let mut file = File::create_new(&staged)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&staged, path)
    };
    write().map_err(|e| {
        let _ = fs::remove_file(&staged);
        failed(e)
    })?;
    path.parent().map_or(Ok(()), sync_dir)
}

/// Makes the names in a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(|e| fail::io("images.write", "flush it", dir, e))
}
