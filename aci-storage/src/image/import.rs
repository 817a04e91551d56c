//! Brings images in from OCI layouts and archives.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use aci_core::contract::{Image, PullPhase, PullProgress};
use aci_core::error::{Error, ErrorKind, Result};
use serde::Deserialize;

use super::content::{check_bytes, read_small};

use super::digest::Digest;
use super::gc::Pins;
use super::index::{FULL_NAME, Origin, REF_NAME};
use super::manifest::{
    ConfigFile, Descriptor, Document, Index, MAX_JSON, MAX_LAYERS, Manifest, OCI_CONFIG, OCI_LAYER,
    OCI_LAYER_GZIP, OCI_MANIFEST, is_index,
};
use super::progress::Teller;
use super::reference::Reference;
use super::source::{Directory, Source, Spool};
use super::store::{Inner, OciImages};
use crate::fail::{self, blocking};

/// What to import and under which name.
///
/// `"local/web:1".into()` imports the only image of a layout or archive as `local/web:1`.
#[non_exhaustive]
#[derive(Clone, Default)]
pub struct ImportOptions {
    /// The reference that the image gets; without it the one it brings along.
    pub reference: Option<String>,
    /// Which image, where there are several: its name in the layout or archive.
    pub select: Option<String>,
    /// Hears of the steps.
    pub progress: Option<PullProgress>,
}

impl std::fmt::Debug for ImportOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ImportOptions")
            .field("reference", &self.reference)
            .field("select", &self.select)
            .finish_non_exhaustive()
    }
}

impl From<&str> for ImportOptions {
    fn from(reference: &str) -> Self {
        Self {
            reference: Some(reference.to_owned()),
            ..Self::default()
        }
    }
}

impl OciImages {
    /// Imports an image from a directory that is an OCI image layout, such as
    /// `skopeo copy docker://nginx oci:DIR` writes.
    ///
    /// Of an index of several platforms the store's own is taken. Size and digest of every blob
    /// and the digest of every unpacked layer are checked.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) for a missing directory or name;
    /// [`Invalid`](ErrorKind::Invalid) for a bad reference, several images without `select`, or a
    /// layer that breaks a rule of [`crate::layer`]; [`Corrupt`](ErrorKind::Corrupt) for damaged
    /// content; [`Unsupported`](ErrorKind::Unsupported) for artifacts, foreign layers and other
    /// platforms; [`Exhausted`](ErrorKind::Exhausted) for a full disk. No reference is set then.
    ///
    /// # Cancel safety
    /// The import goes on in the background and ends as a whole or not at all.
    #[tracing::instrument(name = "images.import_layout", skip_all, fields(dir = %dir.as_ref().display()))]
    pub async fn import_layout(
        &self,
        dir: impl AsRef<Path>,
        options: impl Into<ImportOptions>,
    ) -> Result<Image> {
        let (inner, dir, options) = (
            Arc::clone(&self.inner),
            dir.as_ref().to_owned(),
            options.into(),
        );
        blocking("images.import", move || {
            let source = Directory::open(&dir)?;
            Import::new(&inner, &options, &source)
                .run()
                .map_err(|e| at(e, &dir))
        })
        .await
    }

    /// Imports an image from an archive: what `docker save`, `podman save` or
    /// `skopeo copy ... oci-archive:` write, compressed by gzip or not.
    ///
    /// # Errors
    /// As [`OciImages::import_layout`].
    ///
    /// # Cancel safety
    /// As [`OciImages::import_layout`].
    #[tracing::instrument(name = "images.import_tar", skip_all, fields(path = %path.as_ref().display()))]
    pub async fn import_tar(
        &self,
        path: impl AsRef<Path>,
        options: impl Into<ImportOptions>,
    ) -> Result<Image> {
        let (inner, path, options) = (
            Arc::clone(&self.inner),
            path.as_ref().to_owned(),
            options.into(),
        );
        blocking("images.import", move || {
            let file = File::open(&path).map_err(|e| match e.kind() {
                std::io::ErrorKind::NotFound => Error::new(
                    ErrorKind::NotFound,
                    "images.import",
                    "there is no such file",
                )
                .on(path.display()),
                _ => fail::io("images.import", "open it", &path, e),
            })?;
            import_archive(&inner, file, &options).map_err(|e| at(e, &path))
        })
        .await
    }

    /// [`OciImages::import_tar`] from any reader, which is read on a blocking thread.
    ///
    /// # Errors
    /// As [`OciImages::import_layout`].
    ///
    /// # Cancel safety
    /// As [`OciImages::import_layout`].
    #[tracing::instrument(name = "images.import_reader", skip_all)]
    pub async fn import_reader(
        &self,
        reader: impl Read + Send + 'static,
        options: impl Into<ImportOptions>,
    ) -> Result<Image> {
        let (inner, options) = (Arc::clone(&self.inner), options.into());
        blocking("images.import", move || {
            import_archive(&inner, reader, &options)
        })
        .await
    }
}

fn at(error: Error, path: &Path) -> Error {
    if error.resource().is_some() {
        error
    } else {
        error.on(path.display())
    }
}

fn import_archive(inner: &Inner, reader: impl Read, options: &ImportOptions) -> Result<Image> {
    let mut teller = Teller::new(options.progress.as_ref(), None, PullPhase::Downloading);
    let spool = Spool::read(reader, &inner.blobs, &inner.options.limits, &mut |done| {
        teller.tell(done);
    })?;
    Import::new(inner, options, &spool).run()
}

/// An image of `docker save`'s `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

struct Import<'a> {
    inner: &'a Inner,
    options: &'a ImportOptions,
    source: &'a dyn Source,
    pins: Pins<'a>,
}

impl<'a> Import<'a> {
    fn new(inner: &'a Inner, options: &'a ImportOptions, source: &'a dyn Source) -> Self {
        Self {
            inner,
            options,
            source,
            pins: inner.pin([]),
        }
    }

    fn run(mut self) -> Result<Image> {
        if let Some(reference) = &self.options.reference {
            reference.parse::<Reference>()?; // before any work
        }
        if let Some(mut file) = self.source.open("index.json")? {
            let bytes = read_small(&mut file, "index.json")?;
            return self.layout(&bytes);
        }
        if let Some(mut file) = self.source.open("manifest.json")? {
            let bytes = read_small(&mut file, "manifest.json")?;
            return self.saved(&bytes);
        }
        Err(Error::new(
            ErrorKind::Invalid,
            "images.import",
            "it has neither an index.json (OCI image layout) nor a manifest.json (docker save)",
        ))
    }

    fn layout(&mut self, bytes: &[u8]) -> Result<Image> {
        let Document::Index(index) = Document::parse(bytes, "")? else {
            return Err(Error::new(
                ErrorKind::Corrupt,
                "images.import",
                "index.json is not an index",
            ));
        };
        let (mut descriptor, name) = self.choose(index)?;
        let mut chosen_from = None;
        // An index may hold an index; more than three levels nobody writes.
        for _ in 0..3 {
            let bytes = self.blob(&descriptor)?;
            match Document::parse(&bytes, &descriptor.media_type)? {
                Document::Manifest(manifest) => {
                    let reference = self.name(name.as_deref())?;
                    return self.manifest(&reference, &bytes, &manifest, chosen_from);
                }
                Document::Index(index) => {
                    chosen_from = chosen_from.or(Some(descriptor.digest));
                    descriptor = index.select(&self.inner.options.platform)?.clone();
                }
            }
        }
        Err(Error::new(
            ErrorKind::Unsupported,
            "images.import",
            "its indexes are nested too deep",
        ))
    }

    fn manifest(
        &mut self,
        reference: &str,
        bytes: &[u8],
        manifest: &Manifest,
        chosen_from: Option<Digest>,
    ) -> Result<Image> {
        manifest.check()?;
        let config = self.blob(&manifest.config)?;
        ConfigFile::parse(&config)?.check(manifest, &self.inner.options.platform)?;
        for layer in &manifest.layers {
            self.pins.add(layer.digest);
            if self.inner.blobs.has(&layer.digest, layer.size) {
                continue;
            }
            let progress = self.options.progress.as_ref();
            let mut teller = Teller::new(progress, Some(layer), PullPhase::Downloading);
            let mut file = self.source.need(&blob_path(&layer.digest))?;
            self.inner
                .blobs
                .ingest(layer, &mut file, &mut |done| teller.tell(done))?;
        }
        let progress = self.options.progress.as_ref();
        self.inner.install(
            reference,
            bytes,
            &config,
            chosen_from,
            Origin::Local,
            progress,
        )
    }

    /// Picks the image of a layout.
    fn choose(&self, index: Index) -> Result<(Descriptor, Option<String>)> {
        let names = |d: &Descriptor| -> Vec<String> {
            [FULL_NAME, REF_NAME]
                .iter()
                .filter_map(|key| d.annotation(key).map(str::to_owned))
                .collect()
        };
        if let Some(wanted) = &self.options.select {
            let full: Option<Reference> = wanted.parse().ok();
            let same = |name: &String| {
                name == wanted || (full.is_some() && name.parse::<Reference>().ok() == full)
            };
            return index
                .manifests
                .iter()
                .find(|d| names(d).iter().any(same))
                .map(|d| (d.clone(), best_name(&names(d))))
                .ok_or_else(|| {
                    let there: Vec<_> = index.manifests.iter().flat_map(names).collect();
                    no_such(wanted, &there)
                });
        }
        match index.manifests.as_slice() {
            [] => Err(Error::new(
                ErrorKind::Invalid,
                "images.import",
                "it holds no image",
            )),
            [only] => Ok((only.clone(), best_name(&names(only)))),
            // Without names they are one image for several platforms.
            several
                if several
                    .iter()
                    .all(|d| names(d).is_empty() && !is_index(&d.media_type)) =>
            {
                Ok((index.select(&self.inner.options.platform)?.clone(), None))
            }
            several => Err(which(&several.iter().flat_map(names).collect::<Vec<_>>())),
        }
    }

    /// The format of `docker save` before Docker 25: a configuration and archives by path.
    fn saved(&mut self, bytes: &[u8]) -> Result<Image> {
        let all: Vec<Saved> = serde_json::from_slice(bytes).map_err(|e| {
            Error::new(
                ErrorKind::Corrupt,
                "images.import",
                format!("manifest.json cannot be read: {e}"),
            )
        })?;
        let tags = |s: &Saved| s.repo_tags.clone().unwrap_or_default();
        let saved = match &self.options.select {
            Some(wanted) => {
                let reference: Reference = wanted.parse()?;
                let same = |t: &String| t.parse::<Reference>().ok().as_ref() == Some(&reference);
                all.iter()
                    .find(|s| tags(s).iter().any(same))
                    .ok_or_else(|| {
                        no_such(wanted, &all.iter().flat_map(tags).collect::<Vec<_>>())
                    })?
            }
            None => match all.as_slice() {
                [only] => only,
                [] => {
                    return Err(Error::new(
                        ErrorKind::Invalid,
                        "images.import",
                        "it holds no image",
                    ));
                }
                several => return Err(which(&several.iter().flat_map(tags).collect::<Vec<_>>())),
            },
        };
        if saved.layers.len() > MAX_LAYERS {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "images.import",
                format!("the image has more than {MAX_LAYERS} layers"),
            ));
        }
        let reference = self.name(tags(saved).first().map(String::as_str))?;
        let config = read_small(&mut self.source.need(&saved.config)?, "the configuration")?;
        let mut layers = Vec::new();
        for name in &saved.layers {
            let mut file = self.source.need(name)?;
            let mut start = [0; 2];
            let media_type = match file.read_exact(&mut start) {
                Ok(()) if start == [0x1f, 0x8b] => OCI_LAYER_GZIP,
                _ => OCI_LAYER,
            };
            let (staged, size) = self
                .inner
                .blobs
                .stage(&mut self.source.need(name)?, &mut |_| {})?;
            self.pins.add(staged.digest);
            layers.push(Descriptor::new(media_type, staged.digest, size));
            self.inner.blobs.adopt(staged)?;
        }
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(OCI_MANIFEST.to_owned()),
            config: Descriptor::new(OCI_CONFIG, Digest::of(&config), config.len() as u64),
            layers,
        };
        let manifest = serde_json::to_vec(&manifest).map_err(|e| {
            Error::new(
                ErrorKind::Internal,
                "images.import",
                "cannot write a manifest",
            )
            .because(e)
        })?;
        let progress = self.options.progress.as_ref();
        self.inner.install(
            &reference,
            &manifest,
            &config,
            None,
            Origin::Local,
            progress,
        )
    }

    /// The reference to give: the caller's, else the image's own.
    fn name(&self, own: Option<&str>) -> Result<String> {
        let name = self.options.reference.as_deref().or(own);
        name.map(str::to_owned).ok_or_else(|| {
            Error::new(
                ErrorKind::Invalid,
                "images.import",
                "the image brings no name along",
            )
            .hint("give it a reference, such as local/web:1")
        })
    }

    /// A small blob, checked.
    fn blob(&self, wanted: &Descriptor) -> Result<Vec<u8>> {
        if wanted.size > MAX_JSON {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "images.import",
                format!("{} is larger than {MAX_JSON} bytes", wanted.digest),
            ));
        }
        let mut file = self.source.need(&blob_path(&wanted.digest))?;
        let bytes = read_small(&mut file, "a manifest")?;
        if bytes.len() as u64 != wanted.size {
            return Err(Error::new(
                ErrorKind::Corrupt,
                "images.import",
                format!(
                    "{} has {} bytes where {} are announced",
                    wanted.digest,
                    bytes.len(),
                    wanted.size
                ),
            ));
        }
        check_bytes(&bytes, &wanted.digest)?;
        Ok(bytes)
    }
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// The name among a layout's annotations which is more than a tag.
fn best_name(names: &[String]) -> Option<String> {
    names
        .iter()
        .find(|name| name.contains(['/', ':']) && name.parse::<Reference>().is_ok())
        .cloned()
}

fn listed(names: &[String]) -> String {
    if names.is_empty() {
        "without names".to_owned()
    } else {
        names.join(", ")
    }
}

fn which(names: &[String]) -> Error {
    Error::new(
        ErrorKind::Invalid,
        "images.import",
        format!("it holds several images: {}", listed(names)),
    )
    .hint("select one by its name")
}

fn no_such(wanted: &str, names: &[String]) -> Error {
    Error::new(
        ErrorKind::NotFound,
        "images.import",
        format!("it holds no image '{wanted}'; it holds: {}", listed(names)),
    )
}
