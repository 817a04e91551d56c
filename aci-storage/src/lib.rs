//! What a container group sees on disk: images and volumes.
#![forbid(unsafe_code)]

mod fail;
mod host;
mod image;
pub mod layer;
mod tree;
mod turns;
mod volume;

pub use host::HostImage;
pub use image::{
    Digest, Freed, ImportOptions, OciImages, OciImagesOptions, Platform, Reference, Usage,
};
pub use volume::{EmptyDirs, Secrets};
