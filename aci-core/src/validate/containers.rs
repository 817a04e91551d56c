//! Containers and init containers: counts, names, images, commands.

use super::check::{Check, Path, repeated, shown};
use super::codes;
use super::image::image_fault;

/// The most containers of a group, init containers included.
pub(super) const MAX_CONTAINERS: usize = 60;
/// The most init containers: one place is kept for a container.
pub(super) const MAX_INIT_CONTAINERS: usize = 59;

/// A container or an init container, as far as they are alike.
pub(super) struct Common<'a> {
    pub(super) name: &'a str,
    pub(super) path: Path,
    pub(super) image: Option<&'a str>,
    pub(super) command: &'a [String],
}

/// All containers of the group, those that run first in front.
pub(super) fn all<'a>(check: &Check<'a>) -> Vec<Common<'a>> {
    let properties = check.properties();
    let init = properties.init_containers.iter().enumerate();
    let init = init.map(|(i, c)| Common {
        name: &c.name,
        path: Path::properties("initContainers").index(i),
        image: c.properties.image.as_deref(),
        command: &c.properties.command,
    });
    let containers = properties.containers.iter().enumerate();
    let containers = containers.map(|(i, c)| Common {
        name: &c.name,
        path: Path::properties("containers").index(i),
        image: c.properties.image.as_deref(),
        command: &c.properties.command,
    });
    init.chain(containers).collect()
}

pub(super) fn check(check: &mut Check<'_>) {
    counts(check);
    let all = all(check);
    for container in &all {
        name(check, container);
        image(check, container);
        command(check, container);
    }
    for (i, _) in repeated(all.iter().map(|c| c.name)) {
        let second = &all[i];
        if second.name.is_empty() {
            continue;
        }
        let message = format!(
            "The container name '{}' is used more than once in container group '{}'; init containers count too.",
            shown(second.name),
            check.group_name()
        );
        check.problem(
            codes::DUPLICATE_CONTAINER_NAME,
            &second.path.name("name"),
            message,
        );
    }
    init_containers(check);
}

fn counts(check: &mut Check<'_>) {
    let properties = check.properties();
    let (containers, init) = (
        properties.containers.len(),
        properties.init_containers.len(),
    );
    let group = check.group_name();
    if containers == 0 && !check.has_profile() {
        let message = format!("The containers of container group '{group}' cannot be empty.");
        check.problem(
            codes::MISSING_CONTAINERS,
            &Path::properties("containers"),
            message,
        );
    }
    if init > MAX_INIT_CONTAINERS {
        let message = format!(
            "Container group '{group}' has {init} init containers; at most {MAX_INIT_CONTAINERS} are allowed."
        );
        check.problem(
            codes::TOO_MANY_CONTAINERS,
            &Path::properties("initContainers"),
            message,
        );
    } else if containers + init > MAX_CONTAINERS {
        let message = format!(
            "Container group '{group}' has {} containers, init containers included; at most {MAX_CONTAINERS} are \
             allowed.",
            containers + init
        );
        check.problem(
            codes::TOO_MANY_CONTAINERS,
            &Path::properties("containers"),
            message,
        );
    }
}

/// Whether a text matches `[a-z0-9]([-a-z0-9]*[a-z0-9])?`.
pub(super) fn is_label(text: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(&first), Some(&last)) => {
            alphanumeric(first)
                && alphanumeric(last)
                && bytes.iter().all(|&b| alphanumeric(b) || b == b'-')
        }
        _ => false,
    }
}

fn name(check: &mut Check<'_>, container: &Common<'_>) {
    if container.name.len() <= 63 && is_label(container.name) {
        return;
    }
    let message = format!(
        "The container name '{}' in container group '{}' is invalid. The container name must contain no more than 63 \
         characters and must match the regex '[a-z0-9]([-a-z0-9]*[a-z0-9])?'.",
        shown(container.name),
        check.group_name()
    );
    check.problem(
        codes::INVALID_CONTAINER_NAME,
        &container.path.name("name"),
        message,
    );
}

fn image(check: &mut Check<'_>, container: &Common<'_>) {
    let path = container.path.name("properties").name("image");
    let (name, group) = (shown(container.name), check.group_name());
    match container.image {
        None if check.has_profile() => {}
        None | Some("") => {
            let message = format!(
                "The image of container '{name}' in container group '{group}' is not specified."
            );
            check.problem(codes::INVALID_CONTAINER_IMAGE, &path, message);
        }
        Some(image) => {
            if let Some(fault) = image_fault(image) {
                let message = format!(
                    "The image '{}' of container '{name}' in container group '{group}' is invalid: {fault}.",
                    shown(image)
                );
                check.problem(codes::INVALID_CONTAINER_IMAGE, &path, message);
            }
        }
    }
}

fn command(check: &mut Check<'_>, container: &Common<'_>) {
    let path = container.path.name("properties").name("command");
    let name = shown(container.name);
    if container.command.first().is_some_and(String::is_empty) {
        let message = format!(
            "The command of container '{name}' starts with an empty string; its first element is the program."
        );
        check.problem(codes::INVALID_CONTAINER_COMMAND, &path.index(0), message);
    }
    for (i, part) in container.command.iter().enumerate() {
        if part.contains('\0') {
            let message = format!(
                "Element {i} of the command of container '{name}' has a NUL character, which no program can be given."
            );
            check.problem(codes::INVALID_CONTAINER_COMMAND, &path.index(i), message);
        }
    }
}

/// Init containers have no ports, resources or probes in ACI; in a document such properties are
/// among those that the model does not know.
fn init_containers(check: &mut Check<'_>) {
    const FORBIDDEN: [&str; 5] = [
        "ports",
        "resources",
        "livenessProbe",
        "readinessProbe",
        "configMap",
    ];
    for (i, container) in check.properties().init_containers.iter().enumerate() {
        let path = Path::properties("initContainers")
            .index(i)
            .name("properties");
        for key in container.properties.unknown.keys() {
            let Some(property) = FORBIDDEN.iter().find(|f| f.eq_ignore_ascii_case(key)) else {
                continue;
            };
            let message = format!(
                "Init container '{}' in container group '{}' has '{property}'. Init containers can have no ports, \
                 resources, probes or config map: they use what the whole group has.",
                shown(&container.name),
                check.group_name()
            );
            check.problem(codes::INVALID_INIT_CONTAINER, &path.name(key), message);
        }
    }
}
