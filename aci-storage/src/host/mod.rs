//! Images made of programs of the host.

mod archive;
mod elf;
mod libs;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aci_core::contract::Image;
use aci_core::error::{Error, ErrorKind, Result};
use bytes::Bytes;

use crate::fail::{self, blocking};
use crate::image::{
    ConfigFile, Descriptor, Digest, Inner, Manifest, OCI_CONFIG, OCI_LAYER, OCI_MANIFEST,
    OciImages, Origin, Platform, ProcessConfig, Reference, RootDiffs,
};
use archive::{Node, skeleton, write_layer};
use libs::{Libraries, Place, normal, read_file, unreadable};

const OPERATION: &str = "host_image.build";

/// Assembles an image from programs of this host: no registry, no network, no image builder.
///
/// A program brings its loader and libraries along, found as the dynamic loader finds them
/// (`RPATH`, `RUNPATH` with `$ORIGIN`, the default directories, `/etc/ld.so.conf`), without being
/// run. A script (`#!`) brings its interpreter. What a program opens by itself while it runs
/// (plug-ins, name service modules, a language's standard library) cannot be seen; add it with
/// [`HostImage::program`], [`HostImage::file`] or [`HostImage::symlink`].
///
/// The image has one layer, all files of which belong to root: programs with mode 0755, others with
/// 0644, never set-user-id. There are `/tmp` and `/var/tmp` (1777), `/root`, `/etc/passwd` and
/// `/etc/group` with `root` and `nobody`, and empty `/proc`, `/sys`, `/dev`, `/run`. Equal contents
/// give the same digest: names are sorted and times are 1970.
///
/// ```
/// use aci_core::contract::{ImageStore as _, RootFsKey};
/// use aci_storage::{HostImage, OciImages};
///
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// # let dir = tempfile::tempdir()?;
/// let images = OciImages::open(dir.path().join("images"))?;
/// let image = HostImage::new("local/hello:1")
///     .program("/bin/sh")
///     .file("/etc/motd", "Hello\n", 0o644)
///     .entrypoint(["/bin/sh", "-c", "read line < /etc/motd; echo $line"])
///     .build(&images)
///     .await?;
/// assert_eq!(images.get("local/hello:1").await?.digest, image.digest);
///
/// let key = RootFsKey { sandbox: "demo-1".parse()?, container: "hello".into() };
/// let root = images.prepare(&image.digest, &key).await?;
/// assert_eq!(root.layers.len(), 1);
/// images.release(&key).await?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct HostImage {
    reference: String,
    items: Vec<Item>,
    config: ProcessConfig,
}

#[derive(Clone, Debug)]
enum Item {
    Program {
        host: PathBuf,
        image: PathBuf,
    },
    File {
        image: PathBuf,
        content: Bytes,
        mode: u32,
    },
    Symlink {
        image: PathBuf,
        target: String,
    },
    Directory {
        image: PathBuf,
        mode: u32,
    },
}

impl HostImage {
    /// An image that will be called so.
    pub fn new(reference: impl Into<String>) -> Self {
        Self {
            reference: reference.into(),
            items: Vec::new(),
            config: ProcessConfig {
                env: Some(vec![
                    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
                ]),
                ..ProcessConfig::default()
            },
        }
    }

    /// Adds a program of the host under its own absolute path, with its libraries.
    #[must_use]
    pub fn program(self, path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        self.program_as(path.clone(), path)
    }

    /// Adds a program of the host under another absolute path, with its libraries.
    #[must_use]
    pub fn program_as(mut self, host: impl Into<PathBuf>, image: impl Into<PathBuf>) -> Self {
        self.items.push(Item::Program {
            host: host.into(),
            image: image.into(),
        });
        self
    }

    /// Adds a file with this content; `mode` may have permission bits only, such as `0o644`.
    #[must_use]
    pub fn file(mut self, path: impl Into<PathBuf>, content: impl Into<Bytes>, mode: u32) -> Self {
        self.items.push(Item::File {
            image: path.into(),
            content: content.into(),
            mode,
        });
        self
    }

    /// Adds a symbolic link.
    #[must_use]
    pub fn symlink(mut self, path: impl Into<PathBuf>, target: impl Into<String>) -> Self {
        self.items.push(Item::Symlink {
            image: path.into(),
            target: target.into(),
        });
        self
    }

    /// Adds a directory. Those above files need not be added; they get mode 0755.
    #[must_use]
    pub fn directory(mut self, path: impl Into<PathBuf>, mode: u32) -> Self {
        self.items.push(Item::Directory {
            image: path.into(),
            mode,
        });
        self
    }

    /// Sets the program and first arguments that containers run.
    #[must_use]
    pub fn entrypoint<T: Into<String>>(mut self, words: impl IntoIterator<Item = T>) -> Self {
        self.config.entrypoint = Some(words.into_iter().map(Into::into).collect());
        self
    }

    /// Sets the default arguments.
    #[must_use]
    pub fn cmd<T: Into<String>>(mut self, words: impl IntoIterator<Item = T>) -> Self {
        self.config.cmd = Some(words.into_iter().map(Into::into).collect());
        self
    }

    /// Sets an environment variable; `PATH` has a usual value unless it is set here.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        let all = self.config.env.get_or_insert_default();
        all.retain(|pair| pair.split('=').next() != Some(name));
        all.push(format!("{name}={value}"));
        self
    }

    /// Sets the user: a name of the image's `/etc/passwd`, an id, or either with a group.
    #[must_use]
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.config.user = Some(user.into());
        self
    }

    /// Sets the working directory.
    #[must_use]
    pub fn working_dir(mut self, path: impl Into<String>) -> Self {
        self.config.working_dir = Some(path.into());
        self
    }

    /// Sets a label.
    #[must_use]
    pub fn label(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        let labels = self.config.labels.get_or_insert_default();
        labels.insert(name.into(), value.into());
        self
    }

    /// Copies everything into the store and sets the reference.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) for a program, loader or library that is not on this
    /// host, with what needs it; [`Invalid`](ErrorKind::Invalid) for a bad reference, a path that
    /// is not absolute or is used twice, or a file that is no program; otherwise as
    /// [`OciImages::import_layout`]. The reference is as before then.
    ///
    /// # Cancel safety
    /// It goes on in the background and ends as a whole or not at all.
    #[tracing::instrument(name = "host_image.build", skip_all, fields(reference = %self.reference))]
    pub async fn build(self, images: &OciImages) -> Result<Image> {
        let inner = Arc::clone(&images.inner);
        blocking(OPERATION, move || self.install(&inner)).await
    }

    fn install(self, inner: &Inner) -> Result<Image> {
        self.reference.parse::<Reference>()?;
        let nodes = self.nodes()?;
        let mut stager = inner.blobs().stager()?;
        write_layer(&nodes, &mut stager)?;
        let staged = stager.finish();
        let layer = Descriptor::new(OCI_LAYER, staged.digest, staged.size);
        let _pins = inner.pin([layer.digest]);
        inner.blobs().adopt(staged)?;
        let platform = Platform::host();
        let config = ConfigFile {
            created: Some("1970-01-01T00:00:00Z".to_owned()),
            architecture: platform.architecture,
            os: platform.os,
            variant: platform.variant,
            config: Some(self.config),
            rootfs: RootDiffs {
                kind: "layers".to_owned(),
                diff_ids: vec![layer.digest],
            },
        };
        let config = to_json(&config)?;
        let manifest = to_json(&Manifest {
            schema_version: 2,
            media_type: Some(OCI_MANIFEST.to_owned()),
            config: Descriptor::new(OCI_CONFIG, Digest::of(&config), config.len() as u64),
            layers: vec![layer],
        })?;
        inner.install(
            &self.reference,
            &manifest,
            &config,
            None,
            Origin::Local,
            None,
        )
    }

    /// Everything that the image will hold, by path.
    fn nodes(&self) -> Result<BTreeMap<PathBuf, Node>> {
        let mut nodes = BTreeMap::new();
        let libraries = Libraries::of_host();
        let mut programs: Vec<(Place, Option<PathBuf>)> = Vec::new();
        for item in &self.items {
            let (path, node) = match item {
                Item::Program { host, image } => {
                    let host = std::path::absolute(host)
                        .map_err(|e| fail::io(OPERATION, "find it", host, e))?;
                    let image = absolute(image)?;
                    let place = Place {
                        host: host.clone(),
                        image: image.clone(),
                    };
                    programs.push((place, None));
                    (image, Node::Copy(host))
                }
                Item::File {
                    image,
                    content,
                    mode,
                } => (absolute(image)?, Node::Bytes(content.clone(), mode & 0o777)),
                Item::Symlink { image, target } => (absolute(image)?, Node::Link(target.clone())),
                Item::Directory { image, mode } => {
                    (absolute(image)?, Node::Directory(mode & 0o1777))
                }
            };
            match nodes.get(&path) {
                Some(before) if *before != node => {
                    return Err(invalid(format!("'{}' is added twice", path.display())));
                }
                _ => nodes.insert(path, node),
            };
        }
        add_programs(&libraries, programs, &mut nodes)?;
        for (path, node) in skeleton() {
            nodes.entry(path).or_insert(node);
        }
        add_parents(&mut nodes)?;
        Ok(nodes)
    }
}

/// Adds what programs need, and what that needs.
fn add_programs(
    libraries: &Libraries,
    mut todo: Vec<(Place, Option<PathBuf>)>,
    nodes: &mut BTreeMap<PathBuf, Node>,
) -> Result<()> {
    let mut seen = BTreeSet::new();
    while let Some((place, by)) = todo.pop() {
        if !seen.insert(place.clone()) {
            continue;
        }
        let bytes = read_file(&place.host, by.as_deref())?;
        if let Some(line) = bytes.strip_prefix(b"#!") {
            for needed in interpreters(line, &place.host)? {
                nodes
                    .entry(needed.clone())
                    .or_insert_with(|| Node::Copy(needed.clone()));
                let place_needed = Place {
                    host: needed.clone(),
                    image: needed,
                };
                todo.push((place_needed, Some(place.host.clone())));
            }
            continue;
        }
        if !bytes.starts_with(b"\x7fELF") {
            return Err(unreadable(
                &place.host,
                "it is neither an ELF file nor a script that starts with #!",
            ));
        }
        let found = libraries.resolve(&place, &bytes)?;
        for file in found.files {
            nodes.entry(file.image).or_insert(Node::Copy(file.host));
        }
        for (link, target) in found.links {
            let target = target.to_string_lossy().into_owned();
            nodes.entry(link).or_insert(Node::Link(target));
        }
    }
    Ok(())
}

/// The programs of a `#!` line: the interpreter, and for `env` the one that it looks up.
fn interpreters(line: &[u8], script: &Path) -> Result<Vec<PathBuf>> {
    let line = line.split(|b| *b == b'\n').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let mut words = line.split_whitespace();
    let Some(first) = words.next() else {
        return Err(unreadable(script, "its first line names no interpreter"));
    };
    let first = absolute(Path::new(first))?;
    let mut all = vec![first.clone()];
    if first.file_name().is_some_and(|name| name == "env") {
        let looked_up = words.find(|word| !word.starts_with('-') && !word.contains('='));
        if let Some(name) = looked_up {
            let dirs = ["/usr/local/bin", "/usr/bin", "/bin"];
            let found = dirs
                .iter()
                .map(|dir| Path::new(dir).join(name))
                .find(|p| p.exists());
            all.push(found.ok_or_else(|| {
                Error::new(
                    ErrorKind::NotFound,
                    OPERATION,
                    format!(
                        "the program '{name}' which '{}' needs is not in {}",
                        script.display(),
                        dirs.join(", ")
                    ),
                )
            })?);
        }
    }
    Ok(all)
}

/// Adds the directories above everything.
fn add_parents(nodes: &mut BTreeMap<PathBuf, Node>) -> Result<()> {
    let paths: Vec<PathBuf> = nodes.keys().cloned().collect();
    for path in paths {
        for above in path.ancestors().skip(1) {
            match nodes.get(above) {
                None => {
                    nodes.insert(above.to_owned(), Node::Directory(0o755));
                }
                Some(Node::Directory(_)) => {}
                Some(_) => {
                    return Err(invalid(format!(
                        "'{}' cannot be added: '{}' is not a directory in the image",
                        path.display(),
                        above.display()
                    )));
                }
            }
        }
    }
    Ok(())
}

/// A path in the image: absolute, and without `..`.
fn absolute(path: &Path) -> Result<PathBuf> {
    if !path.is_absolute() || path.to_str().is_none() {
        return Err(invalid(format!(
            "'{}' is not an absolute path of the image",
            path.display()
        )));
    }
    let path = normal(path);
    if path == Path::new("/") {
        return Err(invalid("'/' is there by itself".to_owned()));
    }
    Ok(path)
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::Invalid, OPERATION, message)
}

fn to_json(value: &impl serde::Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value)
        .map_err(|e| Error::new(ErrorKind::Internal, OPERATION, "cannot write JSON").because(e))
}

#[cfg(test)]
mod tests;
