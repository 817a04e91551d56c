//! What the tests share: images written by hand.
#![allow(dead_code, unreachable_pub)]

use std::io::Write as _;
use std::path::{Path, PathBuf};

use aci_core::contract::{Image, ImageStore as _, Layer, RootFs, RootFsKey};
use aci_storage::{Digest, LayerFormat, OciImages, OciImagesOptions, Registries};
use serde_json::{Value, json};

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// A store in a directory that goes with it; it asks no registry.
pub struct Store {
    pub images: OciImages,
    pub dir: tempfile::TempDir,
}

pub fn store() -> Store {
    store_of(None)
}

/// With layers of one format, or of the one that this machine prefers.
pub fn store_of(format: Option<LayerFormat>) -> Store {
    let dir = tempfile::tempdir().unwrap();
    let images = OciImages::open_with(dir.path().join("images"), options(format)).unwrap();
    Store { images, dir }
}

/// Tests ask nobody on the network.
pub fn options(format: Option<LayerFormat>) -> OciImagesOptions {
    let mut options = OciImagesOptions::default();
    options.registries = Registries::none();
    options.layer_format = format;
    options
}

/// The formats that this machine can mount.
pub fn formats() -> Vec<LayerFormat> {
    let support = store().images.layer_support().clone();
    if let Some(why) = support.no_erofs {
        eprintln!("SKIPPED: {why}");
        return vec![LayerFormat::Directories];
    }
    vec![LayerFormat::Directories, LayerFormat::Erofs]
}

/// A layer with files; names that end with a slash are directories.
pub fn layer(files: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(if name.ends_with('/') { 0o755 } else { 0o644 });
        header.set_mtime(7);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(content.len() as u64);
        if name.ends_with('/') {
            header.set_entry_type(tar::EntryType::Directory);
        }
        builder
            .append_data(&mut header, name, content.as_bytes())
            .unwrap();
    }
    builder.into_inner().unwrap()
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// An OCI layout that is being written.
pub struct Layout {
    pub dir: PathBuf,
    pub manifests: Vec<Value>,
}

impl Layout {
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        let dir = dir.into();
        std::fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
        std::fs::write(dir.join("oci-layout"), "{\"imageLayoutVersion\":\"1.0.0\"}").unwrap();
        Self {
            dir,
            manifests: Vec::new(),
        }
    }

    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.dir.join("blobs/sha256").join(digest.hex())
    }

    /// Writes a blob and describes it.
    pub fn blob(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = Digest::of(bytes);
        std::fs::write(self.blob_path(&digest), bytes).unwrap();
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    }

    pub fn json(&self, media_type: &str, value: &Value) -> Value {
        self.blob(media_type, &serde_json::to_vec(value).unwrap())
    }

    pub fn config(&self, architecture: &str, diff_ids: &[Digest]) -> Value {
        self.json(
            CONFIG,
            &json!({
                "architecture": architecture, "os": "linux",
                "config": {
                    "Entrypoint": ["/bin/app"], "Cmd": null, "Env": ["A=1"], "User": "",
                    "WorkingDir": "/srv", "ExposedPorts": {"80/tcp": {}}, "StopSignal": "SIGINT",
                    "Labels": {"l": "v"}
                },
                "rootfs": {"type": "layers", "diff_ids": diff_ids}
            }),
        )
    }

    /// An image of layers, plain and gzip in turn; not yet in the index.
    pub fn image(&self, architecture: &str, layers: &[Vec<u8>]) -> Value {
        let diff_ids: Vec<_> = layers.iter().map(|l| Digest::of(l)).collect();
        let blobs: Vec<_> = layers
            .iter()
            .enumerate()
            .map(|(at, bytes)| match at % 2 {
                0 => self.blob(&format!("{LAYER}+gzip"), &gzip(bytes)),
                _ => self.blob(LAYER, bytes),
            })
            .collect();
        let config = self.config(architecture, &diff_ids);
        self.manifest(config, &blobs)
    }

    pub fn manifest(&self, config: Value, layers: &[Value]) -> Value {
        self.json(
            MANIFEST,
            &json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers}),
        )
    }

    /// Adds to `index.json`.
    pub fn add(&mut self, mut descriptor: Value, name: Option<&str>) -> &mut Self {
        if let Some(name) = name {
            descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        }
        self.manifests.push(descriptor);
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": self.manifests});
        std::fs::write(
            self.dir.join("index.json"),
            serde_json::to_vec(&index).unwrap(),
        )
        .unwrap();
        self
    }

    /// A layout of one image for this machine.
    pub fn of(dir: impl Into<PathBuf>, layers: &[Vec<u8>]) -> Self {
        let mut layout = Self::new(dir);
        let image = layout.image(architecture(), layers);
        layout.add(image, None);
        layout
    }
}

/// A directory as a tar archive, like an OCI archive.
pub fn tar_of(dir: &Path) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_dir_all(".", dir).unwrap();
    builder.into_inner().unwrap()
}

pub fn key(container: &str) -> RootFsKey {
    RootFsKey {
        sandbox: "sandbox-1".parse().unwrap(),
        container: container.into(),
    }
}

pub async fn prepare(images: &OciImages, image: &Image) -> RootFs {
    images.prepare(&image.digest, &key("c")).await.unwrap()
}

/// Where the layers are: directories and files.
pub fn layer_paths(root: &RootFs) -> Vec<PathBuf> {
    root.layers
        .iter()
        .map(|layer| match layer {
            Layer::Directory(path) | Layer::Erofs(path) => path.clone(),
        })
        .collect()
}

/// The layers as directories to look into, also for programs that the test starts. Images stay
/// mounted, where nobody sees them, until the test's process ends.
pub fn layer_dirs(root: &RootFs) -> Vec<PathBuf> {
    root.layers
        .iter()
        .map(|layer| match layer {
            Layer::Directory(path) => path.clone(),
            Layer::Erofs(path) => mounted(path),
        })
        .collect()
}

fn mounted(image: &Path) -> PathBuf {
    use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
    use std::os::fd::IntoRawFd as _;
    let context = rustix::mount::fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
    rustix::mount::fsconfig_set_string(&context, "source", image).unwrap();
    rustix::mount::fsconfig_create(&context).unwrap();
    let (flags, attributes) = (FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty());
    let mount = rustix::mount::fsmount(&context, flags, attributes).unwrap();
    PathBuf::from(format!(
        "/proc/{}/fd/{}/.",
        std::process::id(),
        mount.into_raw_fd()
    ))
}

/// Runs all tests of this program again as the user nobody, but for `but`; only root can do that.
pub fn again_as_an_ordinary_user(but: &str) {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: this is an ordinary user already");
        return;
    }
    // Where nobody can reach and run it.
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(
        dir.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    let program = dir.path().join("tests");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let output = std::process::Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
        .arg(&program)
        .args(["--skip", but, "--test-threads=2"])
        .current_dir("/")
        .env("HOME", "/")
        .env_remove("NEXTEST")
        .output();
    let Ok(output) = output else {
        eprintln!("SKIPPED: there is no setpriv");
        return;
    };
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(!said.contains("running 0 tests"));
}
