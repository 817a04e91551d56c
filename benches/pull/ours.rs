//! Our side: this program, started anew for each pull.

use std::path::Path;
use std::process::Command;
use std::rc::Rc;

use aci_benches::contest::{Contestant, Sample};
use aci_core::contract::{ImageStore as _, PullPolicy, PullRequest};
use aci_storage::{LayerFormat, OciImages, OciImagesOptions};
use anyhow::Context as _;
use async_trait::async_trait;

use crate::setup::Setup;

/// Where to pull to; this program is then only that pull.
pub(crate) const PLACE: &str = "ACI_BENCH_PULL_PLACE";
const REFERENCE: &str = "ACI_BENCH_PULL_REFERENCE";
const TREES: &str = "ACI_BENCH_PULL_TREES";

pub(crate) struct Ours {
    setup: Rc<Setup>,
    erofs: bool,
}

impl Ours {
    pub(crate) fn new(setup: &Rc<Setup>, erofs: bool) -> anyhow::Result<Self> {
        Ok(Self {
            setup: Rc::clone(setup),
            erofs,
        })
    }
}

#[async_trait(?Send)]
impl Contestant for Ours {
    fn name(&self) -> &str {
        if self.erofs {
            "ours, EROFS images"
        } else {
            "ours, directory trees"
        }
    }

    fn required(&self) -> bool {
        self.erofs
    }

    async fn run(&mut self) -> anyhow::Result<Sample> {
        self.setup.fresh()?;
        let mut command = Command::new(std::env::current_exe()?);
        command
            .env(PLACE, self.setup.place().join("images"))
            .env(REFERENCE, self.setup.reference());
        if !self.erofs {
            command.env(TREES, "1");
        }
        self.setup.timed(vec![command], None)
    }
}

/// Pulls once.
pub(crate) fn pull(place: &Path) -> anyhow::Result<()> {
    let reference = std::env::var(REFERENCE).context(REFERENCE)?;
    let mut options = OciImagesOptions::default();
    let host = reference.split('/').next().unwrap_or_default();
    options.registries.insecure = vec![host.to_owned()];
    options.layer_format = Some(match std::env::var_os(TREES) {
        Some(_) => LayerFormat::Directories,
        None => LayerFormat::Erofs,
    });
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(async {
            let images = OciImages::open_with(place, options)?;
            let request = PullRequest {
                reference,
                login: None,
                policy: PullPolicy::Always,
            };
            images.pull(request, None).await?;
            Ok(())
        })
}
