//! Layers: archives that become directory trees or EROFS images, without trusting them.
//!
//! # How a layer is applied
//!
//! Each layer is unpacked by itself, and overlayfs later stacks the results; a layer is
//! unpacked once however many images share it. So paths are resolved **within the layer alone**:
//! a symbolic link that the same layer brought is followed as if the layer's top were `/`
//! (`lib -> usr/lib`, then `lib/x`, gives `usr/lib/x`), and it can lead nowhere else. A parent
//! directory that the layer does not mention is made with mode 0755, which hides the mode that a
//! lower layer gave it. Where an image's author wrote `lib/x` over a lower layer's
//! `lib -> usr/lib`, the new `lib` is a directory that hides the link. Docker's and Podman's
//! overlay drivers give the same results.
//!
//! One set of rules decides what becomes of an entry, and writes into one of two targets:
//!
//! - **an EROFS image**, one file for each layer, written by this crate while the archive streams
//!   by, and mounted from that file without a loop device. Making a file costs a file system 10 to
//!   80 µs; here it costs a copy in memory. The same archive gives the same bytes everywhere.
//!   Nothing of it is resolved by the kernel while it is made. Mounting takes Linux 6.12 and root.
//! - **a directory tree**, for every other case. The kernel resolves names below a descriptor that
//!   is held (`openat2` with `RESOLVE_IN_ROOT`), and where directories are still to be made, a walk
//!   opens one name at a time and follows nothing by itself.
//!
//! A store tries a mount when it is opened and takes what works, unless
//! [`OciImagesOptions::layer_format`](crate::OciImagesOptions::layer_format) says otherwise;
//! [`OciImages::layer_support`](crate::OciImages::layer_support) tells which and why.
//!
//! Deletions become overlayfs' own form (Linux, `Documentation/filesystems/overlayfs.rst`):
//! `.wh.NAME` becomes a character device 0/0 called `NAME` (which any user may make since Linux
//! 5.8), and `.wh..wh..opq` sets the attribute `trusted.overlay.opaque`, or `user.overlay.opaque`
//! where this program has no `CAP_SYS_ADMIN`; overlayfs understands that one when mounted with
//! `userxattr`. Deletions concern lower layers only, whatever the order in the archive.
//!
//! # What is refused, skipped, kept
//!
//! Refused, with the whole layer: names with `..` or a NUL byte, anything but a directory for `/`,
//! a parent that is a file, hard links to what the layer does not have, to directories or out of
//! it, attributes of overlayfs, sparse files, more than the [`UnpackLimits`] allow, broken headers,
//! attributes that an EROFS image has no room for (256 KiB for one file, 2.8 KiB for `/`).
//! Skipped and counted: device nodes (a container gets its own `/dev`), attributes other than
//! `user.*` and `security.capability`. Kept: set-user-id bits, owners and file capabilities where
//! this program may set them, times, hard links, FIFOs, names as bytes. Of entries of one name the
//! last wins.

mod apply;
mod directory;
mod erofs;
mod fault;
mod limits;
mod parents;
mod tar;
mod target;
#[cfg(test)]
mod tests;
mod zstd;

pub use apply::Unpacked;
pub use limits::UnpackLimits;

pub(crate) use erofs::{probe as probe_erofs, root_owner_and_mode};
pub(crate) use fault::Fault;
pub(crate) use tar::{Kind, TarReader};

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use aci_core::error::{Error, Result};

use crate::image::Digest;
use crate::image::Hashing;
use apply::Applier;
use directory::DirectoryTree;
use erofs::ErofsTree;
use limits::{Budget, Metered};
use target::Target;

/// How a tree is written, which depends on the rights of this program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Form {
    /// Owners can be set.
    pub(crate) owners: bool,
    /// Attributes `trusted.*` can be set.
    pub(crate) trusted: bool,
}

impl Form {
    /// Finds out in a directory on the file system in question.
    pub(crate) fn probe(dir: &Path) -> std::io::Result<Self> {
        use rustix::fs::{Mode, OFlags, XattrFlags};
        let probe = dir.join("probe");
        let _ = std::fs::remove_dir(&probe);
        std::fs::create_dir(&probe)?;
        let fd = rustix::fs::open(
            &probe,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let value =
            rustix::fs::fsetxattr(&fd, directory::OPAQUE_TRUSTED, b"y", XattrFlags::empty());
        // Somebody who is not this user; its own files anybody may give to himself.
        let other = u32::from(rustix::process::geteuid().as_raw() <= 1) + 1;
        let owner = rustix::fs::fchown(
            &fd,
            Some(rustix::fs::Uid::from_raw(other)),
            Some(rustix::fs::Gid::from_raw(other)),
        );
        std::fs::remove_dir(&probe)?;
        Ok(Self {
            owners: owner.is_ok(),
            trusted: value.is_ok(),
        })
    }

    /// The name of the directory for trees of this form.
    pub(crate) const fn name(self) -> &'static str {
        match (self.owners, self.trusted) {
            (true, true) => "root",
            (true, false) => "owned",
            (false, _) => "user",
        }
    }
}

/// How a layer's archive is compressed, told by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compression {
    Plain,
    Gzip,
    Zstd,
}

impl Compression {
    const fn of(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            // Any frame, also one that is only to be skipped (RFC 8878, section 3.1).
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::Plain,
        }
    }
}

/// A reader of the archive within a blob, whatever its compression.
pub(crate) fn decompress<'a, R: Read + 'a>(reader: R) -> Result<Box<dyn Read + 'a>, Fault> {
    use std::io::BufRead as _;
    let mut reader = BufReader::with_capacity(128 * 1024, reader);
    let start = reader.fill_buf().map_err(Fault::Read)?;
    Ok(match Compression::of(start) {
        Compression::Plain => Box::new(reader),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(reader)),
        Compression::Zstd => Box::new(zstd::Decoder::new(reader)),
    })
}

/// What a layer becomes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Destination<'a> {
    /// A tree in this empty directory; `scratch` is a directory on the same file system for what
    /// later entries replace.
    Directory {
        dir: &'a Path,
        scratch: &'a Path,
        form: Form,
    },
    /// An EROFS image in this file, which must not exist.
    Image(&'a Path),
}

/// Unpacks a layer's blob and checks that the archive has the digest `diff_id` (OCI image
/// specification, "Layer DiffID"). On an error the destination holds a part and is to be deleted.
pub(crate) fn unpack(
    blob: impl Read,
    diff_id: &Digest,
    to: Destination<'_>,
    limits: &UnpackLimits,
    heard: &mut dyn FnMut(u64),
) -> Result<Unpacked> {
    let unpacked = match to {
        Destination::Directory { dir, scratch, form } => DirectoryTree::new(dir, scratch, form)
            .and_then(|tree| unpack_into(tree, blob, diff_id, limits, heard)),
        Destination::Image(path) => File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)
            .map_err(|e| Fault::Write(format!("make {}", path.display()), e))
            .and_then(|file| ErofsTree::new(file, uuid_of(diff_id), limits))
            .and_then(|tree| unpack_into(tree, blob, diff_id, limits, heard)),
    };
    unpacked.map_err(|fault| {
        if matches!(fault, Fault::Broken(_) | Fault::Refused(_)) {
            metrics::counter!("aci_storage_layers_refused_total").increment(1);
        }
        let error: Error = fault.into_error("layer.unpack");
        error.on(diff_id)
    })
}

/// The name that the file system in an image bears: of the layer, as a UUID of version 8 (RFC 9562,
/// section 5.8).
fn uuid_of(diff_id: &Digest) -> [u8; 16] {
    let start = u128::from_str_radix(&diff_id.hex()[..32], 16).unwrap_or_default();
    *uuid::Builder::from_custom_bytes(start.to_be_bytes())
        .into_uuid()
        .as_bytes()
}

fn unpack_into(
    tree: impl Target,
    blob: impl Read,
    diff_id: &Digest,
    limits: &UnpackLimits,
    heard: &mut dyn FnMut(u64),
) -> Result<Unpacked, Fault> {
    let budget = Budget::new(limits);
    let stream = decompress(budget.compressed(blob))?;
    let metered = Metered::new(Hashing::new(stream), budget, heard);
    let mut archive = TarReader::new(BufReader::with_capacity(128 * 1024, metered), limits);
    let mut applier = Applier::new(tree, limits);
    while let Some(entry) = archive.next_entry()? {
        applier.apply(entry, &mut archive)?;
    }
    // The digest covers what follows the end mark too.
    let mut rest = archive.into_inner();
    std::io::copy(&mut rest, &mut std::io::sink()).map_err(Fault::from_read)?;
    let (found, size) = rest.into_inner().into_inner().finish();
    if found != *diff_id {
        return Err(Fault::Broken(format!(
            "the unpacked archive has the digest {found}"
        )));
    }
    let mut unpacked = applier.finish()?;
    unpacked.archive_bytes = size;
    metrics::counter!("aci_storage_layers_unpacked_total").increment(1);
    metrics::counter!("aci_storage_unpacked_bytes_total").increment(size);
    Ok(unpacked)
}
