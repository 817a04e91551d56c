//! The compiled programs are run by a small interpreter of the instructions that they use.

use proptest::prelude::*;

use super::compile::{Architecture, Instruction, Target, compile};
use super::profile::{Action, Argument, Compare, Profile, Rule, parse};
use super::{default, default_filter};
use crate::capabilities;

struct Call {
    architecture: u32,
    number: u32,
    arguments: [u64; 6],
}

const X86: u32 = 0xC000_003E;

fn call(number: u32, arguments: &[u64]) -> Call {
    let mut all = [0; 6];
    all[..arguments.len()].copy_from_slice(arguments);
    Call {
        architecture: X86,
        number,
        arguments: all,
    }
}

/// Runs a program as the kernel would; returns its value and the number of steps.
fn run(program: &[Instruction], call: &Call) -> (u32, usize) {
    let load = |offset: u32| match offset {
        0 => call.number,
        4 => call.architecture,
        16..64 => {
            let value = call.arguments[(offset as usize - 16) / 8];
            let half = if offset.is_multiple_of(8) {
                value & 0xffff_ffff
            } else {
                value >> 32
            };
            u32::try_from(half).unwrap()
        }
        _ => panic!("load of {offset}"),
    };
    let (mut at, mut a, mut steps) = (0, 0, 0);
    loop {
        let i = program[at];
        steps += 1;
        at += 1;
        let branch = |taken: bool| usize::from(if taken { i.jt } else { i.jf });
        match i.code {
            0x20 => a = load(i.k),
            0x54 => a &= i.k,
            0x05 => at += i.k as usize,
            0x15 => at += branch(a == i.k),
            0x25 => at += branch(a > i.k),
            0x35 => at += branch(a >= i.k),
            0x06 => return (i.k, steps),
            other => panic!("instruction {other:#x}"),
        }
    }
}

const ALLOW: u32 = 0x7fff_0000;
const EPERM: u32 = 0x0005_0001;
const ENOSYS: u32 = 0x0005_0026;

fn target(capabilities: u64) -> Target {
    Target {
        architecture: Architecture::X86_64,
        capabilities,
        kernel: (6, 1),
    }
}

fn number(name: &str) -> u32 {
    Architecture::X86_64.number(name).unwrap()
}

#[test]
fn the_default_profile_decides_as_dockers() {
    let program = compile(&default::profile(), target(capabilities::default_set()));
    let of = |name: &str, arguments: &[u64]| run(&program, &call(number(name), arguments)).0;
    for name in [
        "read",
        "execve",
        "openat",
        "clone",
        "chroot",
        "ptrace",
        "futex",
        "mknod",
        "io_submit",
    ] {
        assert_eq!(of(name, &[]), ALLOW, "{name}");
    }
    for name in [
        "mount",
        "umount2",
        "unshare",
        "setns",
        "bpf",
        "keyctl",
        "add_key",
        "userfaultfd",
        "reboot",
        "init_module",
        "kexec_load",
        "io_uring_setup",
        "io_uring_enter",
        "perf_event_open",
        "open_by_handle_at",
        "pivot_root",
        "swapon",
        "settimeofday",
        "move_mount",
        "fsopen",
    ] {
        assert_eq!(of(name, &[]), EPERM, "{name}");
    }
    assert_eq!(of("clone3", &[]), ENOSYS);
    assert_eq!(of("clone", &[0x1_0000_0011]), ALLOW);
    for flag in [0x1000_0000, 0x0002_0000, 0x4000_0000] {
        assert_eq!(of("clone", &[flag | 17]), EPERM);
    }
    for (family, outcome) in [
        (1, ALLOW),
        (2, ALLOW),
        (10, ALLOW),
        (38, EPERM),
        (39, ALLOW),
        (40, EPERM),
        (41, ALLOW),
    ] {
        assert_eq!(of("socket", &[family]), outcome, "family {family}");
    }
    for (value, outcome) in [
        (0, ALLOW),
        (8, ALLOW),
        (0x20000, ALLOW),
        (0x20008, ALLOW),
        (0xffff_ffff, ALLOW),
        (0x40000, EPERM),
    ] {
        assert_eq!(
            of("personality", &[value]),
            outcome,
            "personality {value:#x}"
        );
    }
    // Newer than the profile, and the x32 way in.
    assert_eq!(run(&program, &call(1000, &[])).0, ENOSYS);
    assert_eq!(run(&program, &call(0x4000_0000, &[])).0, ENOSYS);
    // The 32-bit way in.
    let foreign = Call {
        architecture: 0x4000_0003,
        ..call(4, &[])
    };
    assert_eq!(run(&program, &foreign).0, 0x8000_0000);
}

#[test]
fn capabilities_open_what_belongs_to_them() {
    let admin = capabilities::default_set() | capabilities::bit("SYS_ADMIN").unwrap();
    let program = compile(&default::profile(), target(admin));
    let of = |name: &str, arguments: &[u64]| run(&program, &call(number(name), arguments)).0;
    for name in ["mount", "clone3", "setns"] {
        assert_eq!(of(name, &[]), ALLOW, "{name}");
    }
    assert_eq!(of("clone", &[0x1000_0000]), ALLOW);
    assert_eq!(of("reboot", &[]), EPERM);
    assert!(default_filter(admin).unwrap() != default_filter(0).unwrap());
}

#[test]
fn a_call_costs_few_steps() {
    let program = compile(&default::profile(), target(capabilities::default_set()));
    let most = (0..500)
        .map(|number| run(&program, &call(number, &[])).1)
        .max()
        .unwrap();
    assert!(most <= 40, "{most} steps of {}", program.len());
    assert!(program.len() < 400, "{} instructions", program.len());
}

/// Against the published profile itself, where it is at hand: every call, with and without
/// SYS_ADMIN, on both architectures.
#[test]
fn the_table_equals_the_published_profile() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../shared/spec/seccomp-moby-default.json"
    );
    let Ok(text) = std::fs::read_to_string(path) else {
        println!("SKIPPED: {path} is not there");
        return;
    };
    let published = parse(&text).unwrap();
    for architecture in [Architecture::X86_64, Architecture::Aarch64] {
        for capabilities in [0, capabilities::default_set(), capabilities::ALL] {
            let target = Target {
                architecture,
                capabilities,
                kernel: (6, 1),
            };
            let audit = if architecture == Architecture::X86_64 {
                X86
            } else {
                0xC000_00B7
            };
            let (ours, theirs) = (
                compile(&default::profile(), target),
                compile(&published, target),
            );
            for number in 0..600 {
                for argument in [
                    0,
                    1,
                    8,
                    38,
                    39,
                    40,
                    41,
                    0x1000_0000,
                    0x20000,
                    0xffff_ffff,
                    u64::MAX,
                ] {
                    let call = Call {
                        architecture: audit,
                        ..call(number, &[argument, argument])
                    };
                    assert_eq!(
                        run(&ours, &call).0,
                        run(&theirs, &call).0,
                        "{architecture:?} {number} {argument:#x} {capabilities:#x}"
                    );
                }
            }
        }
    }
}

#[test]
fn wrong_profiles_are_explained() {
    for (text, words) in [
        ("", "not a seccomp profile"),
        ("{}", "defaultAction"),
        (r#"{"defaultAction":"ALLOW"}"#, "'ALLOW'"),
        (r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#, "listener"),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["kill"],"action":"SCMP_ACT_ERRNO","args":[{"index":6,"value":1,"op":"SCMP_CMP_EQ"}]}]}"#,
            "arguments 0 to 5",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["kill"],"action":"SCMP_ACT_ERRNO","args":[{"index":1,"value":1,"op":"=="}]}]}"#,
            "comparison",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":5000}"#,
            "error number",
        ),
    ] {
        let error = parse(text).unwrap_err();
        assert!(error.to_string().contains(words), "{text}: {error}");
    }
}

#[test]
fn the_oci_form_is_read_too() {
    let profile = parse(
        r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64"],
            "syscalls":[{"name":"mkdir","action":"SCMP_ACT_ERRNO","errnoRet":13},
                        {"names":["no_such_call","rmdir"],"action":"SCMP_ACT_KILL_PROCESS"}]}"#,
    )
    .unwrap();
    let program = compile(&profile, target(0));
    assert_eq!(run(&program, &call(number("mkdir"), &[])).0, 0x0005_000d);
    assert_eq!(run(&program, &call(number("rmdir"), &[])).0, 0x8000_0000);
    assert_eq!(run(&program, &call(number("read"), &[])).0, ALLOW);
    assert_eq!(run(&program, &call(1000, &[])).0, ALLOW);
}

fn holds(argument: &Argument, arguments: &[u64; 6]) -> bool {
    let value = arguments[usize::from(argument.index)];
    match argument.compare {
        Compare::Equal(other) => value == other,
        Compare::NotEqual(other) => value != other,
        Compare::Less(other) => value < other,
        Compare::LessOrEqual(other) => value <= other,
        Compare::Greater(other) => value > other,
        Compare::GreaterOrEqual(other) => value >= other,
        Compare::Masked { mask, value: other } => value & mask == other,
    }
}

fn value() -> impl Strategy<Value = u64> {
    prop_oneof![
        0_u64..4,
        Just(0xffff_ffff),
        Just(0x1_0000_0000),
        Just(0x1_0000_0001),
        Just(u64::MAX),
        any::<u64>(),
    ]
}

fn argument() -> impl Strategy<Value = Argument> {
    let compare = prop_oneof![
        value().prop_map(Compare::Equal),
        value().prop_map(Compare::NotEqual),
        value().prop_map(Compare::Less),
        value().prop_map(Compare::LessOrEqual),
        value().prop_map(Compare::Greater),
        value().prop_map(Compare::GreaterOrEqual),
        (value(), value()).prop_map(|(mask, value)| Compare::Masked {
            mask,
            value: value & mask
        }),
    ];
    (0_u8..6, compare).prop_map(|(index, compare)| Argument { index, compare })
}

const NAMES: [&str; 8] = [
    "read", "write", "open", "close", "mkdir", "socket", "mseal", "bpf",
];

fn rule() -> impl Strategy<Value = Rule> {
    let action = prop_oneof![
        Just(Action::Allow),
        Just(Action::Errno(7)),
        Just(Action::Log)
    ];
    (
        prop::collection::vec(prop::sample::select(&NAMES[..]), 1..4),
        action,
        prop::collection::vec(argument(), 0..4),
    )
        .prop_map(|(names, action, arguments)| Rule {
            arguments,
            ..Rule::new(names.into_iter().map(str::to_owned).collect(), action)
        })
}

proptest! {
    /// The program decides as the rules read: the first rule whose arguments fit, then the last
    /// one without arguments, then the default.
    #[test]
    fn programs_decide_as_their_rules(
        rules in prop::collection::vec(rule(), 0..12),
        name in prop::sample::select(&NAMES[..]),
        arguments in prop::array::uniform6(value()),
    ) {
        let profile = Profile { default: Action::Trap, rules };
        let program = compile(&profile, target(0));
        let about = || profile.rules.iter().filter(|rule| rule.names.iter().any(|n| n == name));
        let expected = about()
            .filter(|rule| !rule.arguments.is_empty())
            .find(|rule| rule.arguments.iter().all(|argument| holds(argument, &arguments)))
            .or_else(|| about().rfind(|rule| rule.arguments.is_empty()))
            .map_or(profile.default, |rule| rule.action);
        let expected = match expected {
            Action::Allow => ALLOW,
            Action::Errno(n) => 0x0005_0000 | u32::from(n),
            Action::Log => 0x7ffc_0000,
            _ => 0x0003_0000,
        };
        let (got, _) = run(&program, &call(number(name), &arguments));
        prop_assert_eq!(got, expected);
    }
}
