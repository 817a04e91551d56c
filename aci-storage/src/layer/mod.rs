//! Layers: archives that become directory trees, without trusting them.
//!
//! # How a layer is applied
//!
//! Each layer is unpacked into a directory of its own, which overlayfs later stacks; a layer is
//! unpacked once however many images share it. So paths are resolved **within the layer alone**:
//! a symbolic link that the same layer brought is followed as if the layer's directory were `/`
//! (`lib -> usr/lib`, then `lib/x`, gives `usr/lib/x`), and it can lead nowhere else: the kernel resolves it
//! below a descriptor that is held (`openat2` with `RESOLVE_IN_ROOT`), and where directories are
//! still to be made, a walk opens one name at a time and follows nothing by itself. A parent
//! directory that the layer does not mention is made with mode 0755, which hides the mode that a
//! lower layer gave it. Where an image's author wrote `lib/x` over a lower layer's
//! `lib -> usr/lib`, the new `lib` is a directory that hides the link. Docker's and Podman's
//! overlay drivers give the same results.
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
//! it, attributes of overlayfs, sparse files, more than the [`UnpackLimits`] allow, broken headers.
//! Skipped and counted: device nodes (a container gets its own `/dev`), attributes other than
//! `user.*` and `security.capability`. Kept: set-user-id bits, owners and file capabilities where
//! this program may set them, times, hard links, FIFOs, names as bytes. Of entries of one name the
//! last wins.

mod apply;
mod fault;
mod limits;
mod parents;
mod tar;
#[cfg(test)]
mod tests;

pub use apply::Unpacked;
pub use limits::UnpackLimits;

pub(crate) use fault::Fault;
pub(crate) use tar::{Kind, TarReader};

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use aci_core::error::{Error, Result};

use crate::image::Digest;
use crate::image::Hashing;
use limits::{Budget, Metered};

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
        let value = rustix::fs::fsetxattr(&fd, apply::OPAQUE_TRUSTED, b"y", XattrFlags::empty());
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
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
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
        Compression::Zstd => {
            return Err(Fault::Refused(
                "it is compressed with zstd, which this version does not read; build the image \
                 with gzip layers"
                    .to_owned(),
            ));
        }
    })
}

/// Unpacks a layer's blob into the empty directory `dir` and checks that the archive has the
/// digest `diff_id` (OCI image specification, "Layer DiffID").
///
/// `scratch` is a directory on the same file system for what later entries replace. On an error
/// `dir` holds a part and is to be deleted.
pub(crate) fn unpack(
    blob: File,
    diff_id: &Digest,
    dir: &Path,
    scratch: &Path,
    form: Form,
    limits: &UnpackLimits,
    heard: &mut dyn FnMut(u64),
) -> Result<Unpacked> {
    unpack_checked(blob, diff_id, dir, scratch, form, limits, heard).map_err(|fault| {
        metrics::counter!("aci_storage_layers_refused_total").increment(1);
        let error: Error = fault.into_error("layer.unpack");
        error.on(diff_id)
    })
}

fn unpack_checked(
    blob: File,
    diff_id: &Digest,
    dir: &Path,
    scratch: &Path,
    form: Form,
    limits: &UnpackLimits,
    heard: &mut dyn FnMut(u64),
) -> Result<Unpacked, Fault> {
    let budget = Budget::new(limits);
    let stream = decompress(budget.compressed(blob))?;
    let metered = Metered::new(Hashing::new(stream), budget, heard);
    let mut archive = TarReader::new(BufReader::with_capacity(128 * 1024, metered), limits);
    let mut applier = apply::Applier::new(dir, scratch, form, limits)?;
    while let Some(entry) = archive.next_entry()? {
        applier.apply(&entry, &mut archive)?;
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
