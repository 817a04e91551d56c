//! An independent look for what a group may have left on a machine: it reads /proc, /sys and
//! directories itself and asks no crate of this project.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Finds everything whose name or contents bear one of these marks (a sandbox id, or a prefix).
#[must_use]
pub fn find(marks: &[&str], directories: &[PathBuf]) -> Vec<String> {
    let mut found = Vec::new();
    let marked = |text: &str| marks.iter().any(|mark| text.contains(mark));
    for (pid, command) in processes() {
        if marked(&command) {
            found.push(format!("process {pid}: {command}"));
        }
    }
    for line in read("/proc/self/mountinfo").lines() {
        if marked(line) {
            found.push(format!("mount: {line}"));
        }
    }
    walk(Path::new("/sys/fs/cgroup"), 5, &mut |path| {
        if path.is_dir() && marked(&name(path)) {
            found.push(format!("cgroup: {}", path.display()));
        }
    });
    walk(Path::new("/sys/class/net"), 1, &mut |path| {
        let alias = read(path.join("ifalias"));
        if marked(&alias) || marked(&name(path)) {
            found.push(format!("link: {} {}", name(path), alias.trim()));
        }
    });
    for directory in directories {
        walk(directory, 6, &mut |path| {
            if marked(&name(path)) {
                found.push(format!("file: {}", path.display()));
            }
        });
    }
    found
}

/// The processes of a group, as pid and start time, so that a later process of the same number is
/// not taken for one of them: those that bear its mark in their command line or cgroup, and all
/// that share a namespace with one of these.
#[must_use]
pub fn members(mark: &str) -> BTreeMap<u32, String> {
    let namespaces = |pid: u32| {
        ["net", "uts", "ipc"].map(|kind| std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok())
    };
    let own = namespaces(std::process::id());
    let processes = processes();
    let marked = processes.iter().filter(|(_, text)| text.contains(mark));
    let inside: Vec<PathBuf> = marked
        .flat_map(|(pid, _)| namespaces(*pid))
        .flatten()
        .filter(|namespace| !own.iter().flatten().any(|o| o == namespace))
        .collect();
    processes
        .iter()
        .filter(|(pid, text)| {
            text.contains(mark)
                || namespaces(**pid)
                    .iter()
                    .flatten()
                    .any(|n| inside.contains(n))
        })
        .filter_map(|(pid, _)| Some((*pid, start_time(*pid)?)))
        .collect()
}

/// Those of the processes that still run.
#[must_use]
pub fn alive(members: &BTreeMap<u32, String>) -> Vec<u32> {
    members
        .iter()
        .filter(|(pid, start)| start_time(**pid).as_ref() == Some(start))
        .map(|(pid, _)| *pid)
        .collect()
}

fn start_time(pid: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in brackets may hold anything; the start time is the 20th field behind it.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?;
    if state == "Z" {
        return None;
    }
    fields.nth(18).map(str::to_owned)
}

/// Command line and cgroups of every process but this one.
fn processes() -> BTreeMap<u32, String> {
    let mut processes = BTreeMap::new();
    let own = std::process::id();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        // What has ended and only waits for its parent to ask is nothing that runs.
        if pid != own && start_time(pid).is_some() {
            let command = read(entry.path().join("cmdline")).replace('\0', " ");
            let cgroup = read(entry.path().join("cgroup")).replace('\n', " ");
            processes.insert(pid, format!("{command} {cgroup}"));
        }
    }
    processes
}

fn name(path: &Path) -> String {
    path.file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}

fn walk(directory: &Path, depth: u8, visit: &mut dyn FnMut(&Path)) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        visit(&path);
        let real_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if depth > 1 && real_directory {
            walk(&path, depth - 1, visit);
        }
    }
}
