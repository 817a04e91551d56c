//! Our side, and the system calls alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use aci_benches::contest::{Contestant, Sample, milliseconds};
use aci_core::contract::{ImageStore as _, Layer, RootFs, RootFsKey};
use aci_core::id::SandboxId;
use aci_storage::{LayerFormat, OciImages, OciImagesOptions};
use async_trait::async_trait;

use crate::{GONE, MOUNTED, PREPARED, image, mounts};

/// `ImageStore::prepare` and the mounts of what it says.
pub(crate) struct Ours {
    name: &'static str,
    images: OciImages,
    digest: String,
    layers: Vec<Layer>,
    at: PathBuf,
}

impl Ours {
    pub(crate) async fn new(
        directory: PathBuf,
        format: LayerFormat,
        archive: &Path,
    ) -> anyhow::Result<Self> {
        let mut options = OciImagesOptions::default();
        options.layer_format = Some(format);
        let images = OciImages::open_with(directory.join("images"), options)?;
        let image = images.import_tar(archive, image::NAME).await?;
        let at = directory.join("mounted");
        fs::create_dir(&at)?;
        let mut this = Self {
            name: match format {
                LayerFormat::Erofs => "ours, EROFS images",
                _ => "ours, directories",
            },
            images,
            digest: image.digest,
            layers: Vec::new(),
            at,
        };
        let key = key();
        this.layers = this.images.prepare(&this.digest, &key).await?.layers;
        this.images.release(&key).await?;
        Ok(this)
    }

    /// The same layers without a store.
    pub(crate) fn floor(&self, directory: PathBuf) -> anyhow::Result<Floor> {
        let at = directory.join("mounted");
        fs::create_dir_all(&at)?;
        Ok(Floor {
            layers: self.layers.clone(),
            directory,
            at,
        })
    }
}

fn key() -> RootFsKey {
    RootFsKey {
        sandbox: SandboxId::generate("bench"),
        container: "app".to_owned(),
    }
}

#[async_trait(?Send)]
impl Contestant for Ours {
    fn name(&self) -> &str {
        self.name
    }

    fn required(&self) -> bool {
        true
    }

    async fn run(&mut self) -> anyhow::Result<Sample> {
        let key = key();
        let begin = Instant::now();
        let root = self.images.prepare(&self.digest, &key).await?;
        let prepared = begin.elapsed();
        let held = mounts::mount(&root, &self.at)?;
        let mounted = begin.elapsed();
        let begin = Instant::now();
        drop(held);
        mounts::unmount(&self.at)?;
        self.images.release(&key).await?;
        Ok(vec![
            (PREPARED, milliseconds(prepared)),
            (MOUNTED, milliseconds(mounted)),
            (GONE, milliseconds(begin.elapsed())),
        ])
    }
}

/// The mounts, and two directories.
pub(crate) struct Floor {
    layers: Vec<Layer>,
    directory: PathBuf,
    at: PathBuf,
}

#[async_trait(?Send)]
impl Contestant for Floor {
    fn name(&self) -> &str {
        "system calls alone"
    }

    async fn run(&mut self) -> anyhow::Result<Sample> {
        let (upper, work) = (self.directory.join("upper"), self.directory.join("work"));
        let layers = self.layers.clone();
        let begin = Instant::now();
        fs::create_dir(&upper)?;
        fs::create_dir(&work)?;
        let root = RootFs {
            layers,
            upper: Some((upper, work)),
        };
        let held = mounts::mount(&root, &self.at)?;
        let mounted = begin.elapsed();
        let begin = Instant::now();
        drop(held);
        mounts::unmount(&self.at)?;
        if let Some((upper, work)) = &root.upper {
            fs::remove_dir_all(upper)?;
            fs::remove_dir_all(work)?;
        }
        Ok(vec![
            (MOUNTED, milliseconds(mounted)),
            (GONE, milliseconds(begin.elapsed())),
        ])
    }
}
