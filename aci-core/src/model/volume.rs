//! Volumes and where containers see them.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::document::tree::Node;

use super::codec::{Property, Reader, Shape, Writer};
use super::macros::object;
use super::secret::Secret;

object! {
    /// A volume of a group. Exactly one kind is given.
    Volume {
        /// Its name: 5 to 63 lower-case letters, digits and hyphens, no two hyphens in a row.
        name: String => "name" [required] "2018-04-01" / "2017-08-01-preview";
        /// A share of Azure Files.
        azure_file: Option<AzureFileVolume> => "azureFile" [] "2018-04-01" / "2017-08-01-preview";
        /// A directory that is empty when the group starts and goes when it stops.
        empty_dir: Option<EmptyDir> => "emptyDir" [] "2018-04-01" / "2017-10-01-preview";
        /// Files in memory with the given contents.
        secret: Option<SecretVolume> => "secret" [] "2018-04-01" / "2017-12-01-preview";
        /// Files in memory whose contents are secrets of a key vault: file name to name of a secret reference.
        secret_reference: Option<BTreeMap<String, String>> => "secretReference" [] "2025-09-01" / "2024-10-01-preview";
        /// A copy of a git repository.
        git_repo: Option<GitRepoVolume> => "gitRepo" [] "2018-04-01" / "2017-12-01-preview";
    }
}

object! {
    /// A share of Azure Files, mounted by SMB.
    AzureFileVolume {
        /// The share.
        share_name: String => "shareName" [required] "2018-04-01" / "2017-08-01-preview";
        /// Whether it cannot be written to; absent: it can.
        read_only: Option<bool> => "readOnly" [] "2018-04-01" / "2017-08-01-preview";
        /// The storage account that has the share.
        storage_account_name: String => "storageAccountName" [required] "2018-04-01" / "2017-08-01-preview";
        /// The account's key.
        storage_account_key: Option<Secret> => "storageAccountKey" [] "2018-04-01" / "2017-08-01-preview";
        /// The name of one of the group's secret references, whose secret is the key.
        storage_account_key_reference: Option<String> => "storageAccountKeyReference" [] "2025-09-01" / "2024-10-01-preview";
        /// The client id of the user-assigned identity that may use the share.
        user_assigned_identity_client_id: Option<String> => "userAssignedIdentityClientId" [] "2026-07-01";
    }
}

object! {
    /// A copy of a git repository, made when the group starts.
    GitRepoVolume {
        /// The directory to clone into; `.`: the volume itself; absent: a directory named after the repository.
        directory: Option<String> => "directory" [] "2018-04-01" / "2017-12-01-preview";
        /// The repository's address. Replies show it without a user and password.
        repository: RepositoryUrl => "repository" [required] "2018-04-01" / "2017-12-01-preview";
        /// The commit; absent: the newest one of the default branch.
        revision: Option<String> => "revision" [] "2018-04-01" / "2017-12-01-preview";
    }
}

object! {
    /// Where a container sees a volume.
    VolumeMount {
        /// The volume's name.
        name: String => "name" [required] "2018-04-01" / "2017-08-01-preview";
        /// The path in the container, without a colon.
        mount_path: String => "mountPath" [required] "2018-04-01" / "2017-08-01-preview";
        /// Whether the container cannot write to it; absent: it can.
        read_only: Option<bool> => "readOnly" [] "2018-04-01" / "2017-08-01-preview";
    }
}

/// A directory that is empty when the group starts. ACI's value is `{}`.
///
/// On one's own machine two extensions with Kubernetes' meaning can be given: `medium: Memory` for a
/// directory in memory, and `sizeLimitInGB` for its size. ACI ignores them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EmptyDir(pub Map<String, Value>);

impl EmptyDir {
    fn get(&self, name: &str) -> Option<&Value> {
        self.0
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    /// Whether the directory is to be in memory: `medium: Memory`. Extension, not in ACI.
    pub fn in_memory(&self) -> bool {
        self.get("medium")
            .and_then(Value::as_str)
            .is_some_and(|m| m.eq_ignore_ascii_case("memory"))
    }

    /// The size in GB that the directory may reach: `sizeLimitInGB`. Extension, not in ACI.
    pub fn size_limit_in_gb(&self) -> Option<f64> {
        let value = self.get("sizeLimitInGB")?;
        let size = value
            .as_f64()
            .or_else(|| value.as_str()?.trim().parse().ok());
        size.filter(|size| size.is_finite() && *size > 0.0)
    }
}

impl Property for EmptyDir {
    const SHAPE: Shape = Shape::Any;

    fn read(node: &Node, reader: &mut Reader<'_>) -> Self {
        Self(
            reader
                .object(node)
                .iter()
                .map(|e| (e.key.clone(), e.node.to_json()))
                .collect(),
        )
    }

    fn write(&self, _: &Writer) -> Value {
        Value::Object(self.0.clone())
    }
}

super::codec::serde_through_json!(EmptyDir);

/// The address of a git repository, which may carry a user and a password or token:
/// `https://USER:PASSWORD@HOST/PATH`.
///
/// Those never show in `Debug`, `Display` or replies, which have the address without them; only a
/// writer that is told [`SecretMode::Reveal`](crate::document::SecretMode::Reveal) writes it whole.
///
/// ```
/// use aci_core::model::RepositoryUrl;
/// let url = RepositoryUrl::from("https://me:hunter2@git.example/app.git");
/// assert_eq!(url.to_string(), "https://git.example/app.git");
/// assert_eq!(url.expose(), "https://me:hunter2@git.example/app.git");
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct RepositoryUrl(Secret);

impl RepositoryUrl {
    /// The whole address; see [`Secret::expose`].
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose()
    }

    /// The address without a user and password.
    #[must_use]
    pub fn without_login(&self) -> String {
        let url = self.expose();
        let (scheme, rest) = match url.split_once("://") {
            Some((scheme, rest)) => (format!("{scheme}://"), rest),
            None => (String::new(), url),
        };
        let end = rest.find('/').unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if let Some((_, host)) = authority.rsplit_once('@') {
            return format!("{scheme}{host}{path}");
        }
        // A password that holds a '/' as it is makes a bad address, and is left out all the same.
        let port = authority.rsplit_once(':').map_or("", |(_, port)| port);
        match path.rsplit_once('@') {
            Some((_, rest)) if !port.bytes().all(|b| b.is_ascii_digit()) => {
                format!("{scheme}{rest}")
            }
            _ => url.to_owned(),
        }
    }
}

impl std::fmt::Display for RepositoryUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.without_login())
    }
}

impl std::fmt::Debug for RepositoryUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RepositoryUrl({:?})", self.without_login())
    }
}

impl From<&str> for RepositoryUrl {
    fn from(url: &str) -> Self {
        Self(url.into())
    }
}

impl From<String> for RepositoryUrl {
    fn from(url: String) -> Self {
        Self(url.into())
    }
}

impl Property for RepositoryUrl {
    const SHAPE: Shape = Shape::Text;

    fn read(node: &Node, reader: &mut Reader<'_>) -> Self {
        reader.text(node).into()
    }

    fn write(&self, writer: &Writer) -> Value {
        Value::String(if writer.reveals() {
            self.expose().to_owned()
        } else {
            self.without_login()
        })
    }
}

super::codec::serde_through_json!(RepositoryUrl);

/// Files in memory: names and contents, the contents in base64.
///
/// Replies show the volume as `"secret": {}`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecretVolume(pub BTreeMap<String, Secret>);

impl std::ops::Deref for SecretVolume {
    type Target = BTreeMap<String, Secret>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl FromIterator<(String, Secret)> for SecretVolume {
    fn from_iter<I: IntoIterator<Item = (String, Secret)>>(files: I) -> Self {
        Self(files.into_iter().collect())
    }
}

impl Property for SecretVolume {
    const SHAPE: Shape = Shape::Map(&Shape::Secret);

    fn read(node: &Node, reader: &mut Reader<'_>) -> Self {
        Self(BTreeMap::read(node, reader))
    }

    fn write(&self, writer: &Writer) -> Value {
        self.0.write(writer)
    }
}

super::codec::serde_through_json!(SecretVolume);
