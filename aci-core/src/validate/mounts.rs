//! Where containers see volumes.

use crate::model::VolumeMount;

use super::check::{Check, Path, repeated, shown};
use super::codes;

pub(super) fn check(check: &mut Check<'_>) {
    let properties = check.properties();
    for (i, container) in properties.init_containers.iter().enumerate() {
        let path = Path::properties("initContainers")
            .index(i)
            .name("properties");
        mounts(
            check,
            &container.name,
            &container.properties.volume_mounts,
            &path,
        );
    }
    for (i, container) in properties.containers.iter().enumerate() {
        let path = Path::properties("containers").index(i).name("properties");
        mounts(
            check,
            &container.name,
            &container.properties.volume_mounts,
            &path,
        );
    }
}

fn mounts(check: &mut Check<'_>, container: &str, mounts: &[VolumeMount], path: &Path) {
    let list = path.name("volumeMounts");
    let (container, group) = (shown(container), check.group_name());
    for (i, mount) in mounts.iter().enumerate() {
        let path = list.index(i);
        if !check.volume_names.contains(mount.name.as_str()) {
            let message = format!(
                "The volume mount '{}' in container '{container}' of container group '{group}' names no volume of the \
                 group.",
                shown(&mount.name)
            );
            check.problem(codes::INVALID_VOLUME_MOUNT, &path.name("name"), message);
        }
        if let Some(fault) = path_fault(&mount.mount_path, check.is_windows()) {
            let message = format!(
                "The mount path '{}' of volume mount '{}' in container '{container}' of container group '{group}' is \
                 invalid: {fault}.",
                shown(&mount.mount_path),
                shown(&mount.name)
            );
            check.problem(
                codes::INVALID_VOLUME_MOUNT,
                &path.name("mountPath"),
                message,
            );
        }
    }
    for (i, _) in repeated(mounts.iter().map(|m| plain(&m.mount_path))) {
        let message = format!(
            "The mount path '{}' is used more than once in container '{container}' of container group '{group}'.",
            shown(&mounts[i].mount_path)
        );
        check.problem(
            codes::INVALID_VOLUME_MOUNT,
            &list.index(i).name("mountPath"),
            message,
        );
    }
}

/// A path without repeated and final strokes, to compare it.
fn plain(path: &str) -> String {
    let parts = path.split('/').filter(|part| !matches!(*part, "" | "."));
    parts.fold(String::new(), |path, part| path + "/" + part)
}

/// What is wrong with a path to mount at, if anything.
fn path_fault(path: &str, windows: bool) -> Option<&'static str> {
    if windows {
        // Volumes are refused on Windows as a whole; paths have drive letters there.
        return None;
    }
    if path.contains(':') {
        return Some("it must not contain ':'");
    }
    if !path.starts_with('/') {
        return Some("it must be absolute");
    }
    if path.split('/').any(|part| part == "..") {
        return Some("it must not contain '..'");
    }
    if path.contains('\0') {
        return Some("it must not contain a NUL character");
    }
    if plain(path).is_empty() {
        return Some("it must not be the root directory");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_compared_without_strokes_that_say_nothing() {
        assert_eq!(plain("/aci//logs/./"), "/aci/logs");
        assert_eq!(plain("/"), "");
    }

    #[test]
    fn impossible_paths_are_told_apart() {
        for (path, fault) in [
            ("/mnt/x", None),
            ("/aci/logs/", None),
            ("/a:b", Some("it must not contain ':'")),
            ("mnt", Some("it must be absolute")),
            ("", Some("it must be absolute")),
            ("/mnt/../etc", Some("it must not contain '..'")),
            ("/mnt/..x", None),
            ("//.", Some("it must not be the root directory")),
        ] {
            assert_eq!(path_fault(path, false), fault, "{path}");
        }
    }
}
