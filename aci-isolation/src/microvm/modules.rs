//! Which modules of a kernel a guest needs, in the order in which they are loaded.
//!
//! What a module depends on is read from the module itself (its section `.modinfo`), not from
//! `modules.dep`: that file is made when a kernel package is installed, and a kernel need not be
//! installed to be used here.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use aci_core::error::{Error, ErrorKind, Result};

use super::kernel::decompress;

const OPERATION: &str = "microvm.modules";
/// The largest module that is read, in bytes.
const MAX: usize = 64 << 20;
/// Deeper directories are not looked into.
const DEPTH: u32 = 12;

/// A module to load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Module {
    pub(crate) name: String,
    /// An ELF file, unpacked.
    pub(crate) bytes: Vec<u8>,
}

/// Names are compared as the kernel does: `-` and `_` are the same.
fn plain(name: &str) -> String {
    name.replace('-', "_")
}

/// The name of a module's file.
fn name_of(file: &str) -> Option<String> {
    let stem = [".ko", ".ko.xz", ".ko.zst", ".ko.gz"]
        .iter()
        .find_map(|end| file.strip_suffix(end))?;
    Some(plain(stem))
}

/// All modules below a directory, by name.
fn files(directory: &Path, depth: u32, out: &mut BTreeMap<String, PathBuf>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        if kind.is_dir() && depth > 0 {
            files(&entry.path(), depth - 1, out);
        } else if let Some(name) = entry.file_name().to_str().and_then(name_of) {
            out.insert(name, entry.path());
        }
    }
}

/// What the kernel has built in (`modules.builtin`: one path a line).
fn builtin(text: &str) -> BTreeSet<String> {
    text.lines()
        .filter_map(|line| name_of(line.rsplit('/').next()?))
        .collect()
}

/// The wanted modules and what they depend on, each after what it depends on. Blocks.
///
/// # Errors
/// `Unsupported` naming a module that the kernel does not have.
pub(crate) fn collect(directory: &Path, wanted: &[&str]) -> Result<Vec<Module>> {
    let mut all = BTreeMap::new();
    files(&directory.join("kernel"), DEPTH, &mut all);
    let text = fs::read_to_string(directory.join("modules.builtin")).unwrap_or_default();
    let mut done = builtin(&text);
    let mut out = Vec::new();
    for name in wanted {
        add(&plain(name), directory, &all, &mut done, &mut out)?;
    }
    Ok(out)
}

fn add(
    name: &str,
    directory: &Path,
    all: &BTreeMap<String, PathBuf>,
    done: &mut BTreeSet<String>,
    out: &mut Vec<Module>,
) -> Result<()> {
    if !done.insert(name.to_owned()) {
        return Ok(());
    }
    let fail = |what: String| Error::new(ErrorKind::Unsupported, OPERATION, what);
    let path = all.get(name).ok_or_else(|| {
        fail(format!(
            "the kernel has no module '{name}', which guests need, in {}",
            directory.display()
        ))
        .hint(
            "use a kernel that has it (Debian: linux-image-cloud-amd64), with the directory of \
             its modules",
        )
    })?;
    let broken = |why: String| fail(format!("the module {}: {why}", path.display()));
    let bytes = fs::read(path).map_err(|error| broken(error.to_string()))?;
    let bytes = if bytes.starts_with(b"\x7fELF") {
        bytes
    } else {
        decompress(&bytes, MAX).map_err(broken)?
    };
    let needs = depends(&bytes).ok_or_else(|| broken("it is no module for 64 bits".to_owned()))?;
    for need in needs {
        add(&need, directory, all, done, out)?;
    }
    out.push(Module {
        name: name.to_owned(),
        bytes,
    });
    Ok(())
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<usize> {
    let bytes = bytes.get(at..at.checked_add(N)?)?;
    let mut wide = [0; 8];
    wide.get_mut(..N)?.copy_from_slice(bytes);
    usize::try_from(u64::from_le_bytes(wide)).ok()
}

/// The names in `depends=` of an ELF file's section `.modinfo` (elf(5)).
pub(crate) fn depends(elf: &[u8]) -> Option<Vec<String>> {
    // 64 bits, little endian.
    if !elf.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let table = number::<8>(elf, 0x28)?;
    let size = number::<2>(elf, 0x3a)?;
    let count = number::<2>(elf, 0x3c)?;
    let names = number::<2>(elf, 0x3e)?;
    let header = |index: usize| {
        let at = table.checked_add(index.checked_mul(size)?)?;
        elf.get(at..at.checked_add(0x40)?)
    };
    let content = |header: &[u8]| {
        let at = number::<8>(header, 0x18)?;
        elf.get(at..at.checked_add(number::<8>(header, 0x20)?)?)
    };
    let names = content(header(names)?)?;
    for index in 0..count {
        let section = header(index)?;
        let name = names.get(number::<4>(section, 0)?..)?;
        if !name.starts_with(b".modinfo\0") {
            continue;
        }
        let found = content(section)?
            .split(|byte| *byte == 0)
            .find_map(|entry| entry.strip_prefix(b"depends="))
            .unwrap_or_default();
        return Some(
            String::from_utf8_lossy(found)
                .split(',')
                .filter(|name| !name.is_empty())
                .map(plain)
                .collect(),
        );
    }
    None
}
