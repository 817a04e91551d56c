//! Which references the store has, kept as the `index.json` of an OCI image layout.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use aci_core::error::{Error, ErrorKind, Result};

use super::content::write_atomically;
use super::digest::Digest;
use super::manifest::{Descriptor, Index, OCI_INDEX};
use super::reference::Reference;
use crate::fail;

/// The annotation for names in a layout (OCI image specification, "Pre-Defined Annotation Keys").
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Containerd's annotation for full names, which `docker save` writes too.
pub(crate) const FULL_NAME: &str = "io.containerd.image.name";
/// The digest of the index through which a manifest was chosen, if any.
const CHOSEN_FROM: &str = "io.github.aci-rs.index";
/// The reference as it was asked for.
const ASKED: &str = "io.github.aci-rs.asked";

/// Where the image came from, if from a registry.
const ORIGIN: &str = "io.github.aci-rs.origin";
const REGISTRY: &str = "registry";
/// Set if the image is to stay.
const PINNED: &str = "io.github.aci-rs.pinned";

/// How an image came into the store. It decides whether a registry is asked if its tag has moved:
/// for what was made or imported here no registry can know better, whatever its name is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Imported, or assembled here.
    #[default]
    Local,
    /// Pulled.
    Registry,
}

/// What a reference stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tagged {
    pub(crate) reference: Reference,
    /// As it was written when the image came in.
    pub(crate) asked: String,
    pub(crate) manifest: Descriptor,
    /// The index of several platforms that it was chosen from.
    pub(crate) index: Option<Digest>,
    pub(crate) origin: Origin,
    /// It is to stay.
    pub(crate) pinned: bool,
}

/// All references, by normal form.
#[derive(Debug)]
pub(crate) struct References {
    path: PathBuf,
    tmp: PathBuf,
    all: BTreeMap<String, Tagged>,
}

impl References {
    pub(crate) fn open(store: &Path, tmp: &Path) -> Result<Self> {
        let path = store.join("index.json");
        let all = match std::fs::read(&path) {
            Ok(bytes) => read(&bytes).map_err(|why| {
                Error::new(
                    ErrorKind::Corrupt,
                    "images.open",
                    format!("cannot be read: {why}"),
                )
                .on(path.display())
                .hint("remove this file to start with no images; their blobs are found again when they are imported or pulled")
            })?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(e) => return Err(fail::io("images.open", "read it", &path, e)),
        };
        Ok(Self {
            path,
            tmp: tmp.to_owned(),
            all,
        })
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Tagged> {
        self.all.values()
    }

    /// Finds by reference, `name@digest` of manifest or index, or a bare digest.
    pub(crate) fn find(&self, text: &str) -> Result<Option<&Tagged>> {
        if let Ok(digest) = text.parse::<Digest>() {
            return Ok(self.by_digest(&digest));
        }
        let reference: Reference = text.parse()?;
        let named = self.all.get(&reference.key());
        Ok(named.or_else(|| {
            let digest = reference.digest()?;
            self.all().find(|tagged| {
                tagged.reference.name() == reference.name()
                    && (tagged.manifest.digest == digest || tagged.index == Some(digest))
            })
        }))
    }

    pub(crate) fn by_digest(&self, digest: &Digest) -> Option<&Tagged> {
        self.all().find(|tagged| tagged.manifest.digest == *digest)
    }

    /// Sets what a reference stands for, durably.
    pub(crate) fn set(&mut self, tagged: Tagged) -> Result<()> {
        let key = tagged.reference.key();
        if self.all.get(&key) == Some(&tagged) {
            return Ok(());
        }
        let mut all = self.all.clone();
        all.insert(key, tagged);
        self.write(all)
    }

    /// Forgets references; those that are not there are no error.
    pub(crate) fn remove(&mut self, keys: &[String]) -> Result<()> {
        let mut all = self.all.clone();
        all.retain(|key, _| !keys.contains(key));
        if all.len() == self.all.len() {
            return Ok(());
        }
        self.write(all)
    }

    fn write(&mut self, all: BTreeMap<String, Tagged>) -> Result<()> {
        let index = Index {
            schema_version: 2,
            media_type: Some(OCI_INDEX.to_owned()),
            manifests: all.values().map(described).collect(),
        };
        let bytes = serde_json::to_vec_pretty(&index).map_err(|e| {
            Error::new(
                ErrorKind::Internal,
                "images.write",
                "cannot write the index",
            )
            .because(e)
        })?;
        write_atomically(&self.path, &self.tmp, &bytes)?;
        self.all = all;
        Ok(())
    }
}

fn described(tagged: &Tagged) -> Descriptor {
    let mut descriptor = tagged.manifest.clone();
    let notes = descriptor.annotations.get_or_insert_default();
    let name = tagged.reference.to_string();
    notes.insert(REF_NAME.to_owned(), name.clone());
    notes.insert(FULL_NAME.to_owned(), name);
    notes.insert(ASKED.to_owned(), tagged.asked.clone());
    if let Some(index) = &tagged.index {
        notes.insert(CHOSEN_FROM.to_owned(), index.to_string());
    }
    if tagged.origin == Origin::Registry {
        notes.insert(ORIGIN.to_owned(), REGISTRY.to_owned());
    }
    if tagged.pinned {
        notes.insert(PINNED.to_owned(), "true".to_owned());
    }
    descriptor
}

fn read(bytes: &[u8]) -> Result<BTreeMap<String, Tagged>, String> {
    let index: Index = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    let mut all = BTreeMap::new();
    for mut manifest in index.manifests {
        let notes = manifest.annotations.take().unwrap_or_default();
        let Some(name) = notes.get(REF_NAME) else {
            continue; // put there by another tool
        };
        let reference: Reference = name.parse().map_err(|e: Error| e.to_string())?;
        let index = match notes.get(CHOSEN_FROM) {
            Some(digest) => Some(digest.parse().map_err(|e: Error| e.to_string())?),
            None => None,
        };
        let origin = match notes.get(ORIGIN).map(String::as_str) {
            Some(REGISTRY) => Origin::Registry,
            _ => Origin::Local,
        };
        let pinned = notes.get(PINNED).is_some_and(|value| value == "true");
        let asked = notes.get(ASKED).cloned().unwrap_or_else(|| name.clone());
        all.insert(
            reference.key(),
            Tagged {
                reference,
                asked,
                manifest,
                index,
                origin,
                pinned,
            },
        );
    }
    Ok(all)
}
