//! From a tree of objects to files, and a `.git` directory beside them that git understands.
//!
//! Every name is made below an open directory that was made a moment ago, and nothing that is there
//! is opened again, so no symbolic link of the repository is ever followed here. No hooks, filters
//! or attributes are applied; submodules become empty directories, as `git clone` leaves them.

use std::fs;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use aci_core::error::{Error, ErrorKind, Result};
use gix_hash::{Kind as Hash, ObjectId};
use gix_object::tree::EntryKind;
use gix_object::{Kind, TreeRefIter};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use super::GitLimits;
use super::fetch::{Fetched, Objects};
use super::plan::{Head, Plan, component};
use super::web::{Stop, failed};
use crate::fail;

/// Directories within directories; git's own paths are shorter than 4,096 bytes.
const MAX_DEPTH: usize = 128;
/// What a symbolic link may hold (PATH_MAX).
const MAX_LINK: usize = 4095;

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// What was written.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Written {
    pub(super) files: u64,
    pub(super) bytes: u64,
}

struct Writer<'a> {
    objects: &'a Objects,
    limits: &'a GitLimits,
    stop: &'a Stop,
    written: Written,
}

fn too(what: &str) -> Error {
    failed(
        ErrorKind::Invalid,
        format!("the repository has {what} than are allowed"),
    )
    .hint("GitLimits bounds what a copy may become")
}

fn bad(name: &[u8], why: &str) -> Error {
    let name = name.escape_ascii();
    failed(
        ErrorKind::Invalid,
        format!("the repository has the name '{name}', {why}"),
    )
}

/// Writes the files of a commit into a directory that is empty.
pub(super) fn files(
    fetched: &Fetched,
    into: &Path,
    limits: &GitLimits,
    stop: &Stop,
) -> Result<Written> {
    let directory = rustix::fs::openat(CWD, into, DIRECTORY, Mode::empty())
        .map_err(|e| fail::io("volumes.provide", "open it", into, e))?;
    let mut writer = Writer {
        objects: &fetched.objects,
        limits,
        stop,
        written: Written::default(),
    };
    writer.tree(&directory, fetched.tree, 0)?;
    Ok(writer.written)
}

impl Writer<'_> {
    fn tree(&mut self, at: &OwnedFd, id: ObjectId, depth: usize) -> Result<()> {
        if depth > MAX_DEPTH {
            return Err(too("more directories within directories"));
        }
        let mut data = Vec::new();
        if self.objects.read(&id, &mut data)? != Kind::Tree {
            return Err(failed(
                ErrorKind::Corrupt,
                format!("the object {id} is no directory"),
            ));
        }
        for entry in TreeRefIter::from_bytes(&data, Hash::Sha1) {
            if self.stop.is_set() {
                return Err(failed(ErrorKind::Cancelled, "the copy was given up"));
            }
            let entry = entry.map_err(|_| {
                failed(
                    ErrorKind::Corrupt,
                    format!("the directory {id} cannot be read"),
                )
            })?;
            let name: &[u8] = entry.filename;
            component(name).map_err(|()| bad(name, "which leads elsewhere or is git's own"))?;
            self.written.files += 1;
            if self.written.files > self.limits.files {
                return Err(too("more files and directories"));
            }
            let made = match entry.mode.kind() {
                EntryKind::Tree => {
                    let child = directory(at, name).map_err(|e| unmade(name, e))?;
                    self.tree(&child, entry.oid.to_owned(), depth + 1)?;
                    Ok(())
                }
                EntryKind::Commit => directory(at, name).map(drop),
                EntryKind::Blob => self.file(at, name, entry.oid, 0o644)?,
                EntryKind::BlobExecutable => self.file(at, name, entry.oid, 0o755)?,
                EntryKind::Link => {
                    let target = self.blob(entry.oid)?;
                    if target.is_empty() || target.len() > MAX_LINK || target.contains(&0) {
                        return Err(bad(name, "a symbolic link that cannot be"));
                    }
                    rustix::fs::symlinkat(target.as_slice(), at, name)
                }
            };
            made.map_err(|e| unmade(name, e))?;
        }
        Ok(())
    }

    fn blob(&mut self, id: &gix_hash::oid) -> Result<Vec<u8>> {
        let mut data = Vec::new();
        if self.objects.read(id, &mut data)? != Kind::Blob {
            return Err(failed(
                ErrorKind::Corrupt,
                format!("the object {id} is no file"),
            ));
        }
        self.written.bytes += data.len() as u64;
        if data.len() as u64 > self.limits.file || self.written.bytes > self.limits.bytes {
            return Err(too("more or larger files"));
        }
        Ok(data)
    }

    fn file(
        &mut self,
        at: &OwnedFd,
        name: &[u8],
        id: &gix_hash::oid,
        mode: u32,
    ) -> Result<Result<(), Errno>> {
        let data = self.blob(id)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let mode = Mode::from_raw_mode(mode);
        let written = || {
            let open = rustix::fs::openat(at, name, flags | OFlags::CLOEXEC, mode)?;
            // Whatever this program's umask is.
            rustix::fs::fchmod(&open, mode)?;
            fs::File::from(open)
                .write_all(&data)
                .map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))
        };
        Ok(written())
    }
}

fn directory(at: &OwnedFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    let mode = Mode::from_raw_mode(0o755);
    rustix::fs::mkdirat(at, name, mode)?;
    let made = rustix::fs::openat(at, name, DIRECTORY, Mode::empty())?;
    rustix::fs::fchmod(&made, mode)?;
    Ok(made)
}

fn unmade(name: &[u8], errno: Errno) -> Error {
    match errno {
        Errno::EXIST => bad(name, "twice in one directory"),
        Errno::NAMETOOLONG | Errno::ILSEQ | Errno::INVAL => bad(name, "which cannot be here"),
        errno => {
            let error = std::io::Error::from(errno);
            let kind = match errno {
                Errno::NOSPC | Errno::DQUOT => ErrorKind::Exhausted,
                _ => ErrorKind::Internal,
            };
            let name = name.escape_ascii();
            failed(kind, format!("cannot write '{name}': {error}"))
        }
    }
}

/// Makes an empty `.git` for the objects to go into.
pub(super) fn skeleton(git: &Path) -> Result<()> {
    for part in ["objects/pack", "objects/info", "refs/heads", "refs/tags"] {
        let path = git.join(part);
        fs::create_dir_all(&path).map_err(|e| fail::io("volumes.provide", "make it", &path, e))?;
    }
    Ok(())
}

/// Completes `.git`: where the copy comes from (without a password), where it stands, and what is
/// checked out. Nothing in it runs anything.
pub(super) fn finish(git: &Path, plan: &Plan, fetched: &Fetched) -> Result<()> {
    let put = |name: &str, text: String| {
        let path = git.join(name);
        let made = path.parent().map_or(Ok(()), fs::create_dir_all);
        made.and_then(|()| fs::write(&path, text))
            .map_err(|e| fail::io("volumes.provide", "write it", &path, e))
    };
    let commit = fetched.commit;
    let url = plan.url.replace('\\', "\\\\").replace('"', "\\\"");
    put(
        "config",
        format!(
            "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n\
             [remote \"origin\"]\n\turl = \"{url}\"\n\tfetch = +refs/heads/*:refs/remotes/origin/*\n"
        ),
    )?;
    match &fetched.head {
        Head::Branch(name) => {
            put("HEAD", format!("ref: refs/heads/{name}\n"))?;
            put(&format!("refs/heads/{name}"), format!("{commit}\n"))?;
            put(
                &format!("refs/remotes/origin/{name}"),
                format!("{commit}\n"),
            )?;
        }
        Head::Detached => put("HEAD", format!("{commit}\n"))?,
    }
    let options = gix_validate::path::component::Options {
        protect_windows: false,
        protect_hfs: true,
        protect_ntfs: true,
    };
    let index =
        gix_index::State::from_tree(&fetched.tree, &fetched.objects, options).and_then(|state| {
            let mut file = gix_index::File::from_state(state, git.join("index"));
            file.write(gix_index::write::Options::default())
        });
    index.map_err(|_| failed(ErrorKind::Corrupt, "the list of its files cannot be made"))?;
    readable(git)
}

/// Containers of the group may run as any user.
fn readable(directory: &Path) -> Result<()> {
    let failed = |e| fail::io("volumes.provide", "open it to readers", directory, e);
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).map_err(failed)?;
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_type().map_err(failed)?.is_dir() {
            readable(&entry.path())?;
        } else {
            let mode = fs::Permissions::from_mode(0o644);
            fs::set_permissions(entry.path(), mode).map_err(failed)?;
        }
    }
    Ok(())
}
