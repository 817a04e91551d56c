//! Which hierarchies this machine has, read from `/proc/self/mountinfo`.

use crate::protocol::CgroupPlan;

/// The v1 controllers that are used where they are mounted.
const V1: [&str; 7] = [
    "cpu", "cpuacct", "memory", "pids", "blkio", "devices", FREEZER,
];

/// The v1 controller that is only of use without a v2 hierarchy, whose every directory can be
/// frozen.
pub(crate) const FREEZER: &str = "freezer";

/// Reads the hierarchies from the text of `/proc/self/mountinfo` (proc(5)). Controllers of the v2
/// hierarchy are not in it and must be added by the caller.
pub(crate) fn parse(mountinfo: &str, parent: &str) -> CgroupPlan {
    let mut plan = CgroupPlan {
        parent: parent.trim_matches('/').to_owned(),
        ..CgroupPlan::default()
    };
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else {
            continue;
        };
        let Some(point) = left.split(' ').nth(4).map(unescape) else {
            continue;
        };
        let mut right = right.split(' ');
        let kind = right.next().unwrap_or_default();
        let options = right.nth(1).unwrap_or_default();
        if kind == "cgroup2" && plan.v2.is_none() {
            plan.v2 = Some(point);
        } else if kind == "cgroup" {
            for option in options.split(',') {
                if V1.contains(&option) && !plan.v1.iter().any(|(name, _)| name == option) {
                    plan.v1.push((option.to_owned(), point.clone()));
                }
            }
        }
    }
    if plan.v2.is_some() {
        plan.v1.retain(|(name, _)| name != FREEZER);
    }
    plan
}

/// Undoes mountinfo's octal escapes of space, tab, newline and backslash.
fn unescape(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.as_bytes();
    while let [first, rest @ ..] = bytes {
        if let [
            b'\\',
            a @ b'0'..=b'3',
            b @ b'0'..=b'7',
            c @ b'0'..=b'7',
            tail @ ..,
        ] = bytes
        {
            out.push((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'));
            bytes = tail;
        } else {
            out.push(*first);
            bytes = rest;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Whether a controller can be used in this plan, in either version.
pub(crate) fn has(plan: &CgroupPlan, controller: &str) -> bool {
    plan.v1.iter().any(|(name, _)| name == controller)
        || plan.v2_controllers.iter().any(|name| name == controller)
}
