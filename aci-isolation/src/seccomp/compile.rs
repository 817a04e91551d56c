//! From rules to a classic BPF program (seccomp(2), bpf(4) of BSD; the kernel's
//! Documentation/userspace-api/seccomp_filter.rst).
//!
//! The program is a balanced tree over the call's number, so every call costs a handful of
//! comparisons, not one for each name before it.

use std::collections::BTreeMap;

use super::profile::{Action, Argument, Compare, Profile, Rule};

/// An architecture: its name in Docker's profiles, its number in the filter's data, and which
/// column of the table has its calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Architecture {
    X86_64,
    Aarch64,
}

impl Architecture {
    /// The one that this program runs on.
    pub(crate) const fn native() -> Option<Self> {
        if cfg!(target_arch = "x86_64") {
            Some(Self::X86_64)
        } else if cfg!(target_arch = "aarch64") {
            Some(Self::Aarch64)
        } else {
            None
        }
    }

    fn docker_name(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }

    /// `AUDIT_ARCH_...` of linux/audit.h.
    fn audit(self) -> u32 {
        match self {
            Self::X86_64 => 0xC000_003E,
            Self::Aarch64 => 0xC000_00B7,
        }
    }

    pub(crate) fn number(self, name: &str) -> Option<u32> {
        let (_, x86, arm) = super::numbers::NUMBERS
            .binary_search_by(|(known, _, _)| (*known).cmp(name))
            .ok()
            .map(|at| super::numbers::NUMBERS[at])?;
        let number = match self {
            Self::X86_64 => x86,
            Self::Aarch64 => arm,
        };
        (number != super::numbers::NONE).then_some(u32::from(number))
    }
}

/// What a filter is compiled for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    pub(crate) architecture: Architecture,
    /// The container's capabilities as a mask.
    pub(crate) capabilities: u64,
    /// Major and minor version.
    pub(crate) kernel: (u32, u32),
}

/// `struct sock_filter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Instruction {
    pub(crate) code: u16,
    pub(crate) jt: u8,
    pub(crate) jf: u8,
    pub(crate) k: u32,
}

const LD_W_ABS: u16 = 0x20;
const AND_K: u16 = 0x54;
const JA: u16 = 0x05;
const JEQ_K: u16 = 0x15;
const JGT_K: u16 = 0x25;
const JGE_K: u16 = 0x35;
const RET_K: u16 = 0x06;

const OFFSET_NUMBER: u32 = 0;
const OFFSET_ARCHITECTURE: u32 = 4;
const OFFSET_ARGUMENTS: u32 = 16;

const fn plain(code: u16, k: u32) -> Instruction {
    Instruction {
        code,
        jt: 0,
        jf: 0,
        k,
    }
}

const fn ret(action: Action) -> Instruction {
    let value = match action {
        Action::Allow => 0x7fff_0000,
        Action::Errno(number) => 0x0005_0000 | number as u32,
        Action::KillProcess => 0x8000_0000,
        Action::KillThread => 0,
        Action::Trap => 0x0003_0000,
        Action::Log => 0x7ffc_0000,
    };
    plain(RET_K, value)
}

const ENOSYS: u16 = 38;

/// What happens with one call: rules on its arguments in their order, then what remains.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Leaf {
    rules: Vec<(Vec<Argument>, Action)>,
    otherwise: Action,
}

fn applies(rule: &Rule, target: Target) -> bool {
    let here = target.architecture.docker_name();
    // An unknown capability is one that nobody has.
    let has = |name: &String| {
        crate::capabilities::bit(name).is_some_and(|bit| target.capabilities & bit != 0)
    };
    (rule.architectures.is_empty() || rule.architectures.iter().any(|name| name == here))
        && !rule.without_architectures.iter().any(|name| name == here)
        && rule.capabilities.iter().all(has)
        && !rule.without_capabilities.iter().any(has)
        && rule.min_kernel.is_none_or(|least| target.kernel >= least)
}

/// Compiles a profile. Names that the architecture does not have are left out, as runtimes do.
pub(crate) fn compile(profile: &Profile, target: Target) -> Vec<Instruction> {
    let mut leaves: BTreeMap<u32, Leaf> = BTreeMap::new();
    let mut newest = 0;
    for rule in &profile.rules {
        let numbers = rule
            .names
            .iter()
            .filter_map(|name| target.architecture.number(name));
        if !applies(rule, target) {
            // The profile knows the call, even if nothing is said of it here.
            newest = numbers.fold(newest, u32::max);
            continue;
        }
        for number in numbers {
            newest = newest.max(number);
            let leaf = leaves.entry(number).or_insert_with(|| Leaf {
                rules: Vec::new(),
                otherwise: profile.default,
            });
            if rule.arguments.is_empty() {
                leaf.otherwise = rule.action;
            } else {
                leaf.rules.push((rule.arguments.clone(), rule.action));
            }
        }
    }
    // A call that is newer than the profile does not exist here, so that programs take their older
    // way (runc does the same).
    let unknown = match profile.default {
        Action::Errno(_) => Action::Errno(ENOSYS),
        other => other,
    };
    let simple = |action| Leaf {
        rules: Vec::new(),
        otherwise: action,
    };
    let mut ranges: Vec<(u32, Leaf)> = Vec::new();
    let mut add = |start: u32, leaf: Leaf| {
        if ranges.last().is_none_or(|(_, last)| *last != leaf) {
            ranges.push((start, leaf));
        }
    };
    for number in 0..=newest {
        let leaf = leaves
            .remove(&number)
            .unwrap_or_else(|| simple(profile.default));
        add(number, leaf);
    }
    add(newest + 1, simple(unknown));

    // Another architecture's calls have other numbers; nobody enters the kernel that way.
    let mut program = vec![
        plain(LD_W_ABS, OFFSET_ARCHITECTURE),
        Instruction {
            code: JEQ_K,
            jt: 1,
            jf: 0,
            k: target.architecture.audit(),
        },
        ret(Action::KillProcess),
        plain(LD_W_ABS, OFFSET_NUMBER),
    ];
    program.extend(tree(&ranges));
    program
}

fn tree(ranges: &[(u32, Leaf)]) -> Vec<Instruction> {
    match ranges {
        [] => Vec::new(),
        [(_, leaf)] => leaf_code(leaf),
        _ => {
            let (low, high) = ranges.split_at(ranges.len() / 2);
            let start = high[0].0;
            let (low, high) = (tree(low), tree(high));
            let mut out = Vec::with_capacity(2 + low.len() + high.len());
            match u8::try_from(low.len()) {
                Ok(jt) => out.push(Instruction {
                    code: JGE_K,
                    jt,
                    jf: 0,
                    k: start,
                }),
                // Conditional jumps reach 255 instructions; JA reaches any.
                Err(_) => {
                    out.push(Instruction {
                        code: JGE_K,
                        jt: 0,
                        jf: 1,
                        k: start,
                    });
                    out.push(plain(JA, u32::try_from(low.len()).unwrap_or(u32::MAX)));
                }
            }
            out.extend(low);
            out.extend(high);
            out
        }
    }
}

fn leaf_code(leaf: &Leaf) -> Vec<Instruction> {
    let mut out = Vec::new();
    for (arguments, action) in &leaf.rules {
        out.extend(rule_code(arguments, *action));
    }
    out.push(ret(leaf.otherwise));
    out
}

/// Where a step of a comparison goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum To {
    Next,
    /// This argument fits.
    Fits,
    /// The rule does not apply.
    Fails,
}

enum Step {
    Plain(Instruction),
    Jump(u16, u32, To, To),
}

fn rule_code(arguments: &[Argument], action: Action) -> Vec<Instruction> {
    let blocks: Vec<Vec<Step>> = arguments.iter().map(argument_code).collect();
    let total: usize = blocks.iter().map(Vec::len).sum::<usize>() + 1;
    let mut out = Vec::with_capacity(total);
    for block in blocks {
        let end = out.len() + block.len();
        for step in block {
            let here = out.len() + 1;
            // At most 6 arguments of 6 steps: always within 255.
            let reach = |to: To| {
                let target = match to {
                    To::Next => here,
                    To::Fits => end,
                    To::Fails => total,
                };
                u8::try_from(target - here).unwrap_or(u8::MAX)
            };
            out.push(match step {
                Step::Plain(instruction) => instruction,
                Step::Jump(code, k, yes, no) => Instruction {
                    code,
                    jt: reach(yes),
                    jf: reach(no),
                    k,
                },
            });
        }
    }
    out.push(ret(action));
    out
}

fn halves(value: u64) -> (u32, u32) {
    ((value >> 32) as u32, (value & 0xffff_ffff) as u32)
}

fn argument_code(argument: &Argument) -> Vec<Step> {
    use To::{Fails, Fits, Next};
    let offset = OFFSET_ARGUMENTS + 8 * u32::from(argument.index);
    // Little endian on both architectures.
    let (load_low, load_high) = (
        Step::Plain(plain(LD_W_ABS, offset)),
        Step::Plain(plain(LD_W_ABS, offset + 4)),
    );
    let equal = |value: u64, yes: To, no: To| {
        let (high, low) = halves(value);
        vec![
            Step::Plain(plain(LD_W_ABS, offset + 4)),
            Step::Jump(JEQ_K, high, Next, no),
            Step::Plain(plain(LD_W_ABS, offset)),
            Step::Jump(JEQ_K, low, yes, no),
        ]
    };
    // `code` compares the low halves; greater in the high half decides alone.
    let above = |code: u16, value: u64, yes: To, no: To| {
        let (high, low) = halves(value);
        vec![
            Step::Plain(plain(LD_W_ABS, offset + 4)),
            Step::Jump(JGT_K, high, yes, Next),
            Step::Jump(JEQ_K, high, Next, no),
            Step::Plain(plain(LD_W_ABS, offset)),
            Step::Jump(code, low, yes, no),
        ]
    };
    match argument.compare {
        Compare::Equal(value) => equal(value, Fits, Fails),
        Compare::NotEqual(value) => equal(value, Fails, Fits),
        Compare::Greater(value) => above(JGT_K, value, Fits, Fails),
        Compare::GreaterOrEqual(value) => above(JGE_K, value, Fits, Fails),
        Compare::Less(value) => above(JGE_K, value, Fails, Fits),
        Compare::LessOrEqual(value) => above(JGT_K, value, Fails, Fits),
        Compare::Masked { mask, value } => {
            let ((mask_high, mask_low), (high, low)) = (halves(mask), halves(value));
            vec![
                load_high,
                Step::Plain(plain(AND_K, mask_high)),
                Step::Jump(JEQ_K, high, Next, Fails),
                load_low,
                Step::Plain(plain(AND_K, mask_low)),
                Step::Jump(JEQ_K, low, Fits, Fails),
            ]
        }
    }
}

/// The program as the kernel reads it.
pub(crate) fn bytes(program: &[Instruction]) -> Vec<u8> {
    let mut out = Vec::with_capacity(program.len() * 8);
    for instruction in program {
        out.extend_from_slice(&instruction.code.to_ne_bytes());
        out.extend_from_slice(&[instruction.jt, instruction.jf]);
        out.extend_from_slice(&instruction.k.to_ne_bytes());
    }
    out
}
