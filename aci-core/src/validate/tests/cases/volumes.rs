use super::case;
use crate::model::{AzureFileVolume, ContainerGroup, EmptyDir, GitRepoVolume, Volume, VolumeMount};
use crate::validate::tests::Case;

fn share(group: &mut ContainerGroup) -> &mut AzureFileVolume {
    group.properties.volumes[1]
        .azure_file
        .get_or_insert_default()
}

fn repository(group: &mut ContainerGroup) -> &mut GitRepoVolume {
    group.properties.volumes[4].git_repo.get_or_insert_default()
}

fn mount(group: &mut ContainerGroup) -> &mut VolumeMount {
    &mut group.properties.containers[0].properties.volume_mounts[0]
}

fn empty_dir(name: &str) -> Volume {
    Volume {
        name: name.to_owned(),
        empty_dir: Some(EmptyDir::default()),
        ..Volume::default()
    }
}

pub(super) const CASES: &[Case] = &[
    case!(
        |g| {
            let more = (0..16).map(|i| empty_dir(&format!("more-{i}")));
            g.properties.volumes.extend(more);
        },
        "TooManyVolumes",
        "properties.volumes",
        "Container group 'shop' has 21 volumes; at most 20 are allowed.",
    ),
    case!(
        |g| g.properties.volumes.push(empty_dir("a--b1")),
        "InvalidVolume",
        "properties.volumes[5].name",
        "The volume name 'a--b1' in container group 'shop' is invalid. It can contain only lowercase letters, numbers and \
         hyphens, no two hyphens in a row, and starts and ends with a letter or number. The value must be between 5 and \
         63 characters long.",
    ),
    case!(
        |g| g.properties.volumes[0].empty_dir = None,
        "InvalidVolume",
        "properties.volumes[0]",
        "The volume 'scratch' in container group 'shop' must have exactly one of 'azureFile', 'emptyDir', 'secret', \
         'secretReference' and 'gitRepo'; none is given.",
    ),
    case!(
        |g| g.properties.volumes[1].empty_dir = Some(EmptyDir::default()),
        "InvalidVolume",
        "properties.volumes[1]",
        "The volume 'share' in container group 'shop' must have exactly one of 'azureFile', 'emptyDir', 'secret', \
         'secretReference' and 'gitRepo'; 'azureFile' and 'emptyDir' are given.",
    ),
    case!(
        |g| g.properties.volumes.push(empty_dir("share")),
        "DuplicateVolumeName",
        "properties.volumes[5].name",
        "The volume name 'share' is used more than once in container group 'shop'.",
    ),
    case!(
        |g| share(g).share_name = String::new(),
        "InvalidAzureFileVolume",
        "properties.volumes[1].azureFile.shareName",
        "The 'shareName' of volume 'share' in container group 'shop' is empty.",
    ),
    case!(
        |g| share(g).storage_account_key_reference = None,
        "InvalidAzureFileVolume",
        "properties.volumes[1].azureFile",
        "The volume 'share' in container group 'shop' must have exactly one of 'storageAccountKey', \
         'storageAccountKeyReference' and 'userAssignedIdentityClientId'; none is given.",
    ),
    case!(
        |g| share(g).storage_account_key = Some("a2V5".into()),
        "InvalidAzureFileVolume",
        "properties.volumes[1].azureFile",
        "The volume 'share' in container group 'shop' must have exactly one of 'storageAccountKey', \
         'storageAccountKeyReference' and 'userAssignedIdentityClientId'; several are given.",
    ),
    case!(
        |g| share(g).storage_account_key_reference = Some("no".to_owned()),
        "InvalidSecretReference",
        "properties.volumes[1].azureFile.storageAccountKeyReference",
        "The secret reference 'no' is not among the 'secretReferences' of container group 'shop'.",
    ),
    case!(
        |g| {
            let secret = g.properties.volumes[2].secret.get_or_insert_default();
            secret.0.insert("db".to_owned(), "not base64!".into());
        },
        "InvalidSecretVolume",
        "properties.volumes[2].secret.db",
        "The contents of file 'db' in volume 'passwords' of container group 'shop' are not base64 encoded.",
    ),
    case!(
        |g| {
            let secret = g.properties.volumes[2].secret.get_or_insert_default();
            secret.0.insert("a/b".to_owned(), "aGVsbG8=".into());
        },
        "InvalidSecretVolume",
        "properties.volumes[2].secret['a/b']",
        "The file name 'a/b' in volume 'passwords' of container group 'shop' is invalid: it has 1 to 253 letters, \
         digits, periods, hyphens and underscores.",
    ),
    case!(
        |g| {
            let files = g.properties.volumes[3]
                .secret_reference
                .get_or_insert_default();
            files.insert("db".to_owned(), "no".to_owned());
        },
        "InvalidSecretReference",
        "properties.volumes[3].secretReference.db",
        "The secret reference 'no' is not among the 'secretReferences' of container group 'shop'.",
    ),
    case!(
        |g| repository(g).repository = "git@example.com:x.git".into(),
        "InvalidGitRepoVolume",
        "properties.volumes[4].gitRepo.repository",
        "The repository 'example.com:x.git' of volume 'sources' in container group 'shop' is invalid; an address \
         that starts with 'https://' or 'http://' is expected.",
    ),
    case!(
        |g| repository(g).directory = Some("a/../../b".to_owned()),
        "InvalidGitRepoVolume",
        "properties.volumes[4].gitRepo.directory",
        "The directory 'a/../../b' of volume 'sources' in container group 'shop' is invalid: it must be relative and \
         must not contain or start with '..'.",
    ),
    case!(
        |g| repository(g).revision = Some("--upload-pack=x".to_owned()),
        "InvalidGitRepoVolume",
        "properties.volumes[4].gitRepo.revision",
        "The revision '--upload-pack=x' of volume 'sources' in container group 'shop' is no commit hash.",
    ),
    case!(
        |g| mount(g).name = "other".to_owned(),
        "InvalidVolumeMount",
        "properties.containers[0].properties.volumeMounts[0].name",
        "The volume mount 'other' in container 'web' of container group 'shop' names no volume of the group.",
    ),
    case!(
        |g| mount(g).mount_path = "C:\\data".to_owned(),
        "InvalidVolumeMount",
        "properties.containers[0].properties.volumeMounts[0].mountPath",
        "The mount path 'C:\\data' of volume mount 'share' in container 'web' of container group 'shop' is invalid: it \
         must not contain ':'.",
    ),
    case!(
        |g| mount(g).mount_path = "/run/secrets/".to_owned(),
        "InvalidVolumeMount",
        "properties.containers[0].properties.volumeMounts[1].mountPath",
        "The mount path '/run/secrets' is used more than once in container 'web' of container group 'shop'.",
    ),
    case!(
        |g| g.properties.init_containers[0].properties.volume_mounts[0].mount_path =
            "/a/../etc".to_owned(),
        "InvalidVolumeMount",
        "properties.initContainers[0].properties.volumeMounts[0].mountPath",
        "The mount path '/a/../etc' of volume mount 'scratch' in container 'setup' of container group 'shop' is invalid: \
         it must not contain '..'.",
    ),
];
