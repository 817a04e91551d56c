//! Filters as rules, and the JSON form of OCI runtimes and Docker.

use aci_core::error::{Error, ErrorKind, Result};
use serde::Deserialize;

/// What happens with a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    Allow,
    /// The call fails with this error number.
    Errno(u16),
    KillProcess,
    KillThread,
    Trap,
    Log,
}

/// A comparison of a 64-bit argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compare {
    NotEqual(u64),
    Less(u64),
    LessOrEqual(u64),
    Equal(u64),
    GreaterOrEqual(u64),
    Greater(u64),
    Masked { mask: u64, value: u64 },
}

/// A comparison of one of a call's six arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Argument {
    /// 0 to 5.
    pub(crate) index: u8,
    pub(crate) compare: Compare,
}

/// What happens with some calls, if all arguments fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) names: Vec<String>,
    pub(crate) action: Action,
    pub(crate) arguments: Vec<Argument>,
    /// Only on these (Docker's names); empty for all.
    pub(crate) architectures: Vec<String>,
    pub(crate) without_architectures: Vec<String>,
    /// Only with all of these.
    pub(crate) capabilities: Vec<String>,
    /// Only with none of these.
    pub(crate) without_capabilities: Vec<String>,
    /// Only from this kernel on.
    pub(crate) min_kernel: Option<(u32, u32)>,
}

impl Rule {
    pub(crate) fn new(names: Vec<String>, action: Action) -> Self {
        Self {
            names,
            action,
            arguments: Vec::new(),
            architectures: Vec::new(),
            without_architectures: Vec::new(),
            capabilities: Vec::new(),
            without_capabilities: Vec::new(),
            min_kernel: None,
        }
    }
}

/// A whole filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Profile {
    /// For calls without a fitting rule.
    pub(crate) default: Action,
    pub(crate) rules: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Json {
    default_action: String,
    default_errno_ret: Option<u16>,
    #[serde(default)]
    syscalls: Option<Vec<JsonRule>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JsonRule {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    names: Option<Vec<String>>,
    action: String,
    errno_ret: Option<u16>,
    #[serde(default)]
    args: Option<Vec<JsonArgument>>,
    #[serde(default)]
    includes: Option<JsonFilter>,
    #[serde(default)]
    excludes: Option<JsonFilter>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JsonArgument {
    index: u8,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct JsonFilter {
    #[serde(default)]
    caps: Option<Vec<String>>,
    #[serde(default)]
    arches: Option<Vec<String>>,
    #[serde(default)]
    min_kernel: Option<String>,
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, "container.start", message)
}

fn action(name: &str, errno: Option<u16>) -> Result<Action> {
    Ok(match name {
        "SCMP_ACT_ALLOW" => Action::Allow,
        // EPERM, as runtimes do (OCI runtime specification, linux.seccomp).
        "SCMP_ACT_ERRNO" => match errno.unwrap_or(1) {
            number @ 0..=4095 => Action::Errno(number),
            number => {
                return Err(invalid(format!(
                    "seccompProfile: {number} is not an error number"
                )));
            }
        },
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Action::KillThread,
        "SCMP_ACT_KILL_PROCESS" => Action::KillProcess,
        "SCMP_ACT_TRAP" => Action::Trap,
        "SCMP_ACT_LOG" => Action::Log,
        "SCMP_ACT_TRACE" | "SCMP_ACT_NOTIFY" => {
            return Err(invalid(format!(
                "seccompProfile: the action {name} needs a tracer or a listener, which containers here do not have"
            )));
        }
        other => {
            return Err(invalid(format!(
                "seccompProfile: '{other}' is not an action such as SCMP_ACT_ALLOW or SCMP_ACT_ERRNO"
            )));
        }
    })
}

fn compare(argument: &JsonArgument) -> Result<Argument> {
    let value = argument.value;
    if argument.index > 5 {
        return Err(invalid(format!(
            "seccompProfile: system calls have the arguments 0 to 5, not {}",
            argument.index
        )));
    }
    let compare = match argument.op.as_str() {
        "SCMP_CMP_NE" => Compare::NotEqual(value),
        "SCMP_CMP_LT" => Compare::Less(value),
        "SCMP_CMP_LE" => Compare::LessOrEqual(value),
        "SCMP_CMP_EQ" => Compare::Equal(value),
        "SCMP_CMP_GE" => Compare::GreaterOrEqual(value),
        "SCMP_CMP_GT" => Compare::Greater(value),
        "SCMP_CMP_MASKED_EQ" => Compare::Masked {
            mask: value,
            value: argument.value_two,
        },
        other => {
            return Err(invalid(format!(
                "seccompProfile: '{other}' is not a comparison such as SCMP_CMP_EQ"
            )));
        }
    };
    Ok(Argument {
        index: argument.index,
        compare,
    })
}

fn kernel(text: &str) -> Result<(u32, u32)> {
    super::version(text).ok_or_else(|| {
        invalid(format!(
            "seccompProfile: '{text}' is not a kernel version such as 4.8"
        ))
    })
}

/// Reads a profile in the JSON form of the OCI runtime specification, or of Docker with its
/// `includes` and `excludes`.
///
/// # Errors
/// `Invalid` with what is wrong.
pub(crate) fn parse(text: &str) -> Result<Profile> {
    let json: Json = serde_json::from_str(text).map_err(|error| {
        invalid(format!(
            "seccompProfile is not a seccomp profile in JSON: {error}"
        ))
    })?;
    let default = action(&json.default_action, json.default_errno_ret)?;
    let mut rules = Vec::new();
    for rule in json.syscalls.unwrap_or_default() {
        let includes = rule.includes.unwrap_or_default();
        let excludes = rule.excludes.unwrap_or_default();
        let mut names = rule.names.unwrap_or_default();
        names.extend(rule.name);
        rules.push(Rule {
            action: action(&rule.action, rule.errno_ret)?,
            names,
            arguments: rule
                .args
                .unwrap_or_default()
                .iter()
                .map(compare)
                .collect::<Result<_>>()?,
            architectures: includes.arches.unwrap_or_default(),
            without_architectures: excludes.arches.unwrap_or_default(),
            capabilities: includes.caps.unwrap_or_default(),
            without_capabilities: excludes.caps.unwrap_or_default(),
            min_kernel: includes.min_kernel.as_deref().map(kernel).transpose()?,
        });
    }
    Ok(Profile { default, rules })
}
