//! GPUs by the Container Device Interface
//! (<https://github.com/cncf-tags/container-device-interface>, version 0.x and 1.x): vendors describe
//! in files what a container needs to use a device.
//!
//! A GPU belongs to one container at a time. Who has which is written beside the sandbox, so that it
//! outlives the program, and is free again when the sandbox is gone.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use aci_core::document::{self, Format};
use aci_core::error::{Error, ErrorKind, Result};
use aci_core::model::GpuSku;
use aci_core::size::Gpus as Amount;
use rustix::fs::FileType;
use serde::Deserialize;

use crate::devices::{ALL, MAKE, READ, Rule, WRITE};
use crate::protocol::{Device, Hidden, Start};

const START: &str = "container.start";
/// The file of a sandbox's directory that says which container has which GPUs.
const FILE: &str = "gpus";
/// The largest specification that is read, in bytes.
const LARGEST: u64 = 1 << 20;

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    kind: String,
    devices: Vec<Named>,
    container_edits: Edits,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Named {
    name: String,
    container_edits: Edits,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Edits {
    env: Vec<String>,
    device_nodes: Vec<Node>,
    mounts: Vec<Mount>,
    hooks: Vec<serde_json::Value>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Node {
    path: String,
    host_path: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    major: Option<u32>,
    minor: Option<u32>,
    file_mode: Option<u32>,
    permissions: Option<String>,
    uid: Option<u32>,
    gid: Option<u32>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Mount {
    host_path: String,
    container_path: String,
    options: Vec<String>,
}

/// A GPU: its qualified name, and what a container needs for it.
#[derive(Clone, Debug)]
struct Gpu {
    name: String,
    edits: Edits,
    /// What every container with one of its kind needs.
    common: Edits,
}

/// The GPUs of this machine.
#[derive(Debug)]
pub(crate) struct Gpus {
    all: Vec<Gpu>,
    sku: GpuSku,
    skip_hooks: bool,
    state: PathBuf,
    choosing: Mutex<()>,
}

impl Gpus {
    /// Reads the specifications in some directories; those that cannot be read are told in
    /// `missing`.
    pub(crate) fn find(
        directories: &[PathBuf],
        sku: GpuSku,
        skip_hooks: bool,
        state: &Path,
        missing: &mut Vec<String>,
    ) -> Self {
        let mut all: Vec<Gpu> = Vec::new();
        // Of two specifications of one device that of the later directory counts, as the
        // interface has it.
        for path in directories.iter().rev().flat_map(|at| files(at)) {
            match read(&path) {
                Ok(spec) => {
                    for gpu in gpus(spec) {
                        if !all.iter().any(|have| have.name == gpu.name) {
                            all.push(gpu);
                        }
                    }
                }
                Err(why) => missing.push(format!(
                    "GPUs of the CDI specification {} are not used: {why}",
                    path.display()
                )),
            }
        }
        all.sort_by(|one, other| one.name.cmp(&other.name));
        Self {
            all,
            sku,
            skip_hooks,
            state: state.to_owned(),
            choosing: Mutex::new(()),
        }
    }

    /// How many there are, for admission.
    pub(crate) fn amounts(&self) -> Vec<Amount> {
        let count = u32::try_from(self.all.len()).unwrap_or(u32::MAX);
        if count == 0 {
            return Vec::new();
        }
        vec![Amount {
            count,
            sku: self.sku.clone(),
        }]
    }

    /// Gives a container its GPUs: those that it had, or free ones.
    pub(crate) fn give(&self, directory: &Path, count: u32, start: &mut Start) -> Result<()> {
        if count == 0 {
            return Ok(());
        }
        let container = start.name.clone();
        let chosen = self.choose(directory, &container, count as usize)?;
        let mut common: Vec<&Edits> = Vec::new();
        for gpu in &chosen {
            if !common.contains(&&gpu.common) {
                common.push(&gpu.common);
            }
        }
        for edits in common
            .into_iter()
            .chain(chosen.iter().map(|gpu| &gpu.edits))
        {
            self.apply(edits, start)
                .map_err(|error| error.on(&container))?;
        }
        Ok(())
    }

    fn choose(&self, directory: &Path, container: &str, count: usize) -> Result<Vec<&Gpu>> {
        let _one_at_a_time = self.choosing.lock().unwrap_or_else(PoisonError::into_inner);
        let internal = |error: io::Error| {
            Error::new(ErrorKind::Internal, START, "recording GPUs").because(error)
        };
        let own = directory.join(FILE);
        let mine = holdings(&own);
        let mut taken = BTreeSet::new();
        for entry in fs::read_dir(&self.state).map_err(internal)?.flatten() {
            taken.extend(
                holdings(&entry.path().join(FILE))
                    .into_iter()
                    .map(|(gpu, _)| gpu),
            );
        }
        let had = |gpu: &&Gpu| {
            mine.iter()
                .any(|(name, owner)| *name == gpu.name && owner == container)
        };
        let mut chosen: Vec<&Gpu> = self.all.iter().filter(had).take(count).collect();
        let free = self.all.iter().filter(|gpu| !taken.contains(&gpu.name));
        chosen.extend(free.take(count - chosen.len()));
        if chosen.len() < count {
            return Err(Error::new(
                ErrorKind::Exhausted,
                START,
                format!(
                    "the container asks for {count} GPUs; {} of the machine's {} are free",
                    chosen.len(),
                    self.all.len()
                ),
            )
            .on(container)
            .code("ServiceUnavailable")
            .hint("describe GPUs in /etc/cdi (for NVIDIA: nvidia-ctk cdi generate)"));
        }
        let others = mine.iter().filter(|(_, owner)| owner != container);
        let text: String = others
            .map(|(gpu, owner)| format!("{gpu} {owner}\n"))
            .chain(
                chosen
                    .iter()
                    .map(|gpu| format!("{} {container}\n", gpu.name)),
            )
            .collect();
        let new = directory.join("gpus.new");
        fs::write(&new, text)
            .and_then(|()| fs::rename(&new, &own))
            .map_err(internal)?;
        Ok(chosen)
    }

    fn apply(&self, edits: &Edits, start: &mut Start) -> Result<()> {
        if !edits.hooks.is_empty() && !self.skip_hooks {
            return Err(Error::new(
                ErrorKind::Unsupported,
                START,
                "the CDI specification of its GPU wants programs of the host run (hooks)",
            )
            .hint(
                "generate it without hooks, or let them be skipped with \
                 NamespacesOptions::cdi_skip_hooks",
            ));
        }
        for node in &edits.device_nodes {
            let device = device(node)?;
            if !start.devices.iter().any(|have| have.path == device.path) {
                start.devices.push(device);
            }
        }
        for mount in &edits.mounts {
            let read_only = !mount.options.iter().any(|option| option == "rw");
            let bind = (
                mount.host_path.clone(),
                mount.container_path.clone(),
                read_only,
            );
            if !start.binds.contains(&bind) {
                start.binds.push(bind);
            }
        }
        let variables = edits
            .env
            .iter()
            .map(|text| Hidden(text.as_bytes().to_vec()));
        start.program.env.extend(variables);
        Ok(())
    }
}

fn device(node: &Node) -> Result<Device> {
    let host = node.host_path.as_deref().unwrap_or(&node.path);
    let invalid = |why: String| {
        Error::new(
            ErrorKind::Invalid,
            START,
            format!("the CDI specification's device '{host}': {why}"),
        )
    };
    let stat = rustix::fs::stat(host).map_err(|errno| invalid(errno.to_string()));
    let found = stat.map(|stat| {
        let block = match FileType::from_raw_mode(stat.st_mode) {
            FileType::BlockDevice => Some(true),
            FileType::CharacterDevice => Some(false),
            _ => None,
        };
        let (major, minor) = (
            rustix::fs::major(stat.st_rdev),
            rustix::fs::minor(stat.st_rdev),
        );
        (block, major, minor, stat.st_mode & 0o777)
    });
    let (block, major, minor, mode) = match (node.kind.as_deref(), node.major, node.minor) {
        // It need not be there: the specification says all.
        (Some(kind @ ("b" | "c" | "u")), Some(major), Some(minor)) => (
            kind == "b",
            major,
            minor,
            found.as_ref().map_or(0o666, |found| found.3),
        ),
        _ => {
            let (block, major, minor, mode) = found?;
            let block = block.ok_or_else(|| invalid("it is no device".to_owned()))?;
            (block, major, minor, mode)
        }
    };
    let access = match node.permissions.as_deref().unwrap_or("") {
        "" => ALL,
        text => text.chars().try_fold(0, |sum, letter| match letter {
            'r' => Ok(sum | READ),
            'w' => Ok(sum | WRITE),
            'm' => Ok(sum | MAKE),
            _ => Err(invalid(format!("'{text}' is not made of r, w and m"))),
        })?,
    };
    Ok(Device {
        path: node.path.clone(),
        rule: Rule {
            block,
            major: Some(major),
            minor: Some(minor),
            access,
        },
        mode: node.file_mode.unwrap_or(mode),
        uid: node.uid.unwrap_or(0),
        gid: node.gid.unwrap_or(0),
    })
}

/// The GPUs of a specification. Vendors name one GPU several times, by number, by serial number and
/// as part of `all`; the numbers count where there are any.
fn gpus(spec: Spec) -> Vec<Gpu> {
    if spec.kind.rsplit('/').next() != Some("gpu") {
        return Vec::new();
    }
    let number = |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit());
    let numbered = spec.devices.iter().any(|device| number(&device.name));
    spec.devices
        .into_iter()
        .filter(|device| device.name != "all" && (!numbered || number(&device.name)))
        .filter(|device| !device.name.contains(char::is_whitespace))
        .map(|device| Gpu {
            name: format!("{}={}", spec.kind, device.name),
            edits: device.container_edits,
            common: spec.container_edits.clone(),
        })
        .collect()
}

/// The specifications of a directory, by name.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut out: Vec<PathBuf> = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            path.extension()
                .is_some_and(|kind| kind == "json" || kind == "yaml" || kind == "yml")
        })
        .collect();
    out.sort();
    out
}

fn read(path: &Path) -> std::result::Result<Spec, String> {
    let size = fs::metadata(path).map_err(|error| error.to_string())?.len();
    if size > LARGEST {
        return Err(format!("it has {size} bytes; {LARGEST} are read at most"));
    }
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    parse(&text)
}

fn parse(text: &str) -> std::result::Result<Spec, String> {
    let node = document::parse(text, Format::of_text(text)).map_err(|error| error.to_string())?;
    let spec: Spec = serde_json::from_value(node.to_json()).map_err(|error| error.to_string())?;
    if spec.kind.split('/').count() != 2 {
        return Err(format!(
            "its kind '{}' is not of the form vendor/class",
            spec.kind
        ));
    }
    Ok(spec)
}

/// GPU and container of each line.
fn holdings(path: &Path) -> Vec<(String, String)> {
    fs::read_to_string(path)
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(gpu, container)| (gpu.to_owned(), container.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// In the form that `nvidia-ctk cdi generate` writes.
    const NVIDIA: &str = "
cdiVersion: 0.5.0
kind: nvidia.com/gpu
containerEdits:
  env: [NVIDIA_VISIBLE_DEVICES=void]
  deviceNodes:
  - path: /dev/nvidiactl
    hostPath: /dev/null
devices:
- name: \"0\"
  containerEdits:
    deviceNodes:
    - {path: /dev/nvidia0, type: c, major: 195, minor: 0, permissions: rw}
- name: GPU-1234
  containerEdits: {deviceNodes: [{path: /dev/nvidia0}]}
- name: all
  containerEdits: {deviceNodes: [{path: /dev/nvidia0}]}
";

    #[test]
    fn one_gpu_is_counted_once() {
        let found = gpus(parse(NVIDIA).unwrap());
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].name, "nvidia.com/gpu=0");
        let node = device(&found[0].edits.device_nodes[0]).unwrap();
        assert_eq!(
            (node.rule.major, node.rule.access),
            (Some(195), READ | WRITE)
        );
        assert!(gpus(parse("kind: vendor.com/net\ndevices: [{name: x}]").unwrap()).is_empty());
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert!(parse("kind: gpu").unwrap_err().contains("vendor/class"));
        let mut node = Node {
            path: "/etc/passwd".into(),
            ..Node::default()
        };
        assert!(device(&node).unwrap_err().to_string().contains("no device"));
        node.path = "/dev/null".into();
        node.permissions = Some("rx".into());
        assert!(device(&node).unwrap_err().to_string().contains("'rx'"));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,200}") {
            let _ = parse(&text);
        }
    }
}
