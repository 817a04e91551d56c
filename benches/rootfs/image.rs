//! The image that everybody mounts.

use std::fs::File;
use std::path::Path;

use aci_storage::Digest;
use serde_json::json;

/// Its name.
pub(crate) const NAME: &str = "localhost/bench:1";
/// A file of its lowest layer.
pub(crate) const FILE: &str = "usr/share/0/file-0";

const LAYERS: usize = 4;
const FILES: usize = 2000;

fn add(
    builder: &mut tar::Builder<impl std::io::Write>,
    name: &str,
    data: &[u8],
) -> anyhow::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_size(data.len() as u64);
    header.set_mode(0o644);
    header.set_mtime(1_700_000_000);
    header.set_uid(0);
    header.set_gid(0);
    builder.append_data(&mut header, name, data)?;
    Ok(())
}

/// Writes it as `docker save` does.
pub(crate) fn write(path: &Path) -> anyhow::Result<()> {
    let mut archive = tar::Builder::new(File::create(path)?);
    let (mut diff_ids, mut names) = (Vec::new(), Vec::new());
    for layer in 0..LAYERS {
        let mut builder = tar::Builder::new(Vec::new());
        for file in 0..FILES {
            let name = format!("usr/share/{layer}/file-{file}");
            let data = format!("{name}\n").repeat(file % 40);
            add(&mut builder, &name, data.as_bytes())?;
        }
        let bytes = builder.into_inner()?;
        diff_ids.push(Digest::of(&bytes).to_string());
        names.push(format!("{layer}/layer.tar"));
        add(&mut archive, &format!("{layer}/layer.tar"), &bytes)?;
    }
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = json!({
        "architecture": architecture, "os": "linux",
        "config": {"Cmd": ["/bin/true"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids}
    });
    add(&mut archive, "config.json", config.to_string().as_bytes())?;
    let manifest = json!([{"Config": "config.json", "RepoTags": [NAME], "Layers": names}]);
    add(
        &mut archive,
        "manifest.json",
        manifest.to_string().as_bytes(),
    )?;
    archive.finish()?;
    Ok(())
}
