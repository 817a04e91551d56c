//! Tests of the layer applier.

/// Runs tests with both kinds of target.
macro_rules! both {
    ($($name:ident),* $(,)?) => {
        mod directory {
            $(#[test] fn $name() { super::$name(super::Format::Directory); })*
        }
        mod erofs {
            $(#[test] fn $name() {
                if super::Format::Image.is_usable() {
                    super::$name(super::Format::Image);
                }
            })*
        }
    };
}

mod hostile;
mod image;
mod kept;
mod model;

use std::cell::OnceCell;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use aci_core::error::Result;

use super::*;
use crate::image::Digest;

/// Writes archives, wrong ones too.
#[derive(Clone, Debug, Default)]
pub(super) struct Archive(Vec<u8>);

impl Archive {
    pub(super) fn new() -> Self {
        Self::default()
    }

    pub(super) fn file(self, name: impl AsRef<[u8]>, content: &[u8]) -> Self {
        self.entry(b'0', name, "", 0o644, content)
    }

    pub(super) fn dir(self, name: impl AsRef<[u8]>, mode: u32) -> Self {
        self.entry(b'5', name, "", mode, b"")
    }

    pub(super) fn symlink(self, name: impl AsRef<[u8]>, target: &str) -> Self {
        self.entry(b'2', name, target, 0o777, b"")
    }

    pub(super) fn hard_link(self, name: impl AsRef<[u8]>, target: &str) -> Self {
        self.entry(b'1', name, target, 0o644, b"")
    }

    /// A ustar header as it comes, and content.
    pub(super) fn entry(
        mut self,
        kind: u8,
        name: impl AsRef<[u8]>,
        link: &str,
        mode: u32,
        content: &[u8],
    ) -> Self {
        let name = name.as_ref();
        if name.len() > 100 || link.len() > 100 {
            if link.len() > 100 {
                self = self.entry(b'K', "././@LongLink", "", 0, link.as_bytes());
            }
            if name.len() > 100 {
                self = self.entry(b'L', "././@LongLink", "", 0, name);
            }
        }
        self.header(kind, name, link, mode, content.len() as u64);
        self.0.extend_from_slice(content);
        self.pad()
    }

    fn pad(mut self) -> Self {
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn header(&mut self, kind: u8, name: &[u8], link: &str, mode: u32, size: u64) {
        let mut header = ::tar::Header::new_ustar();
        let cut = |text: &[u8]| text[..text.len().min(100)].to_vec();
        let (name, link) = (cut(name), cut(link.as_bytes()));
        let old = header.as_old_mut();
        old.name[..name.len()].copy_from_slice(&name);
        old.linkname[..link.len()].copy_from_slice(&link);
        header.set_entry_type(::tar::EntryType::new(kind));
        header.set_mode(mode);
        header.set_size(size);
        header.set_mtime(1_000_000);
        header.set_uid(0);
        header.set_gid(0);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
    }

    /// Pax records for the next entry.
    pub(super) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut body = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length != rest + length.to_string().len() {
                length = rest + length.to_string().len();
            }
            write!(body, "{length} {key}=").unwrap();
            body.extend_from_slice(value);
            body.push(b'\n');
        }
        self.entry(b'x', "pax", "", 0o644, &body)
    }

    /// With the end mark.
    pub(super) fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

/// What a layer is unpacked into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Directory,
    Image,
}

impl Format {
    /// Whether the result can be looked at here; tells why if not.
    pub(super) fn is_usable(self) -> bool {
        match self {
            Self::Directory => true,
            Self::Image => probe_erofs(&std::env::temp_dir())
                .inspect_err(|why| eprintln!("SKIPPED: {why}"))
                .is_ok(),
        }
    }
}

/// A place to unpack into, with a neighbour that must stay as it is.
pub(super) struct Ground {
    pub(super) dir: tempfile::TempDir,
    pub(super) format: Format,
    mounted: OnceCell<OwnedFd>,
}

impl Ground {
    pub(super) fn new(format: Format) -> Self {
        let dir = tempfile::tempdir().unwrap();
        if format == Format::Directory {
            std::fs::create_dir(dir.path().join("fs")).unwrap();
        }
        std::fs::create_dir(dir.path().join("outside")).unwrap();
        std::fs::write(dir.path().join("outside/kept"), "untouched").unwrap();
        Self {
            dir,
            format,
            mounted: OnceCell::new(),
        }
    }

    /// The unpacked tree.
    pub(super) fn fs(&self) -> PathBuf {
        match self.format {
            Format::Directory => self.dir.path().join("fs"),
            Format::Image => {
                let fd = self
                    .mounted
                    .get_or_init(|| erofs::mount(&File::open(self.image()).unwrap()).unwrap());
                // With the dot it is no symbolic link.
                PathBuf::from(format!("/proc/self/fd/{}/.", fd.as_raw_fd()))
            }
        }
    }

    pub(super) fn image(&self) -> PathBuf {
        self.dir.path().join("layer.erofs")
    }

    pub(super) fn outside(&self) -> String {
        self.dir.path().join("outside").display().to_string()
    }

    pub(super) fn form(&self) -> Form {
        match self.format {
            Format::Directory => Form::probe(self.dir.path()).unwrap(),
            Format::Image => Form {
                owners: true,
                trusted: true,
            },
        }
    }

    pub(super) fn unpack_with(
        &self,
        blob: &[u8],
        diff_id: &Digest,
        limits: &UnpackLimits,
    ) -> Result<Unpacked> {
        let path = self.dir.path().join("blob");
        std::fs::write(&path, blob).unwrap();
        let file = File::open(&path).unwrap();
        let (fs, scratch) = (self.dir.path().join("fs"), self.dir.path().join("scratch"));
        let image = self.image();
        let to = match self.format {
            Format::Directory => Destination::Directory {
                dir: &fs,
                scratch: &scratch,
                form: self.form(),
            },
            Format::Image => Destination::Image(&image),
        };
        let result = unpack(file, diff_id, to, limits, &mut |_| {});
        let outside = Path::new(&self.outside()).to_owned();
        let names: Vec<_> = std::fs::read_dir(&outside)
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(names, ["kept"]);
        assert_eq!(std::fs::read(outside.join("kept")).unwrap(), b"untouched");
        if self.format == Format::Image && result.is_ok() {
            image::check(&image);
        }
        result
    }

    pub(super) fn unpack(&self, archive: Archive) -> Result<Unpacked> {
        let bytes = archive.end();
        self.unpack_with(&bytes, &Digest::of(&bytes), &UnpackLimits::default())
    }
}

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}
