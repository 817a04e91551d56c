//! Hands images on as OCI layouts.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use aci_core::error::{Error, ErrorKind, Result};

use super::content::write_atomically;
use super::index::{FULL_NAME, REF_NAME};
use super::manifest::{Index, OCI_INDEX};
use super::store::{Inner, OciImages, not_accessible};
use super::trees::lock;
use crate::fail::{self, blocking};

impl OciImages {
    /// Writes an image as an OCI image layout into a directory that is empty or not there yet.
    /// [`OciImages::import_layout`] and other tools read it; all digests stay.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) if the image is not in the store;
    /// [`AlreadyExists`](ErrorKind::AlreadyExists) if the directory is not empty;
    /// [`Exhausted`](ErrorKind::Exhausted), [`Internal`](ErrorKind::Internal). A part may have been
    /// written then, without an `index.json`.
    ///
    /// # Cancel safety
    /// The export goes on in the background; `index.json` comes last.
    #[tracing::instrument(name = "images.export_layout", skip(self, dir), fields(dir = %dir.as_ref().display()))]
    pub async fn export_layout(&self, reference: &str, dir: impl AsRef<Path>) -> Result<()> {
        let (inner, reference, dir) = (
            Arc::clone(&self.inner),
            reference.to_owned(),
            dir.as_ref().to_owned(),
        );
        blocking("images.export", move || inner.export(&reference, &dir)).await
    }
}

impl Inner {
    fn export(&self, reference: &str, dir: &Path) -> Result<()> {
        let tagged = lock(&self.state)
            .references
            .find(reference)?
            .cloned()
            .ok_or_else(|| not_accessible("images.export", reference))?;
        let digest = tagged.manifest.digest;
        let _pins = self.pin([digest]);
        let record = self.record(&mut lock(&self.state), &digest)?;
        let failed = |path: &Path, e| fail::io("images.export", "write it", path, e);
        let blobs = dir.join("blobs").join("sha256");
        if fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(Error::new(
                ErrorKind::AlreadyExists,
                "images.export",
                "the directory is not empty",
            )
            .on(dir.display())
            .hint("name a new directory"));
        }
        fs::create_dir_all(&blobs).map_err(|e| failed(&blobs, e))?;
        let manifest = &record.manifest;
        let parts = manifest.layers.iter().map(|l| l.digest);
        for part in parts.chain([manifest.config.digest, digest]) {
            let to = blobs.join(part.hex());
            let copy = |from: &mut File| -> std::io::Result<()> {
                let mut file = File::create(&to)?;
                std::io::copy(from, &mut file)?;
                file.sync_all()
            };
            copy(&mut self.blobs.open_blob(&part)?).map_err(|e| failed(&to, e))?;
        }
        let mut descriptor = tagged.manifest;
        descriptor.platform = Some(record.config.platform());
        let notes = descriptor.annotations.get_or_insert_default();
        let name = tagged.reference.to_string();
        notes.insert(REF_NAME.to_owned(), name.clone());
        notes.insert(FULL_NAME.to_owned(), name);
        let index = Index {
            schema_version: 2,
            media_type: Some(OCI_INDEX.to_owned()),
            manifests: vec![descriptor],
        };
        let layout = dir.join("oci-layout");
        fs::write(&layout, "{\"imageLayoutVersion\":\"1.0.0\"}").map_err(|e| failed(&layout, e))?;
        let bytes = serde_json::to_vec(&index).map_err(|e| failed(dir, e.into()))?;
        write_atomically(&dir.join("index.json"), dir, &bytes)
    }
}
