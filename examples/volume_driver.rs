//! A volume driver of one's own: `azureFile` volumes from directories of this machine, for work
//! without a network. `cargo run --example volume_driver -- DIRECTORY`

use std::path::PathBuf;

use aci_core::contract::{ProvidedVolume, VolumeDriver, VolumeRequest, VolumeSource};
use aci_core::error::{Error, ErrorKind, Result};
use aci_core::id::SandboxId;
use aci_core::model::{ContainerGroup, Volume};
use aci_runtime::{Engine, LogOptions, RedbStore};
use aci_storage::{HostImage, OciImages};

/// `DIRECTORY/<account>/<share>` for each share; nothing belongs to one group alone.
#[derive(Debug)]
struct LocalShares(PathBuf);

#[async_trait::async_trait]
impl VolumeDriver for LocalShares {
    fn name(&self) -> &str {
        "local shares"
    }

    fn supports(&self, volume: &Volume) -> bool {
        volume.azure_file.is_some()
    }

    async fn provide(&self, request: VolumeRequest) -> Result<VolumeSource> {
        let share = request.volume.azure_file.unwrap_or_default();
        let parts = [&share.storage_account_name, &share.share_name];
        let path = self.0.join(parts[0]).join(parts[1]);
        let plain = |part: &&String| !part.contains(['/', '.']);
        if parts.iter().all(plain) && path.is_dir() {
            return Ok(VolumeSource::Directory(path));
        }
        let message = format!("there is no directory {}", path.display());
        Err(Error::new(ErrorKind::NotFound, "volume.provide", message).on(request.volume.name))
    }

    async fn release(&self, _: &SandboxId, _: &str) -> Result<()> {
        Ok(()) // the share stays
    }

    async fn list(&self) -> Result<Vec<ProvidedVolume>> {
        Ok(Vec::new())
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let shares = std::env::args().nth(1).unwrap_or_else(|| "shares".into());
    let (shares, state) = (std::path::absolute(shares)?, tempfile::tempdir()?);
    std::fs::create_dir_all(shares.join("devstore/data"))?;
    let images = OciImages::open(state.path().join("images"))?;
    let image = HostImage::new("local/shell:1").program("/bin/sh");
    image.program("/bin/cat").build(&images).await?;
    let engine = Engine::builder()
        .isolation(aci_isolation::Namespaces::new(Default::default())?)
        .images(images)
        .network(aci_net::LoopbackNetwork::new())
        .volumes(LocalShares(shares))
        .store(RedbStore::open(state.path().join("journal"))?);
    let engine = engine.build().await?;
    let document = ContainerGroup::from_yaml(include_str!("groups/notes.yaml"))?;
    let group = engine.create_or_update(document).await?;
    println!("{}", group.ended().await?.as_str());
    let app = group.container("app")?;
    print!("{}", app.logs(LogOptions::default()).await?);
    Ok(engine.delete("notes").await?)
}
