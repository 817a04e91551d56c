//! Finds the libraries of programs as the dynamic loader would (ld.so(8)), without running it.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use aci_core::error::{Error, ErrorKind, Result};

use super::elf::{Elf, Machine};
use crate::fail;

/// A file of the host and its place in the image.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) host: PathBuf,
    pub(super) image: PathBuf,
}

/// A loaded file: where it is and who asked for it.
#[derive(Debug)]
struct Object {
    place: Place,
    elf: Elf,
    /// The index of the object that needs it.
    parent: Option<usize>,
}

/// What libraries a program brings along.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Files to copy.
    pub(super) files: Vec<Place>,
    /// Links to make: path in the image and its target. The loader in the image has no cache, so a
    /// library from a directory that only `/etc/ld.so.conf` names gets a link in a default one.
    pub(super) links: BTreeMap<PathBuf, PathBuf>,
}

/// The directories of a host.
#[derive(Debug)]
pub(super) struct Libraries {
    configured: Vec<PathBuf>,
}

impl Libraries {
    /// Of this host.
    pub(super) fn of_host() -> Self {
        let mut configured = Vec::new();
        read_conf(Path::new("/etc/ld.so.conf"), &mut configured, 0);
        Self { configured }
    }

    /// Finds all that a program needs; `bytes` is its content.
    pub(super) fn resolve(&self, program: &Place, bytes: &[u8]) -> Result<Found> {
        let mut found = Found::default();
        let Some(elf) = Elf::read(bytes) else {
            return Ok(found);
        };
        let elf = elf.map_err(|why| unreadable(&program.host, &why))?;
        let mut musl = false;
        if let Some(path) = &elf.interpreter {
            let path = PathBuf::from(std::ffi::OsStr::from_bytes(path));
            if !path.exists() {
                return Err(missing(
                    &format!("the loader '{}'", path.display()),
                    &program.host,
                    &[],
                ));
            }
            let name = path.file_name().unwrap_or_default().as_bytes();
            musl = name.starts_with(b"ld-musl");
            found.files.push(Place {
                host: path.clone(),
                image: path,
            });
        }
        let machine = elf.machine;
        let interpreter = elf.interpreter.clone();
        let mut objects = vec![Object {
            place: program.clone(),
            elf,
            parent: None,
        }];
        // Each name is loaded once, whoever asks; breadth first, as the loader does.
        let mut loaded: Vec<Vec<u8>> = Vec::new();
        if let Some(own) = interpreter
            .as_deref()
            .and_then(|p| p.rsplit(|b| *b == b'/').next())
        {
            loaded.push(own.to_vec());
        }
        let mut queue = VecDeque::from([0]);
        while let Some(at) = queue.pop_front() {
            for name in objects[at].elf.needed.clone() {
                if loaded.contains(&name) || (musl && in_musl(&name)) {
                    continue;
                }
                loaded.push(name.clone());
                let (place, elf) = self.find(&objects, at, &name, machine, &mut found)?;
                found.files.push(place.clone());
                objects.push(Object {
                    place,
                    elf,
                    parent: Some(at),
                });
                queue.push_back(objects.len() - 1);
            }
        }
        Ok(found)
    }

    fn find(
        &self,
        objects: &[Object],
        at: usize,
        name: &[u8],
        machine: Machine,
        found: &mut Found,
    ) -> Result<(Place, Elf)> {
        let asking = &objects[at];
        let name_path = Path::new(std::ffi::OsStr::from_bytes(name));
        let mut tried = Vec::new();
        // A name with a slash is a path.
        if name.contains(&b'/') {
            let place = Place {
                host: name_path.to_owned(),
                image: name_path.to_owned(),
            };
            return match load(&place.host, machine) {
                Some(elf) => Ok((place, elf)),
                None => Err(missing(&shown(name), &asking.place.host, &[])),
            };
        }
        for (host, image) in run_paths(objects, at) {
            let place = Place {
                host: host.join(name_path),
                image: image.join(name_path),
            };
            if let Some(elf) = load(&place.host, machine) {
                return Ok((place, elf));
            }
            tried.push(host);
        }
        let defaults = default_dirs(machine);
        let configured = self.configured.iter().filter(|dir| !defaults.contains(dir));
        for dir in defaults.iter().chain(configured) {
            let path = dir.join(name_path);
            if let Some(elf) = load(&path, machine) {
                if !defaults.contains(dir) {
                    let near = Path::new(match machine.0 {
                        true if Path::new("/lib64").exists() => "/lib64",
                        _ => "/lib",
                    });
                    for place in [near, Path::new("/lib")] {
                        found.links.insert(place.join(name_path), path.clone());
                    }
                }
                let place = Place {
                    host: path.clone(),
                    image: path,
                };
                return Ok((place, elf));
            }
            if dir.exists() {
                tried.push(dir.clone());
            }
        }
        Err(missing(&shown(name), &asking.place.host, &tried))
    }
}

/// The directories of `DT_RUNPATH`, or of `DT_RPATH` of this object and those that led to it; each
/// on the host and in the image.
fn run_paths(objects: &[Object], at: usize) -> Vec<(PathBuf, PathBuf)> {
    let mut all = Vec::new();
    if let Some(path) = &objects[at].elf.runpath {
        expand(path, &objects[at].place, &mut all);
        return all;
    }
    let mut next = Some(at);
    while let Some(at) = next {
        let object = &objects[at];
        if let (Some(path), None) = (&object.elf.rpath, &object.elf.runpath) {
            expand(path, &object.place, &mut all);
        }
        next = object.parent;
    }
    all
}

fn expand(list: &[u8], place: &Place, into: &mut Vec<(PathBuf, PathBuf)>) {
    let dir = |path: &Path| path.parent().unwrap_or_else(|| Path::new("/")).to_owned();
    // A program's $ORIGIN is where it really is, not where a link to it is.
    let real = fs::canonicalize(&place.host).unwrap_or_else(|_| place.host.clone());
    for part in list.split(|b| *b == b':').filter(|p| !p.is_empty()) {
        let part = String::from_utf8_lossy(part);
        let with = |origin: &Path| {
            let origin = origin.to_string_lossy();
            let text = part
                .replace("${ORIGIN}", &origin)
                .replace("$ORIGIN", &origin)
                .replace("${LIB}", "lib")
                .replace("$LIB", "lib");
            normal(Path::new(&text))
        };
        let host = with(&dir(&real));
        if host.is_absolute() {
            into.push((host, with(&dir(&place.image))));
        }
    }
}

/// Takes `.` and `..` out, by text.
pub(super) fn normal(path: &Path) -> PathBuf {
    use std::path::Component;
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                out.pop();
            }
            Component::CurDir => {}
            other => out.push(other),
        }
    }
    out
}

/// Reads a library if it is there and for the same machine; the loader passes over others.
fn load(path: &Path, machine: Machine) -> Option<Elf> {
    if !path.is_file() {
        return None;
    }
    let elf = Elf::read(&fs::read(path).ok()?)?.ok()?;
    (elf.machine == machine).then_some(elf)
}

/// Names that musl's loader takes for itself (musl, `ldso/dynlink.c`).
fn in_musl(name: &[u8]) -> bool {
    const OWN: [&str; 7] = ["c", "pthread", "rt", "m", "dl", "util", "xnet"];
    let Some(rest) = name.strip_prefix(b"lib") else {
        return false;
    };
    rest.starts_with(b"c.musl-")
        || OWN.iter().any(|own| {
            rest.strip_prefix(own.as_bytes())
                .is_some_and(|rest| rest.starts_with(b"."))
        })
}

/// Where loaders look without being told: Debian's multiarch directories and the common ones.
fn default_dirs((wide, little, machine): Machine) -> Vec<PathBuf> {
    use object::elf;
    let triplet = match (elf::Machine(machine), wide, little) {
        (elf::EM_X86_64, true, _) => Some("x86_64-linux-gnu"),
        (elf::EM_386, ..) => Some("i386-linux-gnu"),
        (elf::EM_AARCH64, ..) => Some("aarch64-linux-gnu"),
        (elf::EM_ARM, ..) => Some("arm-linux-gnueabihf"),
        (elf::EM_RISCV, true, _) => Some("riscv64-linux-gnu"),
        (elf::EM_PPC64, _, true) => Some("powerpc64le-linux-gnu"),
        (elf::EM_S390, true, _) => Some("s390x-linux-gnu"),
        _ => None,
    };
    let mut dirs = Vec::new();
    if let Some(triplet) = triplet {
        dirs.push(Path::new("/lib").join(triplet));
        dirs.push(Path::new("/usr/lib").join(triplet));
    }
    if wide {
        dirs.extend(["/lib64", "/usr/lib64"].map(PathBuf::from));
    }
    dirs.extend(["/lib", "/usr/lib"].map(PathBuf::from));
    dirs
}

/// `/etc/ld.so.conf` and what it includes (ldconfig(8)).
fn read_conf(path: &Path, into: &mut Vec<PathBuf>, depth: usize) {
    let Ok(text) = fs::read_to_string(path) else {
        return;
    };
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if let Some(pattern) = line.strip_prefix("include").map(str::trim) {
            if depth < 4 {
                for file in matching(Path::new(pattern), path) {
                    read_conf(&file, into, depth + 1);
                }
            }
        } else if line.starts_with('/') && !into.iter().any(|dir| dir == Path::new(line)) {
            into.push(PathBuf::from(line));
        }
    }
}

/// Files that a pattern with one `*` in its last part names, sorted.
fn matching(pattern: &Path, from: &Path) -> Vec<PathBuf> {
    let pattern = from
        .parent()
        .unwrap_or_else(|| Path::new("/"))
        .join(pattern);
    let name = pattern.file_name().unwrap_or_default().to_string_lossy();
    let Some((start, end)) = name.split_once('*') else {
        return vec![pattern];
    };
    let Ok(entries) = pattern
        .parent()
        .map_or_else(|| fs::read_dir("/"), fs::read_dir)
    else {
        return Vec::new();
    };
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| entry.ok().map(|e| e.path()))
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with(start) && name.ends_with(end)
        })
        .collect();
    files.sort();
    files
}

fn shown(name: &[u8]) -> String {
    format!(
        "the library '{}'",
        String::from_utf8_lossy(name).escape_debug()
    )
}

fn missing(what: &str, by: &Path, tried: &[PathBuf]) -> Error {
    let mut message = format!("{what} which '{}' needs is not on this host", by.display());
    if !tried.is_empty() {
        let dirs: Vec<_> = tried.iter().map(|dir| dir.display().to_string()).collect();
        message.push_str("; looked in ");
        message.push_str(&dirs.join(", "));
    }
    Error::new(ErrorKind::NotFound, "host_image.build", message)
        .hint("install the package that has it, or use a statically linked program")
}

pub(super) fn unreadable(path: &Path, why: &str) -> Error {
    Error::new(
        ErrorKind::Invalid,
        "host_image.build",
        format!("cannot be read as a program: {why}"),
    )
    .on(path.display())
}

/// Reads a file of the host.
pub(super) fn read_file(path: &Path, needed_by: Option<&Path>) -> Result<Vec<u8>> {
    fs::read(path).map_err(|e| match (e.kind(), needed_by) {
        (std::io::ErrorKind::NotFound, Some(by)) => {
            missing(&format!("the program '{}'", path.display()), by, &[])
        }
        (std::io::ErrorKind::NotFound, None) => Error::new(
            ErrorKind::NotFound,
            "host_image.build",
            format!("the program '{}' is not on this host", path.display()),
        ),
        _ => fail::io("host_image.build", "read it", path, e),
    })
}
