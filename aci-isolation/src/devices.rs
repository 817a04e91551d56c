//! Which devices a container's processes may open: a program of the v2 hierarchy
//! (BPF_PROG_TYPE_CGROUP_DEVICE) or, where there is none, the v1 controller (cgroup-v1/devices.rst).
//!
//! What is opened this way is held back even if a container gets hold of a node of another device:
//! by `mknod`, from its image or from a volume.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use serde::{Deserialize, Serialize};

/// How a machine holds devices back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Gate {
    /// Not by cgroups.
    #[default]
    None,
    /// By a program on the v2 directory of a container.
    Program,
    /// By the v1 controller.
    Controller,
}

/// One kind of devices that may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rule {
    /// Block rather than character devices.
    pub(crate) block: bool,
    /// `None` stands for all.
    pub(crate) major: Option<u32>,
    pub(crate) minor: Option<u32>,
    /// Some of [`MAKE`], [`READ`] and [`WRITE`].
    pub(crate) access: u32,
}

/// BPF_DEVCG_ACC_*.
pub(crate) const MAKE: u32 = 1;
pub(crate) const READ: u32 = 2;
pub(crate) const WRITE: u32 = 4;
pub(crate) const ALL: u32 = MAKE | READ | WRITE;
/// BPF_DEVCG_DEV_BLOCK and _CHAR.
const BLOCK: u32 = 1;
const CHARACTER: u32 = 2;

const fn character(major: u32, minor: Option<u32>, access: u32) -> Rule {
    Rule {
        block: false,
        major: Some(major),
        minor,
        access,
    }
}

/// What every container may: make nodes of any kind (Docker's rule; they do not open), and use
/// null, zero, full, random, urandom, tty, ptmx and pseudo-terminals.
pub(crate) const DEFAULT: [Rule; 10] = [
    Rule {
        block: false,
        major: None,
        minor: None,
        access: MAKE,
    },
    Rule {
        block: true,
        major: None,
        minor: None,
        access: MAKE,
    },
    character(1, Some(3), ALL),
    character(1, Some(5), ALL),
    character(1, Some(7), ALL),
    character(1, Some(8), ALL),
    character(1, Some(9), ALL),
    character(5, Some(0), ALL),
    character(5, Some(2), ALL),
    character(136, None, ALL),
];

/// `struct bpf_insn`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    value: i32,
}

const LOAD: u8 = 0x61; // BPF_LDX | BPF_MEM | BPF_W
const MOVE: u8 = 0xbc; // BPF_ALU | BPF_MOV | BPF_X
const SET: u8 = 0xb7; // BPF_ALU64 | BPF_MOV | BPF_K
const AND: u8 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const SHIFT: u8 = 0x74; // BPF_ALU | BPF_RSH | BPF_K
const UNLESS: u8 = 0x56; // BPF_JMP32 | BPF_JNE | BPF_K
const EXIT: u8 = 0x95; // BPF_JMP | BPF_EXIT

const fn instruction(code: u8, to: u8, from: u8, offset: i16, value: i32) -> Instruction {
    Instruction {
        code,
        registers: from << 4 | to,
        offset,
        value,
    }
}

/// A program that gives 1 for what one of the rules allows, otherwise 0.
pub(crate) fn compile(rules: &[Rule]) -> Vec<Instruction> {
    const KIND: u8 = 2;
    const ACCESS: u8 = 3;
    const MAJOR: u8 = 4;
    const MINOR: u8 = 5;
    const OTHER: u8 = 0;
    // struct bpf_cgroup_dev_ctx: access_type (kind below, access above), major, minor.
    let mut out = vec![
        instruction(LOAD, KIND, 1, 0, 0),
        instruction(MOVE, ACCESS, KIND, 0, 0),
        instruction(AND, KIND, 0, 0, 0xffff),
        instruction(SHIFT, ACCESS, 0, 0, 16),
        instruction(LOAD, MAJOR, 1, 4, 0),
        instruction(LOAD, MINOR, 1, 8, 0),
    ];
    for rule in rules {
        let mut tests = Vec::new();
        let kind = if rule.block { BLOCK } else { CHARACTER };
        tests.push((KIND, kind));
        if rule.access != ALL {
            tests.push((OTHER, 0));
        }
        tests.extend(rule.major.map(|major| (MAJOR, major)));
        tests.extend(rule.minor.map(|minor| (MINOR, minor)));
        let mut body = Vec::new();
        for (register, value) in tests {
            if register == OTHER {
                body.push(instruction(MOVE, OTHER, ACCESS, 0, 0));
                body.push(instruction(
                    AND,
                    OTHER,
                    0,
                    0,
                    (ALL & !rule.access).cast_signed(),
                ));
            }
            body.push(instruction(UNLESS, register, 0, 0, value.cast_signed()));
        }
        body.push(instruction(SET, 0, 0, 0, 1));
        body.push(instruction(EXIT, 0, 0, 0, 0));
        let length = body.len();
        for (index, step) in body.iter_mut().enumerate() {
            if step.code == UNLESS {
                step.offset = i16::try_from(length - index - 1).unwrap_or(i16::MAX);
            }
        }
        out.extend(body);
    }
    out.push(instruction(SET, 0, 0, 0, 0));
    out.push(instruction(EXIT, 0, 0, 0, 0));
    out
}

/// Loads a program into the kernel. Needs CAP_SYS_ADMIN, or CAP_BPF and CAP_NET_ADMIN.
pub(crate) fn load(rules: &[Rule]) -> io::Result<OwnedFd> {
    #[repr(C)]
    #[derive(Default)]
    struct Load {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
        log: [u64; 2],
        version: u32,
        flags: u32,
        name: [u8; 16],
        interface: u32,
        attach: u32,
    }
    const PROG_LOAD: i32 = 5;
    const CGROUP_DEVICE: u32 = 15;
    const ATTACH_DEVICE: u32 = 6;
    let program = compile(rules);
    let attributes = Load {
        kind: CGROUP_DEVICE,
        count: u32::try_from(program.len()).unwrap_or(u32::MAX),
        instructions: program.as_ptr() as u64,
        license: c"MIT".as_ptr() as u64,
        attach: ATTACH_DEVICE,
        ..Load::default()
    };
    // SAFETY: `attributes` is a bpf_attr for PROG_LOAD of the size given; the program and the
    // license that it points at live over the call. What is given back is a new descriptor.
    unsafe {
        let fd = libc::syscall(
            libc::SYS_bpf,
            PROG_LOAD,
            &raw const attributes,
            size_of::<Load>(),
        );
        match i32::try_from(fd) {
            Ok(fd @ 0..) => Ok(OwnedFd::from_raw_fd(fd)),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Lets a program decide for all processes in a v2 directory and below.
pub(crate) fn attach(program: impl AsFd, directory: impl AsFd) -> io::Result<()> {
    #[repr(C)]
    struct Attach {
        target: i32,
        program: i32,
        kind: u32,
        flags: u32,
    }
    const PROG_ATTACH: i32 = 8;
    const ATTACH_DEVICE: u32 = 6;
    const ALLOW_MULTI: u32 = 2;
    let attributes = Attach {
        target: directory.as_fd().as_raw_fd(),
        program: program.as_fd().as_raw_fd(),
        kind: ATTACH_DEVICE,
        flags: ALLOW_MULTI,
    };
    // SAFETY: `attributes` is a bpf_attr for PROG_ATTACH of the size given, of numbers only.
    let outcome = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            PROG_ATTACH,
            &raw const attributes,
            size_of::<Attach>(),
        )
    };
    if outcome == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// What is written into `devices.allow` of a v1 directory, after `a` into `devices.deny`.
pub(crate) fn lines(rules: &[Rule]) -> Vec<String> {
    let number = |number: Option<u32>| number.map_or_else(|| "*".to_owned(), |n| n.to_string());
    rules
        .iter()
        .map(|rule| {
            let access: String = [(READ, 'r'), (WRITE, 'w'), (MAKE, 'm')]
                .iter()
                .filter(|(bit, _)| rule.access & bit != 0)
                .map(|(_, letter)| *letter)
                .collect();
            format!(
                "{} {}:{} {access}",
                if rule.block { 'b' } else { 'c' },
                number(rule.major),
                number(rule.minor)
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What the kernel's interpreter does with the few instructions that are used.
    fn run(program: &[Instruction], context: [u32; 3]) -> u64 {
        let mut registers = [0_u64; 11];
        let mut at = 0;
        for _ in 0..10_000 {
            let step = program[at];
            let (to, from) = (
                usize::from(step.registers & 15),
                usize::from(step.registers >> 4),
            );
            let value = step.value.cast_unsigned();
            at += 1;
            match step.code {
                LOAD => {
                    let index = usize::try_from(step.offset).unwrap() / 4;
                    registers[to] = u64::from(context[index]);
                }
                MOVE => registers[to] = registers[from] & 0xffff_ffff,
                SET => registers[to] = u64::from(value),
                AND => registers[to] = registers[to] & u64::from(value) & 0xffff_ffff,
                SHIFT => registers[to] = (registers[to] & 0xffff_ffff) >> value,
                UNLESS => {
                    if registers[to] & 0xffff_ffff != u64::from(value) {
                        at += usize::try_from(step.offset).unwrap();
                    }
                }
                EXIT => return registers[0],
                other => panic!("unknown instruction {other:#x}"),
            }
        }
        panic!("it does not end")
    }

    fn allowed(rules: &[Rule], block: bool, access: u32, major: u32, minor: u32) -> bool {
        rules.iter().any(|rule| {
            rule.block == block
                && access & !rule.access & ALL == 0
                && rule.major.is_none_or(|want| want == major)
                && rule.minor.is_none_or(|want| want == minor)
        })
    }

    fn a_rule() -> impl Strategy<Value = Rule> {
        (
            any::<bool>(),
            prop::option::of(0..4_u32),
            prop::option::of(0..4_u32),
            0..8_u32,
        )
            .prop_map(|(block, major, minor, access)| Rule {
                block,
                major,
                minor,
                access,
            })
    }

    proptest! {
        #[test]
        fn the_program_decides_as_the_rules(
            rules in prop::collection::vec(a_rule(), 0..6),
            block: bool, access in 1..8_u32, major in 0..4_u32, minor in 0..4_u32,
        ) {
            let kind = if block { BLOCK } else { CHARACTER };
            let given = run(&compile(&rules), [access << 16 | kind, major, minor]);
            prop_assert_eq!(given == 1, allowed(&rules, block, access, major, minor));
        }
    }

    #[test]
    fn the_default_is_dockers() {
        let lines = lines(&DEFAULT);
        for line in ["c *:* m", "b *:* m", "c 1:3 rwm", "c 136:* rwm"] {
            assert!(lines.iter().any(|have| have == line), "{line}");
        }
        let program = compile(&DEFAULT);
        assert_eq!(run(&program, [READ << 16 | CHARACTER, 1, 3]), 1);
        // Memory, the kernel log, any disk.
        assert_eq!(run(&program, [READ << 16 | CHARACTER, 1, 1]), 0);
        assert_eq!(run(&program, [READ << 16 | CHARACTER, 1, 11]), 0);
        assert_eq!(run(&program, [READ << 16 | BLOCK, 8, 0]), 0);
    }
}
