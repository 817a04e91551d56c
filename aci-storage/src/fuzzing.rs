//! What the fuzz targets in `fuzz/` run, as functions, so that tests can run them too.
//!
//! Not part of the interface: it changes without notice.

use std::io::{Read as _, Seek as _, Write as _};

use aci_core::error::ErrorKind;

use crate::image::{ConfigFile, Digest, Document, Platform, Reference};
use crate::layer::{Destination, Form, UnpackLimits, decompress, unpack};

/// Bytes that a layer may grow to here.
const MOST: u64 = 8 << 20;

/// Unpacks bytes as a layer into a directory and into an EROFS image. Both must agree on whether
/// they are one, and on what was in it; nothing may be written elsewhere.
///
/// # Panics
/// If they do not, or something else is wrong.
pub fn layer(bytes: &[u8]) {
    let limits = UnpackLimits {
        entries: 2000,
        bytes: MOST,
        ..UnpackLimits::default()
    };
    // The digest is known to whoever makes a layer, so it is to be no hurdle here.
    let mut plain = Vec::new();
    let whole = decompress(bytes)
        .map(|reader| reader.take(MOST + 1).read_to_end(&mut plain).is_ok())
        .unwrap_or(false);
    let digest = Digest::of(&plain);
    let Ok(dir) = tempdir() else { return };
    let (tree, scratch, image) = (dir.join("tree"), dir.join("scratch"), dir.join("image"));
    let blob = || -> std::io::Result<std::fs::File> {
        let mut file = std::fs::File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(dir.join("blob"))?;
        file.write_all(bytes)?;
        file.rewind()?;
        Ok(file)
    };
    let outcome = (|| -> std::io::Result<_> {
        std::fs::create_dir(&tree)?;
        let form = Form::probe(&dir)?;
        let to = Destination::Directory {
            dir: &tree,
            scratch: &scratch,
            form,
        };
        let first = unpack(blob()?, &digest, to, &limits, &mut |_| {});
        let to = Destination::Image(&image);
        let second = unpack(blob()?, &digest, to, &limits, &mut |_| {});
        Ok((first, second))
    })();
    make_removable(&tree);
    let _ = std::fs::remove_dir_all(&dir);
    let Ok((first, second)) = outcome else { return };
    match (&first, &second) {
        (Ok(first), Ok(second)) => {
            assert!(whole, "a broken stream was taken for a layer");
            assert_eq!(first.archive_bytes, second.archive_bytes);
            assert_eq!(first.entries, second.entries);
            assert_eq!(first.file_bytes, second.file_bytes);
            assert_eq!(first.whiteouts, second.whiteouts);
            assert_eq!(first.devices_skipped, second.devices_skipped);
        }
        (Err(first), Err(second)) => {
            for error in [first, second] {
                assert!(
                    matches!(error.kind(), ErrorKind::Invalid | ErrorKind::Corrupt)
                        // Names and attributes that this file system does not take.
                        || error.kind() == ErrorKind::Internal,
                    "{error:?}"
                );
            }
        }
        // What only one of them has no room for is said so.
        (Ok(_), Err(error)) | (Err(error), Ok(_)) => {
            assert!(
                matches!(error.kind(), ErrorKind::Invalid | ErrorKind::Internal),
                "{first:?} and {second:?}"
            );
        }
    }
}

/// Reads bytes as everything that is JSON, and as the text of references.
///
/// # Panics
/// If something is wrong.
pub fn manifest(bytes: &[u8]) {
    let platform = Platform::default();
    for announced in ["", crate::image::OCI_MANIFEST, crate::image::ACCEPTED[0]] {
        match Document::parse(bytes, announced) {
            Ok(Document::Manifest(manifest)) => {
                let usable = manifest.check().is_ok();
                // What is checked has only layers that can be fetched by digest from one place.
                if usable {
                    assert!(!manifest.layers.is_empty());
                    let urls = manifest.layers.iter().filter_map(|l| l.urls.as_ref());
                    assert!(urls.into_iter().all(Vec::is_empty));
                }
                let _ = manifest.size();
            }
            Ok(Document::Index(index)) => {
                if let Ok(chosen) = index.select(&platform) {
                    assert!(index.manifests.contains(chosen));
                }
            }
            Err(_) => {}
        }
    }
    if let Ok(config) = ConfigFile::parse(bytes) {
        let _ = config.process();
        let _ = platform.runs(&config.platform());
    }
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(reference) = text.parse::<Reference>()
    {
        // The normal form stands for itself.
        let again: Result<Reference, _> = reference.to_string().parse();
        assert_eq!(again.ok().as_ref(), Some(&reference));
    }
}

fn tempdir() -> std::io::Result<std::path::PathBuf> {
    let dir = std::env::temp_dir().join(format!("aci-fuzz-{}", uuid::Uuid::new_v4().simple()));
    std::fs::create_dir(&dir)?;
    Ok(dir)
}

/// Directories without rights bar the way of an ordinary user.
fn make_removable(dir: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt as _;
    let _ = std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700));
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            make_removable(&entry.path());
        }
    }
}
