//! Tests of the parts that need no machine.

use std::io::Write;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::kernel::{Kernel, decompress, unpack};
use super::modules::{self, Module, depends};
use super::{Accelerator, Machine, Qemu, Sockets, Vmm, initramfs, jail};

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap()
}

/// Blocks of `lz4 -l` whose content is stored as literals.
fn lz4(bytes: &[u8]) -> Vec<u8> {
    assert!((15..270).contains(&bytes.len()));
    let mut out = vec![0x02, 0x21, 0x4c, 0x18];
    let length = u32::try_from(bytes.len() + 2).unwrap();
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&[0xf0, u8::try_from(bytes.len() - 15).unwrap()]);
    out.extend_from_slice(bytes);
    out
}

/// A bzImage around a payload (boot.rst).
fn image(payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 5 * 512];
    out[0x1f1] = 4;
    out[0x202..0x206].copy_from_slice(b"HdrS");
    out[0x206..0x208].copy_from_slice(&[0x0f, 0x02]);
    out[0x248..0x24c].copy_from_slice(&16_u32.to_le_bytes());
    let length = u32::try_from(payload.len()).unwrap();
    out[0x24c..0x250].copy_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&[0; 16]);
    out.extend_from_slice(payload);
    out
}

fn elf() -> Vec<u8> {
    [b"\x7fELF".as_slice(), &[1; 100]].concat()
}

#[test]
fn kernels_are_unpacked_whatever_packed_them() {
    assert_eq!(unpack(image(&gzip(&elf()))).unwrap(), elf());
    let size = u32::try_from(elf().len()).unwrap().to_le_bytes();
    let packed = [lz4(&elf()), size.to_vec()].concat();
    assert_eq!(unpack(image(&packed)).unwrap(), elf());
    assert_eq!(unpack(elf()).unwrap(), elf());
}

#[test]
fn what_is_no_kernel_is_told_from_one() {
    let why = |bytes| unpack(bytes).unwrap_err();
    assert!(why(vec![0; 9000]).contains("neither a bzImage"));
    assert!(why(image(&gzip(b"no ELF file"))).contains("no ELF file"));
    let size = [1, 0, 0, 0].as_slice();
    assert!(why(image(&[b"BZh9".as_slice(), size].concat())).contains("bzip2"));
    assert!(why(image(&[b"????".as_slice(), size].concat())).contains("unknown"));
    let mut cut = image(&gzip(&elf()));
    cut.truncate(cut.len() - 40);
    assert!(why(cut).contains("outside"));
    let mut old = image(&gzip(&elf()));
    old[0x206] = 7;
    assert!(why(old).contains("2.07"));
    let huge = [b"????".as_slice(), &[0xff; 4]].concat();
    assert!(why(image(&huge)).contains("256 MiB"));
}

#[test]
fn the_newest_packaged_kernel_is_found() {
    let root = tempfile::tempdir().unwrap();
    let error = Kernel::find(root.path()).unwrap_err();
    assert!(error.chain().contains("linux-image-cloud-amd64"));
    std::fs::create_dir_all(root.path().join("boot")).unwrap();
    for release in [
        "6.1.0-9-cloud-amd64",
        "6.1.0-56-cloud-amd64",
        "6.12.1-amd64",
        "7.0-cloud",
    ] {
        std::fs::write(
            root.path().join("boot").join(format!("vmlinuz-{release}")),
            "",
        )
        .unwrap();
        if release != "7.0-cloud" {
            let modules = root.path().join("lib/modules").join(release).join("kernel");
            std::fs::create_dir_all(modules).unwrap();
        }
    }
    // For virtual machines, by number and not by letter, and with its modules.
    let found = Kernel::find(root.path()).unwrap();
    assert!(found.image.ends_with("vmlinuz-6.1.0-56-cloud-amd64"));
    assert!(found.modules.ends_with("lib/modules/6.1.0-56-cloud-amd64"));
}

/// A minimal ELF file with a section `.modinfo`.
fn module(depends: &str) -> Vec<u8> {
    let info = format!("license=GPL\0depends={depends}\0name=x\0");
    let names = b"\0.modinfo\0.shstrtab\0";
    let mut out = vec![0; 64];
    out[..6].copy_from_slice(b"\x7fELF\x02\x01");
    let (at, names_at) = (out.len() as u64, (out.len() + info.len()) as u64);
    out.extend_from_slice(info.as_bytes());
    out.extend_from_slice(names);
    let table = out.len() as u64;
    out[0x28..0x30].copy_from_slice(&table.to_le_bytes());
    out[0x3a..0x3c].copy_from_slice(&64_u16.to_le_bytes());
    out[0x3c..0x3e].copy_from_slice(&3_u16.to_le_bytes());
    out[0x3e..0x40].copy_from_slice(&2_u16.to_le_bytes());
    let mut section = |name: u32, at: u64, size: u64| {
        let mut header = [0; 64];
        header[..4].copy_from_slice(&name.to_le_bytes());
        header[0x18..0x20].copy_from_slice(&at.to_le_bytes());
        header[0x20..0x28].copy_from_slice(&size.to_le_bytes());
        out.extend_from_slice(&header);
    };
    section(0, 0, 0);
    section(1, at, info.len() as u64);
    section(10, names_at, names.len() as u64);
    out
}

#[test]
fn modules_come_after_what_they_depend_on() {
    let root = tempfile::tempdir().unwrap();
    let write = |path: &str, bytes: &[u8]| {
        let path = root.path().join("kernel").join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    };
    write("fs/virtiofs.ko", &module("fuse,virtio-ring"));
    write("fs/fuse.ko.gz", &gzip(&module("")));
    write("drivers/virtio_ring.ko", &module("virtio"));
    std::fs::write(
        root.path().join("modules.builtin"),
        "kernel/drivers/virtio.ko\n",
    )
    .unwrap();
    let found = modules::collect(root.path(), &["virtiofs", "fuse"]).unwrap();
    let names: Vec<_> = found.iter().map(|module| module.name.as_str()).collect();
    assert_eq!(names, ["fuse", "virtio_ring", "virtiofs"]);
    assert_eq!(found[0].bytes, module(""));
    let error = modules::collect(root.path(), &["overlay"]).unwrap_err();
    assert!(
        error.chain().contains("no module 'overlay'"),
        "{}",
        error.chain()
    );
}

#[test]
fn an_initramfs_is_the_same_each_time_and_readable() {
    let modules = vec![Module {
        name: "fuse".to_owned(),
        bytes: vec![1, 2, 3],
    }];
    let archive = initramfs::assemble(b"agent", &modules);
    assert_eq!(archive, initramfs::assemble(b"agent", &modules));
    // The kernel's documentation: every header and every file begins at a multiple of four.
    let mut at = 0;
    let mut seen = Vec::new();
    loop {
        assert_eq!(at % 4, 0);
        assert_eq!(&archive[at..at + 6], b"070701");
        let field = |index: usize| {
            let start = at + 6 + index * 8;
            let text = std::str::from_utf8(&archive[start..start + 8]).unwrap();
            usize::from_str_radix(text, 16).unwrap()
        };
        let (mode, size, length) = (field(1), field(6), field(11));
        let name = std::str::from_utf8(&archive[at + 110..at + 110 + length - 1]).unwrap();
        let body = (at + 110 + length).next_multiple_of(4);
        if name == "TRAILER!!!" {
            break;
        }
        seen.push((name.to_owned(), mode, archive[body..body + size].to_vec()));
        at = (body + size).next_multiple_of(4);
    }
    let names: Vec<_> = seen.iter().map(|(name, _, _)| name.as_str()).collect();
    assert_eq!(
        names,
        [
            "dev",
            "dev/console",
            "modules",
            "modules/000-fuse.ko",
            "init"
        ]
    );
    assert_eq!(
        (seen[4].1, seen[4].2.as_slice()),
        (0o100_755, b"agent".as_slice())
    );
    assert_eq!(seen[3].2, [1, 2, 3]);
}

#[test]
fn a_machine_is_a_command_line() {
    let machine = Machine {
        accelerator: Accelerator::Emulation,
        cpus: 2,
        memory_mib: 600,
        kernel: PathBuf::from("/k"),
        initramfs: PathBuf::from("/i"),
        arguments: vec!["aci.share".to_owned()],
        sockets: Sockets {
            line: PathBuf::from("/s/line"),
            control: PathBuf::from("/s/control"),
            share: (PathBuf::from("/s/share"), "share".to_owned()),
        },
        tap: Some("tap7".to_owned()),
    };
    let launch = Qemu::default().launch(&machine);
    let line = launch.argv.join(" ");
    for part in [
        "-nodefaults -no-user-config",
        "-sandbox on,",
        "-smp 2 -m 600M",
        "size=600M,share=on",
        "-accel tcg,",
        "aci.share",
        "-netdev tap,id=net,ifname=tap7,script=no,downscript=no",
    ] {
        assert!(line.contains(part), "{part} is not in {line}");
    }
    assert!(launch.needs.contains(&PathBuf::from("/k")));
    assert!(!Accelerator::Emulation.boundary());
    // No network but the given tap.
    assert_eq!(line.matches("-netdev").count(), 1);
    let alone = Machine {
        tap: None,
        ..machine
    };
    let line = Qemu::default().launch(&alone).argv.join(" ");
    assert!(!line.contains("-netdev") && !line.contains("-nic"));
}

#[test]
fn a_missing_monitor_is_named_with_its_package() {
    let error = Qemu::new("/nowhere/qemu")
        .probe(Accelerator::Emulation)
        .unwrap_err();
    assert!(error.chain().contains("/nowhere/qemu"));
    assert!(error.chain().contains("qemu-system-x86"));
}

#[test]
fn the_console_explains_a_boot_that_failed() {
    let lines: Vec<String> = (0..20).map(|n| format!("line {n}")).collect();
    let error = jail::not_booted("it ended", &lines).chain();
    assert!(error.contains("line 12 | line 13"), "{error}");
    assert!(
        error.contains("line 19") && !error.contains("line 11"),
        "{error}"
    );
}

#[test]
fn monitors_get_no_rights() {
    let place = Path::new("/place");
    let launch = super::Launch {
        argv: vec!["/usr/bin/qemu".to_owned()],
        needs: vec!["/usr".into()],
        overhead: 1,
    };
    let start = jail::machine(&launch, place, true).unwrap();
    assert_eq!(start.rights.capabilities, 0);
    assert!(start.rights.no_new_privs && !start.rights.filter.is_empty());
    assert!(start.binds.iter().all(|(_, _, read_only)| *read_only));
}

proptest! {
    #[test]
    fn garbage_is_no_kernel(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
        let _ = unpack(image(&bytes));
        let _ = unpack(bytes.clone());
        let _ = depends(&bytes);
        let _ = depends(&[b"\x7fELF\x02\x01".as_slice(), &bytes].concat());
    }

    /// Damaged archives of every kind end in an error or in bounds.
    #[test]
    fn damage_is_bounded(
        kind in 0..4_usize,
        tail in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        let magics: [&[u8]; 4] = [
            &[0x1f, 0x8b, 8],
            &[0xfd, b'7', b'z', b'X', b'Z', 0],
            &[0x28, 0xb5, 0x2f, 0xfd],
            &[0x02, 0x21, 0x4c, 0x18],
        ];
        let bytes = [magics[kind], &tail].concat();
        if let Ok(out) = decompress(&bytes, 10_000) {
            prop_assert!(out.len() <= 10_000);
        }
    }

    #[test]
    fn damaged_modules_never_panic(at in 0..300_usize, byte in any::<u8>()) {
        let mut bytes = module("a,b");
        let at = at % bytes.len();
        bytes[at] = byte;
        let _ = depends(&bytes);
    }
}
