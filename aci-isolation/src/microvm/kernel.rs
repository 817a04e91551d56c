//! Kernels: finding those that the distribution has packaged, and unpacking them.
//!
//! A distribution ships a `bzImage`, a small program that unpacks the kernel behind it (the kernel's
//! `Documentation/arch/x86/boot.rst`). Started so, the guest unpacks itself, which takes 12 seconds
//! under emulation. Here the kernel proper, an ELF file with a PVH entry, is taken out once on the
//! host instead.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use aci_core::error::{Error, ErrorKind, Result};

/// The largest kernel that is read, packed or unpacked, in bytes.
const MAX: usize = 256 << 20;

/// What unpacking xz may use, in KiB; kernels are packed with dictionaries of up to 128 MiB.
const XZ_KIB: u32 = 256 << 10;

const OPERATION: &str = "microvm.kernel";

/// A kernel and the directory of its modules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// A `bzImage`, or an ELF file with a PVH entry.
    pub image: PathBuf,
    /// What is usually `/lib/modules/<release>`.
    pub modules: PathBuf,
}

impl Kernel {
    /// Looks for a packaged kernel for virtual machines below a root directory (`/` on most
    /// hosts): Debian's `-cloud-` flavour first, then any other, the highest release first.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] naming the package to install.
    pub fn find(root: &Path) -> Result<Self> {
        let boot = root.join("boot");
        let names = fs::read_dir(&boot).into_iter().flatten().flatten();
        let mut found: Vec<(bool, Vec<u64>, String)> = names
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter_map(|name| Some(name.strip_prefix("vmlinuz-")?.to_owned()))
            .map(|release| (release.contains("cloud"), numbers(&release), release))
            .collect();
        found.sort();
        for (_, _, release) in found.into_iter().rev() {
            for modules in ["lib/modules", "usr/lib/modules"] {
                let modules = root.join(modules).join(&release);
                if modules.join("kernel").is_dir() {
                    return Ok(Self {
                        image: boot.join(format!("vmlinuz-{release}")),
                        modules,
                    });
                }
            }
        }
        Err(Error::new(
            ErrorKind::NotFound,
            OPERATION,
            format!(
                "there is no kernel for virtual machines below {}",
                root.display()
            ),
        )
        .hint(
            "install the package linux-image-cloud-amd64 (Debian), or name a kernel by \
             MicroVmOptions::kernel",
        ))
    }

    /// The kernel proper, an ELF file. Blocks.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if the file is not there; [`ErrorKind::Unsupported`] if it is no
    /// kernel, or packed in a way that is not known.
    pub fn unpacked(&self) -> Result<Vec<u8>> {
        let fail = |kind, what: String| Error::new(kind, OPERATION, what).on(self.image.display());
        let mut bytes = Vec::new();
        fs::File::open(&self.image)
            .and_then(|file| file.take(MAX as u64 + 1).read_to_end(&mut bytes))
            .map_err(|error| {
                fail(ErrorKind::NotFound, "reading the kernel".to_owned()).because(error)
            })?;
        if bytes.len() > MAX {
            return Err(fail(
                ErrorKind::Unsupported,
                "the kernel is larger than 256 MiB".to_owned(),
            ));
        }
        unpack(bytes).map_err(|why| fail(ErrorKind::Unsupported, why))
    }
}

/// The numbers in a release, to compare releases by.
fn numbers(release: &str) -> Vec<u64> {
    release
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|part| part.parse().ok())
        .collect()
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

const ELF: &[u8] = b"\x7fELF";

/// The ELF file in a `bzImage`; an ELF file is given back as it is. The error is a sentence.
pub(crate) fn unpack(bytes: Vec<u8>) -> std::result::Result<Vec<u8>, String> {
    if bytes.starts_with(ELF) {
        return Ok(bytes);
    }
    // boot.rst, "The Real-Mode Kernel Header".
    if bytes.get(0x202..0x206) != Some(b"HdrS") {
        return Err("it is neither a bzImage nor an ELF file".to_owned());
    }
    let version = bytes
        .get(0x206..0x208)
        .map_or(0, |v| u16::from_le_bytes([v[0], v[1]]));
    if version < 0x208 {
        return Err(format!(
            "its boot protocol {}.{:02} is older than 2.08, which tells where the kernel is",
            version >> 8,
            version & 0xff
        ));
    }
    let setup = match bytes.get(0x1f1) {
        Some(0) | None => 4,
        Some(sectors) => usize::from(*sectors),
    };
    let find = || {
        let offset = usize::try_from(word(&bytes, 0x248)?).ok()?;
        let length = usize::try_from(word(&bytes, 0x24c)?).ok()?;
        let start = ((setup + 1) * 512).checked_add(offset)?;
        bytes.get(start..start.checked_add(length)?)
    };
    let payload = find().ok_or("its header points outside of it")?;
    // All but gzip append the unpacked size; gzip ends with it by itself.
    let size = payload
        .len()
        .checked_sub(4)
        .and_then(|at| word(payload, at))
        .and_then(|size| usize::try_from(size).ok())
        .filter(|size| *size <= MAX)
        .ok_or("it is larger than 256 MiB when unpacked")?;
    let kernel = decompress(payload, size)?;
    if !kernel.starts_with(ELF) {
        return Err("what it holds is no ELF file".to_owned());
    }
    Ok(kernel)
}

/// Unpacks by the format that the first bytes tell, to at most `size` bytes.
pub(crate) fn decompress(payload: &[u8], size: usize) -> std::result::Result<Vec<u8>, String> {
    let take = |reader: &mut dyn Read| -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        reader.take(size as u64).read_to_end(&mut out)?;
        Ok(out)
    };
    let outcome = match payload {
        [0x1f, 0x8b, ..] => take(&mut flate2::read::GzDecoder::new(payload)),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => take(&mut lzma_rust2::XzReader::new_mem_limit(
            payload, false, XZ_KIB,
        )),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => ruzstd::decoding::StreamingDecoder::new(payload)
            .map_err(io::Error::other)
            .and_then(|mut reader| take(&mut reader)),
        [0x02, 0x21, 0x4c, 0x18, rest @ ..] => lz4_blocks(rest, size),
        [b'B', b'Z', b'h', ..] => return Err("it is packed by bzip2, which is not read".to_owned()),
        [0x89, b'L', b'Z', b'O', ..] => {
            return Err("it is packed by lzo, which is not read".to_owned());
        }
        _ => return Err("it is packed in an unknown way".to_owned()),
    };
    outcome.map_err(|error| format!("it cannot be unpacked: {error}"))
}

/// The legacy frames of `lz4 -l`: blocks of 8 MiB, each behind its packed length.
fn lz4_blocks(mut rest: &[u8], size: usize) -> io::Result<Vec<u8>> {
    const BLOCK: usize = 8 << 20;
    let mut out = Vec::new();
    while out.len() < size {
        let (Some(length), true) = (word(rest, 0), rest.len() >= 4) else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let block = rest[4..]
            .get(..length)
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        let room = BLOCK.min(size - out.len());
        let start = out.len();
        out.resize(start + room, 0);
        let count =
            lz4_flex::block::decompress_into(block, &mut out[start..]).map_err(io::Error::other)?;
        if count == 0 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        out.truncate(start + count);
        rest = &rest[4 + length..];
    }
    Ok(out)
}
