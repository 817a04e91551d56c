//! What an ELF file needs, read from its program headers; it is never run.

use object::elf::{self, FileHeader32, FileHeader64};
use object::endian::Endianness;
use object::read::StringTable;
use object::read::elf::{Dyn, FileHeader, ProgramHeader};

/// The machine a file is for: 64 bits or 32, byte order, processor.
pub(super) type Machine = (bool, bool, u16);

/// What a file needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Elf {
    pub(super) machine: Machine,
    /// The dynamic loader (`PT_INTERP`).
    pub(super) interpreter: Option<Vec<u8>>,
    /// Libraries by name (`DT_NEEDED`).
    pub(super) needed: Vec<Vec<u8>>,
    /// `DT_RPATH`, which libraries further down inherit.
    pub(super) rpath: Option<Vec<u8>>,
    /// `DT_RUNPATH`, which holds for this file alone and replaces `DT_RPATH`.
    pub(super) runpath: Option<Vec<u8>>,
}

impl Elf {
    /// Reads a file's bytes; `None` if it is no ELF file.
    pub(super) fn read(bytes: &[u8]) -> Option<Result<Self, String>> {
        if !bytes.starts_with(b"\x7fELF") {
            return None;
        }
        let result = match bytes.get(4) {
            Some(1) => read::<FileHeader32<Endianness>>(bytes),
            _ => read::<FileHeader64<Endianness>>(bytes),
        };
        Some(result.map_err(|e| e.to_string()))
    }
}

fn read<H: FileHeader<Endian = Endianness>>(bytes: &[u8]) -> object::read::Result<Elf> {
    let header = H::parse(bytes)?;
    let endian = header.endian()?;
    let machine = (
        header.is_type_64(),
        endian == Endianness::Little,
        header.e_machine(endian).0,
    );
    let mut found = Elf {
        machine,
        interpreter: None,
        needed: Vec::new(),
        rpath: None,
        runpath: None,
    };
    let segments = header.program_headers(endian, bytes)?;
    for segment in segments {
        if let Some(path) = segment.interpreter(endian, bytes)? {
            found.interpreter = Some(path.to_vec());
        }
        let Some(entries) = segment.dynamic(endian, bytes)? else {
            continue;
        };
        let value = |wanted| {
            entries
                .iter()
                .find(|entry| entry.tag(endian) == wanted)
                .map(|entry| entry.val(endian))
        };
        let (Some(address), Some(size)) = (value(elf::DT_STRTAB), value(elf::DT_STRSZ)) else {
            continue;
        };
        // The table's address in memory, found in the file by the segment that holds it.
        let offset = segments.iter().find_map(|s| {
            let start: u64 = s.p_vaddr(endian).into();
            let length: u64 = s.p_filesz(endian).into();
            let inside =
                s.p_type(endian) == elf::PT_LOAD && address >= start && address - start < length;
            inside.then(|| s.p_offset(endian).into().saturating_add(address - start))
        });
        let Some(offset) = offset else { continue };
        let strings = StringTable::new(bytes, offset, offset.saturating_add(size));
        for entry in entries {
            let tag = entry.tag(endian);
            if tag == elf::DT_NULL {
                break;
            }
            if ![elf::DT_NEEDED, elf::DT_RPATH, elf::DT_RUNPATH].contains(&tag) {
                continue;
            }
            let text = entry.string(endian, strings)?.to_vec();
            match tag {
                elf::DT_NEEDED => found.needed.push(text),
                elf::DT_RPATH => found.rpath = Some(text),
                _ => found.runpath = Some(text),
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_this_program() {
        let bytes = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let elf = Elf::read(&bytes).unwrap().unwrap();
        assert_eq!(elf.machine.0, cfg!(target_pointer_width = "64"));
        if cfg!(target_env = "gnu") {
            assert!(elf.interpreter.is_some());
            assert!(elf.needed.iter().any(|name| name.starts_with(b"libc.so")));
        }
        assert_eq!(Elf::read(b"#!/bin/sh"), None);
        // Cut files are errors, not panics.
        for length in (0..bytes.len().min(4096)).step_by(7) {
            let _ = Elf::read(&bytes[..length]);
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(mut bytes in proptest::collection::vec(0_u8.., 0..512)) {
            bytes.splice(0..0, *b"\x7fELF\x02\x01\x01");
            let _ = Elf::read(&bytes);
        }
    }
}
