//! Volumes: names and kinds.

use crate::model::{AzureFileVolume, GitRepoVolume, SecretVolume, Volume};

use super::check::{Check, Path, base64, repeated, shown};
use super::codes;
use super::containers::is_label;
use super::environment::is_file_name;
use super::references::secret_use;

/// The most volumes of a group.
pub(super) const MAX_VOLUMES: usize = 20;

pub(super) fn check(check: &mut Check<'_>) {
    let volumes = &check.properties().volumes;
    let list = Path::properties("volumes");
    if volumes.len() > MAX_VOLUMES {
        let message = format!(
            "Container group '{}' has {} volumes; at most {MAX_VOLUMES} are allowed.",
            check.group_name(),
            volumes.len()
        );
        check.problem(codes::TOO_MANY_VOLUMES, &list, message);
    }
    for (i, volume) in volumes.iter().enumerate() {
        let path = list.index(i);
        name(check, volume, &path);
        kind(check, volume, &path);
        if let Some(share) = &volume.azure_file {
            azure_file(check, volume, share, &path.name("azureFile"));
        }
        if let Some(secret) = &volume.secret {
            self::secret(check, volume, secret, &path.name("secret"));
        }
        if let Some(files) = &volume.secret_reference {
            for (file, reference) in files {
                let path = path.name("secretReference").name(file);
                file_name(check, volume, file, &path);
                secret_use(check, reference, &path);
            }
        }
        if let Some(repository) = &volume.git_repo {
            git_repo(check, volume, repository, &path.name("gitRepo"));
        }
    }
    for (i, _) in repeated(volumes.iter().map(|v| &v.name)) {
        let message = format!(
            "The volume name '{}' is used more than once in container group '{}'.",
            shown(&volumes[i].name),
            check.group_name()
        );
        check.problem(
            codes::DUPLICATE_VOLUME_NAME,
            &list.index(i).name("name"),
            message,
        );
    }
}

/// The kinds that a volume has, by the property's name.
fn kinds(volume: &Volume) -> Vec<&'static str> {
    let given = [
        ("azureFile", volume.azure_file.is_some()),
        ("emptyDir", volume.empty_dir.is_some()),
        ("secret", volume.secret.is_some()),
        ("secretReference", volume.secret_reference.is_some()),
        ("gitRepo", volume.git_repo.is_some()),
    ];
    given
        .iter()
        .filter(|(_, is)| *is)
        .map(|(name, _)| *name)
        .collect()
}

fn name(check: &mut Check<'_>, volume: &Volume, path: &Path) {
    let name = &volume.name;
    if (5..=63).contains(&name.len()) && is_label(name) && !name.contains("--") {
        return;
    }
    let message = format!(
        "The volume name '{}' in container group '{}' is invalid. It can contain only lowercase letters, numbers and \
         hyphens, no two hyphens in a row, and starts and ends with a letter or number. The value must be between 5 and \
         63 characters long.",
        shown(name),
        check.group_name()
    );
    check.problem(codes::INVALID_VOLUME, &path.name("name"), message);
}

fn kind(check: &mut Check<'_>, volume: &Volume, path: &Path) {
    let kinds = kinds(volume);
    let (name, group) = (shown(&volume.name), check.group_name());
    if kinds.len() != 1 {
        let found = if kinds.is_empty() {
            "none is given".to_owned()
        } else {
            format!("'{}' are given", kinds.join("' and '"))
        };
        let message = format!(
            "The volume '{name}' in container group '{group}' must have exactly one of 'azureFile', 'emptyDir', \
             'secret', 'secretReference' and 'gitRepo'; {found}."
        );
        check.problem(codes::INVALID_VOLUME, path, message);
    }
    if check.is_windows()
        && let [kind] = kinds[..]
    {
        let message = format!(
            "The volume '{name}' in container group '{group}' is of kind '{kind}', which ACI mounts in Linux containers \
             only."
        );
        check.problem(codes::NOT_SUPPORTED_ON_WINDOWS, &path.name(kind), message);
    }
}

fn azure_file(check: &mut Check<'_>, volume: &Volume, share: &AzureFileVolume, path: &Path) {
    let (name, group) = (shown(&volume.name), check.group_name());
    let fields = [
        ("shareName", share.share_name.as_str()),
        ("storageAccountName", share.storage_account_name.as_str()),
    ];
    for (field, _) in fields.iter().filter(|(_, value)| value.is_empty()) {
        let message =
            format!("The '{field}' of volume '{name}' in container group '{group}' is empty.");
        check.problem(codes::INVALID_AZURE_FILE_VOLUME, &path.name(field), message);
    }
    // Azure Storage's own rules: such a share cannot exist, so the mount fails when the group starts.
    let lower = |text: &str, also: &str| {
        let mut bytes = text.bytes();
        bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || also.as_bytes().contains(&b))
    };
    let account = &share.storage_account_name;
    let possible = (3..=24).contains(&account.len()) && lower(account, "");
    if !account.is_empty() && !possible {
        let message = format!(
            "The storage account '{}' of volume '{name}' cannot exist: such names have 3 to 24 lowercase letters and \
             numbers.",
            shown(account)
        );
        check.warning(
            codes::MAY_FAIL_LATER,
            &path.name("storageAccountName"),
            message,
        );
    }
    let share_name = &share.share_name;
    let possible = (3..=63).contains(&share_name.len()) && lower(share_name, "-");
    if !share_name.is_empty() && !possible {
        let message = format!(
            "The share '{}' of volume '{name}' cannot exist: such names have 3 to 63 lowercase letters, numbers and \
             hyphens.",
            shown(share_name)
        );
        check.warning(codes::MAY_FAIL_LATER, &path.name("shareName"), message);
    }
    let ways = [
        share.storage_account_key.is_some(),
        share.storage_account_key_reference.is_some(),
        share.user_assigned_identity_client_id.is_some(),
    ];
    let ways = ways.iter().filter(|is| **is).count();
    if ways > 1 || (ways == 0 && !check.is_reply()) {
        let message = format!(
            "The volume '{name}' in container group '{group}' must have exactly one of 'storageAccountKey', \
             'storageAccountKeyReference' and 'userAssignedIdentityClientId'; {}.",
            if ways == 0 {
                "none is given"
            } else {
                "several are given"
            }
        );
        check.problem(codes::INVALID_AZURE_FILE_VOLUME, path, message);
    }
    if let Some(reference) = &share.storage_account_key_reference {
        secret_use(check, reference, &path.name("storageAccountKeyReference"));
    }
}

fn file_name(check: &mut Check<'_>, volume: &Volume, file: &str, path: &Path) {
    if is_file_name(file) {
        return;
    }
    let message = format!(
        "The file name '{}' in volume '{}' of container group '{}' is invalid: it has 1 to 253 letters, digits, periods, \
         hyphens and underscores.",
        shown(file),
        shown(&volume.name),
        check.group_name()
    );
    check.problem(codes::INVALID_SECRET_VOLUME, path, message);
}

fn secret(check: &mut Check<'_>, volume: &Volume, secret: &SecretVolume, path: &Path) {
    for (file, contents) in secret.iter() {
        let path = path.name(file);
        file_name(check, volume, file, &path);
        if base64(contents.expose()).is_none() {
            let message = format!(
                "The contents of file '{}' in volume '{}' of container group '{}' are not base64 encoded.",
                shown(file),
                shown(&volume.name),
                check.group_name()
            );
            check.problem(codes::INVALID_SECRET_VOLUME, &path, message);
        }
    }
}

fn git_repo(check: &mut Check<'_>, volume: &Volume, repository: &GitRepoVolume, path: &Path) {
    let (name, group) = (shown(&volume.name), check.group_name());
    let url = repository.repository.expose();
    let rest = ["https://", "http://"].iter().find_map(|scheme| {
        let head = url.get(..scheme.len())?;
        head.eq_ignore_ascii_case(scheme)
            .then(|| &url[scheme.len()..])
    });
    let host = rest.map(|rest| rest.split('/').next().unwrap_or_default());
    let host = host.map(|authority| authority.rsplit('@').next().unwrap_or_default());
    let printable = !url.contains(|c: char| c.is_whitespace() || c.is_control());
    if !host.is_some_and(|host| !host.is_empty() && !host.starts_with('-')) || !printable {
        let message = format!(
            "The repository '{}' of volume '{name}' in container group '{group}' is invalid; an address that starts with \
             'https://' or 'http://' is expected.",
            shown(&repository.repository.without_login())
        );
        check.problem(
            codes::INVALID_GIT_REPO_VOLUME,
            &path.name("repository"),
            message,
        );
    }
    if let Some(directory) = &repository.directory {
        let leaves = directory.split(['/', '\\']).any(|part| part == "..");
        if leaves
            || directory.starts_with("..")
            || directory.starts_with('/')
            || directory.contains('\0')
        {
            let message = format!(
                "The directory '{}' of volume '{name}' in container group '{group}' is invalid: it must be relative and \
                 must not contain or start with '..'.",
                shown(directory)
            );
            check.problem(
                codes::INVALID_GIT_REPO_VOLUME,
                &path.name("directory"),
                message,
            );
        }
    }
    if let Some(revision) = &repository.revision {
        if revision.starts_with('-')
            || revision.contains(|c: char| c.is_whitespace() || c.is_control())
        {
            let message = format!(
                "The revision '{}' of volume '{name}' in container group '{group}' is no commit hash.",
                shown(revision)
            );
            check.problem(
                codes::INVALID_GIT_REPO_VOLUME,
                &path.name("revision"),
                message,
            );
        } else if !revision.bytes().all(|b| b.is_ascii_hexdigit()) {
            let message = format!(
                "The revision '{}' of volume '{name}' is no commit hash, which is what ACI documents.",
                shown(revision)
            );
            check.warning(codes::MAY_FAIL_LATER, &path.name("revision"), message);
        }
    }
}
