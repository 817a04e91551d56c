//! Environment variables and config maps.

use crate::model::EnvironmentVariable;

use super::check::{Check, Path, repeated, shown};
use super::codes;
use super::references::secret_use;

pub(super) fn check(check: &mut Check<'_>) {
    let properties = check.properties();
    for (i, container) in properties.init_containers.iter().enumerate() {
        let path = Path::properties("initContainers")
            .index(i)
            .name("properties");
        variables(
            check,
            &container.name,
            &path,
            &container.properties.environment_variables,
        );
    }
    for (i, container) in properties.containers.iter().enumerate() {
        let path = Path::properties("containers").index(i).name("properties");
        variables(
            check,
            &container.name,
            &path,
            &container.properties.environment_variables,
        );
        if let Some(map) = &container.properties.config_map {
            for key in map.key_value_pairs.keys().filter(|key| !is_file_name(key)) {
                let message = format!(
                    "The key '{}' in the config map of container '{}' is invalid: it becomes a file's name, which has 1 \
                     to 253 letters, digits, periods, hyphens and underscores.",
                    shown(key),
                    shown(&container.name)
                );
                let path = path.name("configMap").name("keyValuePairs").name(key);
                check.problem(codes::INVALID_CONFIG_MAP, &path, message);
            }
        }
    }
}

/// Whether a text can name a file in a volume: Kubernetes' rule for keys.
pub(super) fn is_file_name(text: &str) -> bool {
    // As in Kubernetes: names with two dots in front are for what replaces files in one step.
    !matches!(text, "" | ".")
        && !text.starts_with("..")
        && text.len() <= 253
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
}

fn variables(
    check: &mut Check<'_>,
    container: &str,
    path: &Path,
    variables: &[EnvironmentVariable],
) {
    let path = path.name("environmentVariables");
    for (i, variable) in variables.iter().enumerate() {
        name(check, container, &path.index(i), &variable.name);
        value(check, container, &path.index(i), variable);
    }
    for (i, _) in repeated(variables.iter().map(|v| &v.name)) {
        let message = format!(
            "The environment variable '{}' of container '{}' is given more than once; the last one counts.",
            shown(&variables[i].name),
            shown(container)
        );
        check.warning(codes::NO_EFFECT, &path.index(i).name("name"), message);
    }
}

/// ACI's rule: a letter or an underscore, then letters, digits and underscores; 63 at most.
fn name(check: &mut Check<'_>, container: &str, path: &Path, name: &str) {
    let starts = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let rest = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if starts && rest && name.len() <= 63 {
        return;
    }
    let length = if name.len() > 63 {
        " It has at most 63 characters."
    } else {
        ""
    };
    let message = format!(
        "The environment variable name '{}' in container '{}' of container group '{}' is invalid. A valid environment \
         variable name must start with alphabetic character or '_', followed by a string of alphanumeric characters or \
         '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName').{length}",
        shown(name),
        shown(container),
        check.group_name()
    );
    check.problem(
        codes::INVALID_CONTAINER_ENVIRONMENT_VARIABLE,
        &path.name("name"),
        message,
    );
}

fn value(check: &mut Check<'_>, container: &str, path: &Path, variable: &EnvironmentVariable) {
    let given = [
        ("value", variable.value.is_some()),
        ("secureValue", variable.secure_value.is_some()),
        (
            "secureValueReference",
            variable.secure_value_reference.is_some(),
        ),
    ];
    let given: Vec<&str> = given
        .iter()
        .filter(|(_, is)| *is)
        .map(|(name, _)| *name)
        .collect();
    let found = match given.len() {
        1 => None,
        0 if check.is_reply() => None,
        0 => Some("none is given".to_owned()),
        _ => Some(format!("'{}' are given", given.join("' and '"))),
    };
    if let Some(found) = found {
        let message = format!(
            "The environment variable '{}' in container '{}' of container group '{}' must have exactly one of 'value', \
             'secureValue' and 'secureValueReference'; {found}.",
            shown(&variable.name),
            shown(container),
            check.group_name()
        );
        check.problem(codes::INVALID_CONTAINER_ENVIRONMENT_VARIABLE, path, message);
    }
    let plain = variable.value.as_deref().is_some_and(|v| v.contains('\0'));
    let secret = variable
        .secure_value
        .as_ref()
        .is_some_and(|v| v.expose().contains('\0'));
    if plain || secret {
        let message = format!(
            "The value of environment variable '{}' in container '{}' has a NUL character, which no program can be given.",
            shown(&variable.name),
            shown(container)
        );
        check.problem(codes::INVALID_CONTAINER_ENVIRONMENT_VARIABLE, path, message);
    }
    if let Some(reference) = &variable.secure_value_reference {
        secret_use(check, reference, &path.name("secureValueReference"));
    }
}
