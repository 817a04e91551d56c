//! The guest's first file system: the agent and modules as a cpio archive, the same bytes for the
//! same content (the kernel's `Documentation/driver-api/early-userspace/buffer-format.rst`).

use super::modules::Module;

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const FILE: u32 = 0o100_644;
const CONSOLE: u32 = 0o020_600;

/// One entry in the form `newc`. Times, owners and inode numbers are always the same.
fn entry(out: &mut Vec<u8>, number: u32, name: &str, mode: u32, device: (u32, u32), body: &[u8]) {
    let links = if mode == DIRECTORY { 2 } else { 1 };
    let size = u32::try_from(body.len()).unwrap_or(u32::MAX);
    let length = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
    let fields = [
        number, mode, 0, 0, links, 0, size, 0, 0, device.0, device.1, length, 0,
    ];
    out.extend_from_slice(b"070701");
    for field in fields {
        out.extend_from_slice(format!("{field:08X}").as_bytes());
    }
    out.extend_from_slice(name.as_bytes());
    out.push(0);
    pad(out);
    out.extend_from_slice(body);
    pad(out);
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}

/// An archive of the agent as `/init` and of modules that are loaded in this order.
pub(crate) fn assemble(agent: &[u8], modules: &[Module]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut number = 0;
    let mut add = |name: &str, mode, device, body: &[u8]| {
        number += 1;
        entry(&mut out, number, name, mode, device, body);
    };
    add("dev", DIRECTORY, (0, 0), &[]);
    // For what the kernel says before there is a devtmpfs.
    add("dev/console", CONSOLE, (5, 1), &[]);
    add("modules", DIRECTORY, (0, 0), &[]);
    for (index, module) in modules.iter().enumerate() {
        let name = format!("modules/{index:03}-{}.ko", module.name);
        add(&name, FILE, (0, 0), &module.bytes);
    }
    add("init", PROGRAM, (0, 0), agent);
    number = 0;
    entry(&mut out, number, "TRAILER!!!", 0, (0, 0), &[]);
    out
}
