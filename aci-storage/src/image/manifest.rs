//! Manifests, indexes and configurations, read with suspicion.
//!
//! Sources: OCI image specification 1.1 (`manifest.md`, `image-index.md`, `config.md`) and Docker's
//! "Image Manifest V 2, Schema 2".

use std::collections::BTreeMap;

use aci_core::contract::ImageConfig;
use aci_core::error::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::platform::Platform;

pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub(crate) const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
/// Written by BuildKit and containers/image for zstd layers under Docker's types.
const DOCKER_LAYER_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";

/// What a registry is asked for where manifests are.
pub(crate) const ACCEPTED: [&str; 4] = [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST];

/// Longest manifest, index or configuration in bytes (registries allow 4 MiB for a manifest).
pub(crate) const MAX_JSON: u64 = 4 << 20;
/// Most layers: overlayfs takes 500.
pub(crate) const MAX_LAYERS: usize = 500;

/// What a blob is, where it is and how large.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) urls: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) platform: Option<Platform>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) annotations: Option<BTreeMap<String, String>>,
}

impl Descriptor {
    pub(crate) fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest,
            size,
            urls: None,
            platform: None,
            annotations: None,
        }
    }

    pub(crate) fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(name).map(String::as_str)
    }
}

/// An index of images, or a layout's `index.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Index {
    pub(crate) schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) media_type: Option<String>,
    pub(crate) manifests: Vec<Descriptor>,
}

/// The manifest of one image.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    pub(crate) schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) media_type: Option<String>,
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

/// Either.
#[derive(Clone, Debug)]
pub(crate) enum Document {
    Index(Index),
    Manifest(Manifest),
}

fn refused(message: String) -> Error {
    Error::new(ErrorKind::Unsupported, "image.manifest", message)
}

fn damaged(what: &str, why: impl std::fmt::Display) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        "image.manifest",
        format!("the {what} cannot be read: {why}"),
    )
}

impl Document {
    /// Reads a manifest or index. `expected` is the media type that it was announced with; empty
    /// if it was not.
    pub(crate) fn parse(bytes: &[u8], expected: &str) -> Result<Self> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Shape {
            schema_version: Option<u32>,
            media_type: Option<String>,
            #[serde(default)]
            manifests: Option<serde::de::IgnoredAny>,
            #[serde(default)]
            layers: Option<serde::de::IgnoredAny>,
            #[serde(default)]
            config: Option<serde::de::IgnoredAny>,
            #[serde(default, rename = "fsLayers")]
            fs_layers: Option<serde::de::IgnoredAny>,
        }
        let shape: Shape = serde_json::from_slice(bytes).map_err(|e| damaged("manifest", e))?;
        if shape.fs_layers.is_some() || shape.schema_version == Some(1) {
            return Err(refused(
                "the manifest has Docker's schema 1, which nobody writes any more; push the image \
                 again with a current tool"
                    .to_owned(),
            ));
        }
        // One document that two readers take for different things (CVE-2021-41190).
        if shape.manifests.is_some() && (shape.layers.is_some() || shape.config.is_some()) {
            return Err(refused(
                "the manifest is both an index and an image, so it is neither".to_owned(),
            ));
        }
        let said = shape.media_type.as_deref().unwrap_or_default();
        if !said.is_empty() && !expected.is_empty() && said != expected {
            return Err(refused(format!(
                "the manifest says that it is '{said}' but was announced as '{expected}'"
            )));
        }
        let media_type = if said.is_empty() { expected } else { said };
        let index = match media_type {
            OCI_INDEX | DOCKER_LIST => true,
            OCI_MANIFEST | DOCKER_MANIFEST => false,
            "" => shape.manifests.is_some(),
            other => {
                return Err(refused(format!(
                    "the manifest has the unknown type '{other}'"
                )));
            }
        };
        if index {
            serde_json::from_slice(bytes)
                .map(Self::Index)
                .map_err(|e| damaged("index", e))
        } else {
            serde_json::from_slice(bytes)
                .map(Self::Manifest)
                .map_err(|e| damaged("manifest", e))
        }
    }
}

impl Index {
    /// The one for a platform.
    pub(crate) fn select(&self, platform: &Platform) -> Result<&Descriptor> {
        let readable = |d: &&Descriptor| is_manifest(&d.media_type) || is_index(&d.media_type);
        let mut candidates = self.manifests.iter().filter(readable);
        let fits = |d: &&Descriptor| d.platform.as_ref().is_some_and(|p| platform.runs(p));
        if let Some(found) = candidates.clone().find(fits) {
            return Ok(found);
        }
        // An index of one image often does not say what for; its configuration will.
        if let (Some(only), None) = (candidates.next(), candidates.next())
            && only.platform.is_none()
        {
            return Ok(only);
        }
        let mut there: Vec<String> = self
            .manifests
            .iter()
            .filter_map(|d| d.platform.as_ref())
            .filter(|p| p.os != "unknown")
            .map(ToString::to_string)
            .collect();
        there.sort();
        there.dedup();
        Err(wrong_platform(platform, &there.join(", ")))
    }
}

/// The error for an image that does not run here.
pub(crate) fn wrong_platform(platform: &Platform, there: &str) -> Error {
    let there = if there.is_empty() { "none" } else { there };
    Error::new(
        ErrorKind::Unsupported,
        "image.select",
        format!("the image is not for {platform}; it is for: {there}"),
    )
    .code("OsVersionNotSupported")
}

pub(crate) fn is_manifest(media_type: &str) -> bool {
    matches!(media_type, "" | OCI_MANIFEST | DOCKER_MANIFEST)
}

pub(crate) fn is_index(media_type: &str) -> bool {
    matches!(media_type, OCI_INDEX | DOCKER_LIST)
}

impl Manifest {
    /// Checks that it is an image that can be unpacked.
    pub(crate) fn check(&self) -> Result<()> {
        if !matches!(self.config.media_type.as_str(), OCI_CONFIG | DOCKER_CONFIG) {
            return Err(refused(format!(
                "it is an artifact of the type '{}', not a container image",
                self.config.media_type
            )));
        }
        if self.layers.is_empty() {
            return Err(refused("the image has no layers".to_owned()));
        }
        if self.layers.len() > MAX_LAYERS {
            return Err(refused(format!(
                "the image has {} layers; overlayfs takes {MAX_LAYERS}",
                self.layers.len()
            )));
        }
        if self.config.size > MAX_JSON {
            return Err(refused(format!(
                "the image's configuration is larger than {MAX_JSON} bytes"
            )));
        }
        for layer in &self.layers {
            let foreign = layer.media_type.contains("nondistributable")
                || layer.media_type.contains("foreign");
            if foreign || layer.urls.as_ref().is_some_and(|urls| !urls.is_empty()) {
                return Err(refused(format!(
                    "layer {} is to be fetched from elsewhere, which is not done",
                    layer.digest
                )));
            }
            match layer.media_type.as_str() {
                OCI_LAYER | OCI_LAYER_GZIP | OCI_LAYER_ZSTD | DOCKER_LAYER | DOCKER_LAYER_GZIP
                | DOCKER_LAYER_ZSTD => {}
                other => {
                    return Err(refused(format!(
                        "layer {} has the unknown type '{other}'",
                        layer.digest
                    )));
                }
            }
        }
        Ok(())
    }

    /// Bytes of the layers as stored.
    pub(crate) fn size(&self) -> u64 {
        self.layers
            .iter()
            .map(|l| l.size)
            .fold(0, u64::saturating_add)
    }
}

/// The image's configuration blob.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct ConfigFile {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) created: Option<String>,
    #[serde(default)]
    pub(crate) architecture: String,
    #[serde(default)]
    pub(crate) os: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) variant: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) config: Option<ProcessConfig>,
    #[serde(default)]
    pub(crate) rootfs: RootDiffs,
}

/// Its part on the process. Docker writes `null` for what is not set.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct ProcessConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) exposed_ports: Option<BTreeMap<String, serde_json::Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) env: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) entrypoint: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cmd: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) working_dir: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) labels: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stop_signal: Option<String>,
}

/// The digests of the uncompressed layers, lowest first.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct RootDiffs {
    #[serde(rename = "type", default)]
    pub(crate) kind: String,
    #[serde(default)]
    pub(crate) diff_ids: Vec<Digest>,
}

impl ConfigFile {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        serde_json::from_slice(bytes).map_err(|e| damaged("image's configuration", e))
    }

    pub(crate) fn platform(&self) -> Platform {
        Platform {
            os: self.os.clone(),
            architecture: self.architecture.clone(),
            variant: self.variant.clone(),
        }
    }

    /// Checks it against its manifest and the machine.
    pub(crate) fn check(&self, manifest: &Manifest, platform: &Platform) -> Result<()> {
        if !platform.runs(&self.platform()) {
            return Err(wrong_platform(platform, &self.platform().to_string()));
        }
        if self.rootfs.diff_ids.len() != manifest.layers.len() {
            return Err(damaged(
                "image",
                format!(
                    "its configuration lists {} layers and its manifest {}",
                    self.rootfs.diff_ids.len(),
                    manifest.layers.len()
                ),
            ));
        }
        Ok(())
    }

    pub(crate) fn process(&self) -> ImageConfig {
        let config = self.config.clone().unwrap_or_default();
        let filled = |text: Option<String>| text.filter(|t| !t.is_empty());
        ImageConfig {
            entrypoint: config.entrypoint.unwrap_or_default(),
            cmd: config.cmd.unwrap_or_default(),
            env: config.env.unwrap_or_default(),
            user: filled(config.user),
            working_dir: filled(config.working_dir),
            stop_signal: filled(config.stop_signal),
            exposed_ports: config
                .exposed_ports
                .map(|ports| ports.into_keys().collect())
                .unwrap_or_default(),
            labels: config.labels.unwrap_or_default(),
        }
    }
}
