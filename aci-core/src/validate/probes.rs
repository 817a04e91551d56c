//! Liveness and readiness probes.

use crate::model::{HttpGetAction, HttpScheme, Probe};

use super::check::{Check, Path, shown};
use super::codes;

pub(super) fn check(check: &mut Check<'_>) {
    for (i, container) in check.properties().containers.iter().enumerate() {
        let path = Path::properties("containers").index(i).name("properties");
        let properties = &container.properties;
        for (probe, name) in [
            (&properties.liveness_probe, "livenessProbe"),
            (&properties.readiness_probe, "readinessProbe"),
        ] {
            if let Some(probe) = probe {
                let of = format!(
                    "The '{name}' of container '{}' in container group '{}'",
                    shown(&container.name),
                    check.group_name()
                );
                self::probe(check, probe, &of, &path.name(name));
            }
        }
        let liveness = properties.liveness_probe.as_ref();
        if let Some(threshold) = liveness
            .and_then(|p| p.success_threshold)
            .filter(|t| *t > 1)
        {
            let message = format!(
                "The 'successThreshold' '{threshold}' of the 'livenessProbe' of container '{}' has no effect: a failed \
                 liveness probe restarts the container.",
                shown(&container.name)
            );
            let path = path.name("livenessProbe").name("successThreshold");
            check.warning(codes::NO_EFFECT, &path, message);
        }
    }
}

fn probe(check: &mut Check<'_>, probe: &Probe, of: &str, path: &Path) {
    match (&probe.exec, &probe.http_get) {
        (Some(_), Some(_)) => {
            let message =
                format!("{of} must have exactly one of 'exec' and 'httpGet'; both are given.");
            check.problem(codes::INVALID_CONTAINER_PROBE, path, message);
        }
        (None, None) => {
            let message =
                format!("{of} must have exactly one of 'exec' and 'httpGet'; none is given.");
            check.problem(codes::INVALID_CONTAINER_PROBE, path, message);
        }
        (Some(exec), None) => {
            if exec.command.first().is_none_or(String::is_empty) {
                let message = format!("{of} has no command to execute.");
                check.problem(
                    codes::INVALID_CONTAINER_PROBE,
                    &path.name("exec").name("command"),
                    message,
                );
            }
        }
        (None, Some(get)) => http_get(check, get, of, &path.name("httpGet")),
    }
    let at_least_one = [
        ("periodSeconds", probe.period_seconds),
        ("failureThreshold", probe.failure_threshold),
        ("successThreshold", probe.success_threshold),
        ("timeoutSeconds", probe.timeout_seconds),
    ];
    for (name, _) in at_least_one.iter().filter(|(_, value)| *value == Some(0)) {
        let message = format!("{of} has '{name}' '0'; the value must be at least 1.");
        check.problem(codes::INVALID_CONTAINER_PROBE, &path.name(name), message);
    }
}

fn http_get(check: &mut Check<'_>, get: &HttpGetAction, of: &str, path: &Path) {
    if get.port == 0 {
        let message = format!("{of} has port '0'. The port must be between 1 and 65535.");
        check.problem(codes::INVALID_CONTAINER_PROBE, &path.name("port"), message);
    }
    if let Some(HttpScheme::Other(scheme)) = &get.scheme {
        let message = format!(
            "{of} has scheme '{}'. The value must be one of '{}'.",
            shown(scheme),
            HttpScheme::KNOWN.join(",")
        );
        check.problem(
            codes::INVALID_CONTAINER_PROBE,
            &path.name("scheme"),
            message,
        );
    }
    if get
        .path
        .as_deref()
        .is_some_and(|p| p.contains(char::is_whitespace) || p.contains(char::is_control))
    {
        let message = format!("{of} has a path with white space; write it percent-encoded.");
        check.problem(codes::INVALID_CONTAINER_PROBE, &path.name("path"), message);
    }
    for (i, header) in get.http_headers.iter().enumerate() {
        let path = path.name("httpHeaders").index(i);
        let name = header.name.as_deref().unwrap_or_default();
        // A token of RFC 9110, section 5.6.2.
        let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        if name.is_empty() || !name.bytes().all(token) {
            let message = format!(
                "{of} has a header '{}', which is no name of a header field.",
                shown(name)
            );
            check.problem(codes::INVALID_CONTAINER_PROBE, &path.name("name"), message);
        }
        if header
            .value
            .as_deref()
            .is_some_and(|v| v.contains(['\r', '\n', '\0']))
        {
            let message = format!(
                "{of} has a value of header '{}' that is not in one line.",
                shown(name)
            );
            check.problem(codes::INVALID_CONTAINER_PROBE, &path.name("value"), message);
        }
    }
}
