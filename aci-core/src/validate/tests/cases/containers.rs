use super::case;
use crate::model::{
    Container, ContainerGroup, EnvironmentVariable, ExecAction, HttpHeader, HttpScheme,
    InitContainer, Probe,
};
use crate::validate::tests::Case;

fn first(group: &mut ContainerGroup) -> &mut Container {
    &mut group.properties.containers[0]
}

fn variable(group: &mut ContainerGroup) -> &mut EnvironmentVariable {
    &mut first(group).properties.environment_variables[0]
}

fn liveness(group: &mut ContainerGroup) -> &mut Probe {
    first(group)
        .properties
        .liveness_probe
        .get_or_insert_default()
}

fn readiness(group: &mut ContainerGroup) -> &mut Probe {
    first(group)
        .properties
        .readiness_probe
        .get_or_insert_default()
}

fn init(group: &mut ContainerGroup, count: usize) {
    let one = group.properties.init_containers[0].clone();
    group.properties.init_containers = (0..count)
        .map(|i| InitContainer {
            name: format!("init-{i}"),
            ..one.clone()
        })
        .collect();
}

pub(super) const CASES: &[Case] = &[
    case!(
        |g| {
            g.properties.containers.clear();
            g.properties.ip_address = None;
        },
        "MissingContainers",
        "properties.containers",
        "The containers of container group 'shop' cannot be empty.",
    ),
    case!(
        |g| init(g, 59),
        "TooManyContainers",
        "properties.containers",
        "Container group 'shop' has 61 containers, init containers included; at most 60 are allowed.",
    ),
    case!(
        |g| init(g, 60),
        "TooManyContainers",
        "properties.initContainers",
        "Container group 'shop' has 60 init containers; at most 59 are allowed.",
    ),
    case!(
        |g| first(g).name = "Web_1".to_owned(),
        "InvalidContainerName",
        "properties.containers[0].name",
        "The container name 'Web_1' in container group 'shop' is invalid. The container name must contain no more than \
         63 characters and must match the regex '[a-z0-9]([-a-z0-9]*[a-z0-9])?'.",
    ),
    case!(
        |g| g.properties.init_containers[0].name = "-".to_owned(),
        "InvalidContainerName",
        "properties.initContainers[0].name",
        "The container name '-' in container group 'shop' is invalid. The container name must contain no more than 63 \
         characters and must match the regex '[a-z0-9]([-a-z0-9]*[a-z0-9])?'.",
    ),
    case!(
        |g| first(g).name = "setup".to_owned(),
        "DuplicateContainerName",
        "properties.containers[0].name",
        "The container name 'setup' is used more than once in container group 'shop'; init containers count too.",
    ),
    case!(
        |g| first(g).properties.image = None,
        "InvalidContainerImage",
        "properties.containers[0].properties.image",
        "The image of container 'web' in container group 'shop' is not specified.",
    ),
    case!(
        |g| first(g).properties.image = Some("https://example.com/x".to_owned()),
        "InvalidContainerImage",
        "properties.containers[0].properties.image",
        "The image 'https://example.com/x' of container 'web' in container group 'shop' is invalid: it must not have a \
         protocol such as https://.",
    ),
    case!(
        |g| first(g).properties.command = vec![String::new()],
        "InvalidContainerCommand",
        "properties.containers[0].properties.command[0]",
        "The command of container 'web' starts with an empty string; its first element is the program.",
    ),
    case!(
        |g| g.properties.init_containers[0].properties.command[2] = "a\0b".to_owned(),
        "InvalidContainerCommand",
        "properties.initContainers[0].properties.command[2]",
        "Element 2 of the command of container 'setup' has a NUL character, which no program can be given.",
    ),
    case!(
        |g| variable(g).name = "my-name".to_owned(),
        "InvalidContainerEnvironmentVariable",
        "properties.containers[0].properties.environmentVariables[0].name",
        "The environment variable name 'my-name' in container 'web' of container group 'shop' is invalid. A valid \
         environment variable name must start with alphabetic character or '_', followed by a string of alphanumeric \
         characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName').",
    ),
    case!(
        |g| variable(g).secure_value = Some("x".into()),
        "InvalidContainerEnvironmentVariable",
        "properties.containers[0].properties.environmentVariables[0]",
        "The environment variable 'MODE' in container 'web' of container group 'shop' must have exactly one of 'value', \
         'secureValue' and 'secureValueReference'; 'value' and 'secureValue' are given.",
    ),
    case!(
        |g| variable(g).value = None,
        "InvalidContainerEnvironmentVariable",
        "properties.containers[0].properties.environmentVariables[0]",
        "The environment variable 'MODE' in container 'web' of container group 'shop' must have exactly one of 'value', \
         'secureValue' and 'secureValueReference'; none is given.",
    ),
    case!(
        |g| variable(g).value = Some("a\0".to_owned()),
        "InvalidContainerEnvironmentVariable",
        "properties.containers[0].properties.environmentVariables[0]",
        "The value of environment variable 'MODE' in container 'web' has a NUL character, which no program can be given.",
    ),
    case!(
        |g| first(g).properties.environment_variables[1].secure_value_reference =
            Some("no".to_owned()),
        "InvalidSecretReference",
        "properties.containers[0].properties.environmentVariables[1].secureValueReference",
        "The secret reference 'no' is not among the 'secretReferences' of container group 'shop'.",
    ),
    case!(
        |g| {
            let unknown = &mut g.properties.init_containers[0].properties.unknown;
            unknown.insert("Ports".to_owned(), serde_json::json!([{ "port": 80 }]));
        },
        "InvalidInitContainer",
        "properties.initContainers[0].properties.Ports",
        "Init container 'setup' in container group 'shop' has 'ports'. Init containers can have no ports, resources, \
         probes or config map: they use what the whole group has.",
    ),
    case!(
        |g| {
            let map = first(g).properties.config_map.get_or_insert_default();
            map.key_value_pairs.insert("../x".to_owned(), String::new());
        },
        "InvalidConfigMap",
        "properties.containers[0].properties.configMap.keyValuePairs['../x']",
        "The key '../x' in the config map of container 'web' is invalid: it becomes a file's name, which has 1 to 253 \
         letters, digits, periods, hyphens and underscores.",
    ),
    case!(
        |g| liveness(g).exec = Some(ExecAction::default()),
        "InvalidContainerProbe",
        "properties.containers[0].properties.livenessProbe",
        "The 'livenessProbe' of container 'web' in container group 'shop' must have exactly one of 'exec' and 'httpGet'; \
         both are given.",
    ),
    case!(
        |g| readiness(g).exec = None,
        "InvalidContainerProbe",
        "properties.containers[0].properties.readinessProbe",
        "The 'readinessProbe' of container 'web' in container group 'shop' must have exactly one of 'exec' and \
         'httpGet'; none is given.",
    ),
    case!(
        |g| readiness(g).exec = Some(ExecAction::default()),
        "InvalidContainerProbe",
        "properties.containers[0].properties.readinessProbe.exec.command",
        "The 'readinessProbe' of container 'web' in container group 'shop' has no command to execute.",
    ),
    case!(
        |g| liveness(g).http_get.get_or_insert_default().port = 0,
        "InvalidContainerProbe",
        "properties.containers[0].properties.livenessProbe.httpGet.port",
        "The 'livenessProbe' of container 'web' in container group 'shop' has port '0'. The port must be between 1 and \
         65535.",
    ),
    case!(
        |g| liveness(g).http_get.get_or_insert_default().scheme =
            Some(HttpScheme::Other("ftp".to_owned())),
        "InvalidContainerProbe",
        "properties.containers[0].properties.livenessProbe.httpGet.scheme",
        "The 'livenessProbe' of container 'web' in container group 'shop' has scheme 'ftp'. The value must be one of \
         'http,https'.",
    ),
    case!(
        |g| liveness(g).http_get.get_or_insert_default().path = Some("/a b".to_owned()),
        "InvalidContainerProbe",
        "properties.containers[0].properties.livenessProbe.httpGet.path",
        "The 'livenessProbe' of container 'web' in container group 'shop' has a path with white space; write it \
         percent-encoded.",
    ),
    case!(
        |g| {
            liveness(g).http_get.get_or_insert_default().http_headers = vec![HttpHeader {
                name: Some("a:".to_owned()),
                ..HttpHeader::default()
            }];
        },
        "InvalidContainerProbe",
        "properties.containers[0].properties.livenessProbe.httpGet.httpHeaders[0].name",
        "The 'livenessProbe' of container 'web' in container group 'shop' has a header 'a:', which is no name of a \
         header field.",
    ),
    case!(
        |g| {
            liveness(g).http_get.get_or_insert_default().http_headers = vec![HttpHeader {
                name: Some("a".to_owned()),
                value: Some("b\r\nc: d".to_owned()),
                ..HttpHeader::default()
            }];
        },
        "InvalidContainerProbe",
        "properties.containers[0].properties.livenessProbe.httpGet.httpHeaders[0].value",
        "The 'livenessProbe' of container 'web' in container group 'shop' has a value of header 'a' that is not in one \
         line.",
    ),
    case!(
        |g| liveness(g).period_seconds = Some(0),
        "InvalidContainerProbe",
        "properties.containers[0].properties.livenessProbe.periodSeconds",
        "The 'livenessProbe' of container 'web' in container group 'shop' has 'periodSeconds' '0'; the value must be at \
         least 1.",
    ),
    case!(
        |g| {
            let context = first(g).properties.security_context.get_or_insert_default();
            context
                .capabilities
                .get_or_insert_default()
                .add
                .push("FLY".to_owned());
        },
        "InvalidSecurityContext",
        "properties.containers[0].properties.securityContext.capabilities.add[1]",
        "The capability 'FLY' of container 'web' in container group 'shop' is unknown; a name of capabilities(7) such as \
         'NET_ADMIN', or 'ALL', is expected.",
    ),
    case!(
        |g| {
            let context = first(g).properties.security_context.get_or_insert_default();
            context.privileged = Some(true);
            context.allow_privilege_escalation = Some(false);
        },
        "InvalidSecurityContext",
        "properties.containers[0].properties.securityContext.allowPrivilegeEscalation",
        "The security context of container 'web' in container group 'shop' is 'privileged' and forbids privilege \
         escalation; a privileged container can always escalate.",
    ),
    case!(
        |g| first(g)
            .properties
            .security_context
            .get_or_insert_default()
            .run_as_user = Some(u32::MAX),
        "InvalidSecurityContext",
        "properties.containers[0].properties.securityContext.runAsUser",
        "The 'runAsUser' '4294967295' of container 'web' in container group 'shop' is no id.",
    ),
    case!(
        |g| first(g)
            .properties
            .security_context
            .get_or_insert_default()
            .seccomp_profile = Some("{}".to_owned()),
        "InvalidSecurityContext",
        "properties.containers[0].properties.securityContext.seccompProfile",
        "The 'seccompProfile' of container 'web' in container group 'shop' is not base64 encoded.",
    ),
    case!(
        |g| {
            let context = first(g).properties.security_context.clone();
            g.properties.init_containers[0].properties.security_context =
                context.map(|mut context| {
                    context.seccomp_profile = Some("e30=".to_owned());
                    context
                });
        },
        "InvalidSecurityContext",
        "properties.initContainers[0].properties.securityContext.seccompProfile",
        "The 'seccompProfile' of container 'setup' in container group 'shop' has no 'defaultAction'.",
    ),
    // {"defaultAction":"SCMP_ACT_ALOW"}
    case!(
        |g| first(g)
            .properties
            .security_context
            .get_or_insert_default()
            .seccomp_profile = Some("eyJkZWZhdWx0QWN0aW9uIjoiU0NNUF9BQ1RfQUxPVyJ9".to_owned()),
        "InvalidSecurityContext",
        "properties.containers[0].properties.securityContext.seccompProfile",
        "The 'seccompProfile' of container 'web' in container group 'shop' has the unknown action 'SCMP_ACT_ALOW'.",
    ),
    // {"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir"],"action":"DENY"}]}
    case!(
        |g| {
            first(g)
            .properties
            .security_context
            .get_or_insert_default()
            .seccomp_profile =
            Some("eyJkZWZhdWx0QWN0aW9uIjoiU0NNUF9BQ1RfQUxMT1ciLCJzeXNjYWxscyI6W3sibmFtZXMiOlsibWtkaXIiXSwiYWN0aW9uIjoiREVOWSJ9XX0=".to_owned())
        },
        "InvalidSecurityContext",
        "properties.containers[0].properties.securityContext.seccompProfile",
        "The 'seccompProfile' of container 'web' in container group 'shop' has the unknown action 'DENY' in 'syscalls[0]'.",
    ),
    // {"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["socket"],"action":"SCMP_ACT_ERRNO","args":[{"index":0,"value":38,"op":"=="}]}]}
    case!(
        |g| {
            first(g)
            .properties
            .security_context
            .get_or_insert_default()
            .seccomp_profile =
            Some("eyJkZWZhdWx0QWN0aW9uIjoiU0NNUF9BQ1RfQUxMT1ciLCJzeXNjYWxscyI6W3sibmFtZXMiOlsic29ja2V0Il0sImFjdGlvbiI6IlNDTVBfQUNUX0VSUk5PIiwiYXJncyI6W3siaW5kZXgiOjAsInZhbHVlIjozOCwib3AiOiI9PSJ9XX1dfQ==".to_owned())
        },
        "InvalidSecurityContext",
        "properties.containers[0].properties.securityContext.seccompProfile",
        "The 'seccompProfile' of container 'web' in container group 'shop' has the unknown comparison '==' in 'syscalls[0]'.",
    ),
];
