//! Volumes: `azureFile`, `gitRepo`, `emptyDir` and `secret`.

#[cfg(feature = "azure-file")]
mod azure_file;
mod bounded;
mod empty_dir;
mod entries;
#[cfg(feature = "git-repo")]
mod git_repo;
mod secret;
mod shelf;

#[cfg(feature = "azure-file")]
pub use azure_file::{
    AzureFiles, AzureFilesOptions, CachePolicy, FileServer, ShareDriver, ShareStatus, ShareUsage,
};
pub use empty_dir::{EmptyDirs, EmptyDirsCapability, EmptyDirsOptions};
#[cfg(feature = "git-repo")]
pub use git_repo::{GitLimits, GitRepos, GitReposOptions};
pub use secret::Secrets;

use aci_core::error::{Error, ErrorKind, Result};

/// Checks that a name is one path component.
fn check_component(operation: &'static str, what: &str, name: &str) -> Result<()> {
    let why = match name {
        "" => "it is empty",
        "." | ".." => "it stands for a directory",
        _ if name.len() > 255 => "it is longer than 255 bytes",
        _ if name.contains('/') => "it contains '/'",
        _ if name.contains('\0') => "it contains a NUL character",
        _ => return Ok(()),
    };
    Err(Error::new(
        ErrorKind::Invalid,
        operation,
        format!(
            "'{}' cannot be the name of {what}: {why}",
            name.escape_debug()
        ),
    ))
}
