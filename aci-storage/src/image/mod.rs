//! Images: references, a content store, layers as trees, root file systems.

mod along;
mod content;
mod digest;
mod export;
mod gc;
mod import;
mod index;
mod manifest;
mod platform;
mod progress;
mod prune;
mod reference;
mod roots;
mod source;
mod store;
mod trees;

pub use digest::Digest;
pub use gc::{Freed, Usage};
pub use import::ImportOptions;
pub use platform::Platform;
pub use prune::Pruned;
pub use reference::Reference;
pub use store::{OciImages, OciImagesOptions};

pub(crate) use along::{Along, Growing};
pub(crate) use content::Stager;
pub(crate) use digest::Hashing;
pub(crate) use index::Origin;
pub(crate) use manifest::{
    ACCEPTED, ConfigFile, Descriptor, Document, MAX_JSON, Manifest, OCI_CONFIG, OCI_LAYER,
    OCI_MANIFEST, ProcessConfig, RootDiffs,
};
pub(crate) use progress::Teller;
pub(crate) use store::{Inner, not_accessible};
pub use trees::{LayerFormat, LayerSupport};

pub(crate) use trees::lock;
