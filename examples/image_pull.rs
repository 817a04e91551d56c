//! Pulls an image from a registry and shows how:
//! `cargo run --release --example image_pull -- IMAGE [--dir DIR] [--insecure HOST]`.
//!
//! With `--user NAME` the password is read from the variable `REGISTRY_PASSWORD`.

use std::path::{Path, PathBuf};
use std::time::Instant;

use aci_core::contract::{ImageStore as _, PullPolicy, PullRequest, RegistryLogin};
use aci_examples::bars::Bars;
use aci_storage::{OciImages, OciImagesOptions, Reference, TlsRoots};
use anyhow::{Context, Result};
use clap::Parser;
use indicatif::HumanBytes;

/// Pulls an image from a registry, with bars.
#[derive(Parser)]
struct Arguments {
    /// Such as nginx, registry.example/team/app:1.2 or name@sha256:...
    image: String,
    /// Where images are kept; without it a directory that is removed at the end.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// A host that is spoken to by plain HTTP; may be repeated.
    #[arg(long, value_name = "HOST")]
    insecure: Vec<String>,
    /// A PEM file with the only certificates to trust.
    #[arg(long, value_name = "FILE")]
    roots: Option<PathBuf>,
    /// The user of the image's registry; the password comes from REGISTRY_PASSWORD.
    #[arg(long)]
    user: Option<String>,
    /// Takes the image from the store if it is there, without asking whether the tag has moved.
    #[arg(long)]
    if_not_present: bool,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let scratch = tempfile::tempdir()?;
    let dir = arguments.dir.as_deref().unwrap_or_else(|| scratch.path());
    let mut options = OciImagesOptions::default();
    options.registries.insecure = arguments.insecure.clone();
    if let Some(path) = &arguments.roots {
        options.registries.roots = TlsRoots::Pem(read(path)?);
    }
    let images = OciImages::open_with(dir.join("images"), options)?;
    let reference: Reference = arguments.image.parse()?;
    println!("{} is {reference}", arguments.image);

    let login = match &arguments.user {
        Some(user) => Some(RegistryLogin {
            server: reference.registry().to_owned(),
            username: user.clone(),
            password: std::env::var("REGISTRY_PASSWORD")
                .context("REGISTRY_PASSWORD is not set")?
                .into(),
        }),
        None => None,
    };
    let policy = if arguments.if_not_present {
        PullPolicy::IfNotPresent
    } else {
        PullPolicy::Always
    };
    let request = PullRequest {
        reference: arguments.image.clone(),
        login,
        policy,
    };
    let start = Instant::now();
    let pulled = images.pull(request, Some(Bars::default().listener())).await;
    let took = start.elapsed();
    // With the causes and what to do next.
    let image = pulled.map_err(|error| anyhow::anyhow!("{}", error.chain()))?;

    println!("manifest  {}", image.digest);
    println!("platform  {}/{}", image.os, image.architecture);
    println!("layers    {} compressed", HumanBytes(image.size));
    println!(
        "runs      {:?} {:?}",
        image.config.entrypoint, image.config.cmd
    );
    println!(
        "verified  size and SHA-256 of manifest, configuration and layers; SHA-256 of each unpacked layer"
    );
    println!("took      {:.2} s", took.as_secs_f64());
    let usage = images.usage().await?;
    println!(
        "the store {} blobs of {} and {} unpacked layers in {}",
        usage.blobs,
        HumanBytes(usage.blob_bytes),
        usage.layers,
        images.dir().display()
    );
    Ok(())
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}
