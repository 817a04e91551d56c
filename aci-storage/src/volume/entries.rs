//! Volumes kept as `SANDBOX/NAME` below a directory.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aci_core::contract::ProvidedVolume;
use aci_core::error::Result;
use aci_core::id::SandboxId;

use crate::fail;

/// All volumes below a directory, in order.
pub(super) fn volumes(base: &Path) -> Result<Vec<ProvidedVolume>> {
    let mut all = Vec::new();
    for (sandbox, path) in entries(base)? {
        let Ok(sandbox) = sandbox.parse::<SandboxId>() else {
            continue;
        };
        for (name, _) in entries(&path)? {
            let sandbox = sandbox.clone();
            all.push(ProvidedVolume { sandbox, name });
        }
    }
    all.sort_by(|a, b| (&a.sandbox, &a.name).cmp(&(&b.sandbox, &b.name)));
    Ok(all)
}

fn entries(dir: &Path) -> Result<Vec<(String, PathBuf)>> {
    let failed = |e| fail::io("volumes.list", "list it", dir, e);
    let read = match fs::read_dir(dir) {
        Ok(read) => read,
        // Released meanwhile.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(failed(e)),
    };
    read.map(|entry| {
        let entry = entry.map_err(failed)?;
        Ok((
            entry.file_name().to_string_lossy().into_owned(),
            entry.path(),
        ))
    })
    .collect()
}
