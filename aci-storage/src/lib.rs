//! What a container group sees on disk: images and volumes.
