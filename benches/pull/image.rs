//! An image of this machine's own files.

use std::fs;
use std::io::{self, Read as _, Write};
use std::path::{Path, PathBuf};

use aci_storage::Digest;
use anyhow::Context as _;
use serde_json::{Value, json};

/// Compressed bytes that the image has at least.
const LEAST: u64 = 200_000_000;
/// Uncompressed bytes of a layer at most.
const LAYER: u64 = 220_000_000;
const TINY_FILES: u32 = 8000;

/// Counts what passes.
struct Counted<W>(W, u64);

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.0.write(buf)?;
        self.1 += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Writes the image as an OCI layout, unless it is there; its size in words.
pub(crate) fn build(layout: &Path) -> anyhow::Result<String> {
    let note = layout.join("described");
    if let Ok(text) = fs::read_to_string(&note) {
        return Ok(text);
    }
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    println!("building the image");
    let (mut layers, mut diff_ids) = (Vec::new(), Vec::new());
    let (mut files, mut raw, mut packed) = (0, 0, 0);
    let mut names = every_file(&["/usr/bin", "/usr/sbin", "/usr/lib", "/usr/share"])?.into_iter();
    let mut more = true;
    while more && packed < LEAST {
        let mut archive = Vec::new();
        let mut builder = tar::Builder::new(&mut archive);
        builder.follow_symlinks(false);
        if layers.is_empty() {
            files += u64::from(TINY_FILES);
            tiny(&mut builder)?;
        }
        let mut size = 0;
        while size < LAYER {
            let Some((name, length)) = names.next() else {
                more = false;
                break;
            };
            let inside = name.strip_prefix("/").unwrap_or(&name);
            builder
                .append_path_with_name(&name, inside)
                .with_context(|| name.display().to_string())?;
            size += length + 512;
            files += 1;
        }
        builder.into_inner()?;
        raw += archive.len() as u64;
        diff_ids.push(Digest::of(&archive));
        let compressed = gzip(&archive)?;
        packed += compressed.len() as u64;
        let kind = "application/vnd.oci.image.layer.v1.tar+gzip";
        layers.push(blob(&blobs, kind, &compressed)?);
    }
    anyhow::ensure!(packed >= LEAST, "this machine has too few files of its own");
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = json!({
        "architecture": architecture, "os": "linux", "config": {"Cmd": ["/bin/true"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids}
    });
    let config = blob(
        &blobs,
        "application/vnd.oci.image.config.v1+json",
        config.to_string().as_bytes(),
    )?;
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let count = layers.len();
    let manifest =
        json!({"schemaVersion": 2, "mediaType": kind, "config": config, "layers": layers});
    let mut manifest = blob(&blobs, kind, manifest.to_string().as_bytes())?;
    manifest["annotations"] = json!({"org.opencontainers.image.ref.name": "1"});
    fs::write(
        layout.join("index.json"),
        json!({"schemaVersion": 2, "manifests": [manifest]}).to_string(),
    )?;
    fs::write(
        layout.join("oci-layout"),
        "{\"imageLayoutVersion\":\"1.0.0\"}",
    )?;
    let described = format!(
        "{count} layers, {} MB as gzip, {} MB unpacked, {files} files",
        packed / 1_000_000,
        raw / 1_000_000
    );
    fs::write(note, &described)?;
    Ok(described)
}

fn tiny(builder: &mut tar::Builder<&mut Vec<u8>>) -> anyhow::Result<()> {
    for number in 0..TINY_FILES {
        let content = format!("{{\"name\": \"module-{number}\", \"version\": \"1.0.{number}\"}}\n");
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        let name = format!("srv/modules/{}/{number}.json", number % 400);
        builder.append_data(&mut header, name, content.as_bytes())?;
    }
    Ok(())
}

/// Files and links below directories with their sizes, in an order that is the same each time.
fn every_file(tops: &[&str]) -> anyhow::Result<Vec<(PathBuf, u64)>> {
    let mut found = Vec::new();
    for top in tops {
        let mut todo = vec![PathBuf::from(top)];
        while let Some(directory) = todo.pop() {
            let mut entries: Vec<_> = fs::read_dir(&directory)?.collect::<Result<_, _>>()?;
            entries.sort_by_key(fs::DirEntry::file_name);
            for entry in entries {
                let meta = entry.metadata()?;
                if meta.is_dir() {
                    todo.push(entry.path());
                } else if (meta.is_file() || meta.is_symlink()) && meta.len() < 100_000_000 {
                    let length = if meta.is_file() { meta.len() } else { 0 };
                    found.push((entry.path(), length));
                }
            }
        }
    }
    Ok(found)
}

fn gzip(bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut out = Vec::new();
    let level = flate2::Compression::new(6);
    flate2::bufread::GzEncoder::new(bytes, level).read_to_end(&mut out)?;
    Ok(out)
}

fn blob(blobs: &Path, kind: &str, bytes: &[u8]) -> anyhow::Result<Value> {
    let digest = Digest::of(bytes);
    let mut file = Counted(fs::File::create(blobs.join(digest.hex()))?, 0);
    file.write_all(bytes)?;
    Ok(json!({"mediaType": kind, "digest": digest, "size": file.1}))
}
