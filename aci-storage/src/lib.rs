//! What a container group sees on disk: images and volumes.
//!
//! | type | contract | what it does |
//! |---|---|---|
//! | [`OciImages`] | [`ImageStore`](aci_core::contract::ImageStore) | keeps images in a directory, checked and unpacked, and makes root file systems of them |
//! | [`HostImage`] | | assembles an image from programs of the host |
//! | `AzureFiles` | [`VolumeDriver`](aci_core::contract::VolumeDriver) | `azureFile`: shares of file servers by SMB (feature `azure-file`, on by default) |
//! | [`EmptyDirs`] | [`VolumeDriver`](aci_core::contract::VolumeDriver) | `emptyDir`: directories, with or without a bound, or memory |
//! | `GitRepos` | [`VolumeDriver`](aci_core::contract::VolumeDriver) | `gitRepo`: copies of repositories by HTTP(S) (feature `git-repo`, on by default) |
//! | [`Secrets`] | [`VolumeDriver`](aci_core::contract::VolumeDriver) | `secret`: files in the group's memory |
//!
//! Images come from registries by [`pull`](aci_core::contract::ImageStore::pull) as [`Registries`]
//! says, and otherwise by [`OciImages::import_layout`] (OCI image layouts), [`OciImages::import_tar`]
//! (`docker save` and OCI archives) or [`HostImage`]. [`layer`] says what an image may contain and
//! how hostile ones are held. Everything works for root and for an ordinary user.
//!
//! ```
//! use aci_core::contract::{ImageStore as _, PullPolicy, PullRequest};
//! use aci_storage::{HostImage, ImportOptions, OciImages};
//!
//! # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
//! # let dir = tempfile::tempdir()?;
//! let images = OciImages::open(dir.path().join("images"))?;
//! HostImage::new("local/shell:1").program("/bin/sh").build(&images).await?;
//!
//! // To another store, as a layout that other tools read too.
//! images.export_layout("local/shell:1", dir.path().join("layout")).await?;
//! let other = OciImages::open(dir.path().join("other"))?;
//! other.import_layout(dir.path().join("layout"), ImportOptions::default()).await?;
//!
//! // What is in the store is there at once; what is not has ACI's code.
//! let ask = |reference: &str| PullRequest {
//!     reference: reference.into(),
//!     login: None,
//!     policy: PullPolicy::Never, // with IfNotPresent or Always its registry is asked
//! };
//! let image = other.pull(ask("docker.io/local/shell:1"), None).await?;
//! assert!(image.digest.starts_with("sha256:"));
//! let error = other.pull(ask("nginx"), None).await.unwrap_err();
//! assert_eq!(error.aci_code(), Some("InaccessibleImage"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # }).unwrap();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What it tells
//!
//! Spans of `tracing`, at level info, each with the ids that it is about: `images.pull`,
//! `images.remove`, `images.prepare`, `images.release`, `images.import_layout`,
//! `images.import_tar`, `images.import_reader`, `images.export_layout`, `images.collect`,
//! `layer.unpack`, `host_image.build`, `volumes.provide`, `volumes.release`. Events: info for an
//! image that came in and for what keeps layers from being EROFS images, warn for layers that are
//! to be unpacked again after a crash of the machine, debug for what was left out of a layer, warn
//! for mirrors that do not have an image.
//!
//! Counters of `metrics`:
//!
//! | counter | counts |
//! |---|---|
//! | `aci_storage_images_installed_total` | images that came in, or came in again |
//! | `aci_storage_fetched_bytes_total` | bytes of blobs from registries |
//! | `aci_storage_registry_retries_total` | requests to registries that were tried again |
//! | `aci_storage_layers_unpacked_total` | layers that were unpacked |
//! | `aci_storage_layers_refused_total` | layers that were damaged or broke a rule |
//! | `aci_storage_unpacked_bytes_total` | bytes of uncompressed archives |
//! | `aci_storage_collected_bytes_total` | bytes of blobs that were deleted as unused |
//! | `aci_storage_roots_prepared_total`, `aci_storage_roots_released_total` | root file systems |
//! | `aci_storage_volumes_provided_total`, `aci_storage_volumes_released_total` | volumes |
#![forbid(unsafe_code)]

mod fail;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod host;
mod image;
pub mod layer;
mod registry;
mod tree;
mod turns;
mod volume;

pub use host::HostImage;
pub use image::{
    Digest, Freed, ImportOptions, LayerFormat, LayerSupport, OciImages, OciImagesOptions, Platform,
    Pruned, Reference, Usage,
};
pub use registry::{Proxies, Registries, TlsRoots};
#[cfg(feature = "azure-file")]
pub use volume::{
    AzureFiles, AzureFilesOptions, CachePolicy, FileServer, ShareDriver, ShareStatus, ShareUsage,
};
pub use volume::{EmptyDirs, EmptyDirsCapability, EmptyDirsOptions, Secrets};
#[cfg(feature = "git-repo")]
pub use volume::{GitLimits, GitRepos, GitReposOptions};

#[cfg(test)]
mod tests {
    /// All tests of this crate's inside once more, without root's rights.
    #[test]
    fn again_as_an_ordinary_user() {
        use std::os::unix::fs::PermissionsExt as _;
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: this is an ordinary user already");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let program = dir.path().join("tests");
        std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
        let output = std::process::Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
            .arg(&program)
            .args([
                "--skip",
                "again_as",
                "--skip",
                "a_bomb_of",
                "--test-threads=2",
            ])
            .current_dir("/")
            .env("HOME", "/")
            .output();
        let Ok(output) = output else {
            eprintln!("SKIPPED: there is no setpriv");
            return;
        };
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}");
    }
}
