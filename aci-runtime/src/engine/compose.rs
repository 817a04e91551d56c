//! From a document and an image to what a sandbox starts: pure functions.

use std::net::IpAddr;

use aci_core::contract::{
    Attachment, ContainerSpec, FileEntry, Image, MountSpec, ProcessSpec, RootFs, SeccompPolicy,
    SecurityPolicy, Signal, UserSpec, VolumeSource,
};
use aci_core::error::{Error, ErrorKind, Result};
use aci_core::model::{ContainerGroup, EnvironmentVariable, Secret, SecurityContext, VolumeMount};
use aci_core::size::Limits;
use base64::Engine as _;
use bytes::Bytes;

use super::secrets::Values;

/// One container or init container of a document, seen alike.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part<'a> {
    pub(crate) name: &'a str,
    pub(crate) image: &'a str,
    command: &'a [String],
    env: &'a [EnvironmentVariable],
    mounts: &'a [VolumeMount],
    security: Option<&'a SecurityContext>,
    gpus: u32,
    pub(crate) has_config_map: bool,
}

impl<'a> Part<'a> {
    /// The names of the secret references that its environment needs.
    pub(crate) fn references(&self) -> impl Iterator<Item = &'a str> {
        let variables = self.env.iter().filter(|v| v.secure_value.is_none());
        variables.filter_map(|v| v.secure_value_reference.as_deref())
    }
}

/// Finds a container or init container by name.
pub(crate) fn part<'a>(group: &'a ContainerGroup, name: &str) -> Option<Part<'a>> {
    let app = group.properties.containers.iter().find(|c| c.name == name);
    if let Some(c) = app {
        let p = &c.properties;
        return Some(Part {
            name: &c.name,
            image: p.image.as_deref().unwrap_or_default(),
            command: &p.command,
            env: &p.environment_variables,
            mounts: &p.volume_mounts,
            security: p.security_context.as_ref(),
            gpus: p
                .resources
                .as_ref()
                .and_then(|resources| resources.requests.as_ref()?.gpu.as_ref())
                .map_or(0, |gpu| gpu.count),
            has_config_map: p.config_map.is_some(),
        });
    }
    let init = group
        .properties
        .init_containers
        .iter()
        .find(|c| c.name == name)?;
    let p = &init.properties;
    Some(Part {
        name: &init.name,
        image: p.image.as_deref().unwrap_or_default(),
        command: &p.command,
        env: &p.environment_variables,
        mounts: &p.volume_mounts,
        security: p.security_context.as_ref(),
        gpus: 0,
        has_config_map: false,
    })
}

/// The name of the sandbox volume that carries a container's `configMap`.
pub(crate) fn config_map_volume(container: &str) -> String {
    format!("configmap/{container}")
}

/// The config maps of a document as volumes of its sandbox.
pub(crate) fn config_maps(
    document: &ContainerGroup,
) -> impl Iterator<Item = (String, VolumeSource)> {
    document.properties.containers.iter().filter_map(|c| {
        let map = c.properties.config_map.as_ref()?;
        let files = map
            .key_value_pairs
            .iter()
            .map(|(key, value)| (key.clone(), Bytes::from(value.clone())))
            .collect();
        Some((config_map_volume(&c.name), VolumeSource::Files(files)))
    })
}

/// What a container is started from, besides the document.
#[derive(Debug)]
pub(crate) struct Surroundings<'a> {
    pub(crate) image: &'a Image,
    pub(crate) rootfs: RootFs,
    pub(crate) attachment: Option<&'a Attachment>,
    pub(crate) hostname: &'a str,
    /// What [`Part::references`] stand for.
    pub(crate) secrets: &'a Values,
    pub(crate) limits: Limits,
    pub(crate) log_bytes: u64,
}

/// The container to start.
///
/// # Errors
/// [`ErrorKind::Invalid`] if there is nothing to run or the security context cannot be read.
pub(crate) fn container(
    part: Part<'_>,
    attempt: u32,
    around: Surroundings<'_>,
) -> Result<ContainerSpec> {
    let mut mounts: Vec<MountSpec> = part
        .mounts
        .iter()
        .map(|m| MountSpec {
            volume: m.name.clone(),
            path: m.mount_path.clone(),
            read_only: m.read_only.unwrap_or(false),
        })
        .collect();
    if part.has_config_map {
        mounts.push(MountSpec {
            volume: config_map_volume(part.name),
            path: format!("/mnt/configmap/{}", part.name),
            read_only: true,
        });
    }
    let process = process(part, &around)?;
    Ok(ContainerSpec {
        name: part.name.to_owned(),
        attempt,
        rootfs: around.rootfs,
        process,
        mounts,
        files: files(around.hostname, around.attachment),
        limits: around.limits,
        security: security(part)?,
        log_bytes: around.log_bytes,
        gpus: part.gpus,
    })
}

/// What runs: ACI's `command` replaces the image's entry point *and* its arguments; without it
/// the image's entry point runs with its arguments (the reference: "in exec form").
fn process(part: Part<'_>, around: &Surroundings<'_>) -> Result<ProcessSpec> {
    let config = &around.image.config;
    let argv: Vec<String> = if part.command.is_empty() {
        config
            .entrypoint
            .iter()
            .chain(&config.cmd)
            .cloned()
            .collect()
    } else {
        part.command.to_vec()
    };
    if argv.first().is_none_or(String::is_empty) {
        return Err(Error::new(
            ErrorKind::Invalid,
            "container.compose",
            format!(
                "neither the document nor the image '{}' says what to run",
                part.image
            ),
        )
        .on(part.name)
        .hint("set 'command' in the document"));
    }
    Ok(ProcessSpec {
        argv,
        env: environment(part, around),
        cwd: config.working_dir.clone().unwrap_or_default(),
        user: UserSpec {
            image: config.user.clone().filter(|u| !u.is_empty()),
            uid: part.security.and_then(|s| s.run_as_user),
            gid: part.security.and_then(|s| s.run_as_group),
        },
        terminal: None,
    })
}

/// The image's environment, then the document's; a later name replaces an earlier one. `PATH` and
/// `HOSTNAME` are always set, as Docker does.
fn environment(part: Part<'_>, around: &Surroundings<'_>) -> Vec<(String, Secret)> {
    let mut env: Vec<(String, Secret)> = vec![
        (
            "PATH".to_owned(),
            Secret::new("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ),
        ("HOSTNAME".to_owned(), Secret::new(around.hostname)),
    ];
    let mut set = |name: &str, value: Secret| match env.iter_mut().find(|(n, _)| n == name) {
        Some((_, old)) => *old = value,
        None => env.push((name.to_owned(), value)),
    };
    for pair in &around.image.config.env {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        set(name, Secret::new(value));
    }
    for variable in part.env {
        let referred = || {
            let name = variable.secure_value_reference.as_ref()?;
            around.secrets.get(name).cloned()
        };
        let value = variable
            .secure_value
            .clone()
            .or_else(referred)
            .unwrap_or_else(|| Secret::new(variable.value.clone().unwrap_or_default()));
        set(&variable.name, value);
    }
    env
}

/// ACI's `securityContext`; without one a container may gain rights through set-user-id programs,
/// as in ACI and Docker.
fn security(part: Part<'_>) -> Result<SecurityPolicy> {
    let Some(context) = part.security else {
        return Ok(SecurityPolicy {
            allow_privilege_escalation: true,
            ..Default::default()
        });
    };
    let privileged = context.privileged.unwrap_or(false);
    let seccomp = match &context.seccomp_profile {
        Some(profile) if !profile.is_empty() => {
            SeccompPolicy::Profile(decode_profile(part, profile)?)
        }
        _ if privileged => SeccompPolicy::Unconfined,
        _ => SeccompPolicy::Default,
    };
    let capabilities = context.capabilities.as_ref();
    Ok(SecurityPolicy {
        privileged,
        allow_privilege_escalation: context.allow_privilege_escalation.unwrap_or(true),
        add_capabilities: capabilities.map(|c| c.add.clone()).unwrap_or_default(),
        drop_capabilities: capabilities.map(|c| c.drop.clone()).unwrap_or_default(),
        seccomp,
    })
}

fn decode_profile(part: Part<'_>, profile: &str) -> Result<String> {
    let invalid = |why: String| {
        Error::new(
            ErrorKind::Invalid,
            "container.compose",
            format!("securityContext.seccompProfile must be base64 of a JSON profile: {why}"),
        )
        .on(part.name)
    };
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(profile.trim())
        .map_err(|e| invalid(e.to_string()))?;
    String::from_utf8(bytes).map_err(|e| invalid(e.to_string()))
}

/// `/etc/hostname`, `/etc/hosts` and, with a network, `/etc/resolv.conf`.
fn files(hostname: &str, attachment: Option<&Attachment>) -> Vec<FileEntry> {
    let own: Vec<IpAddr> = attachment
        .map(|a| a.addresses.iter().map(ipnet::IpNet::addr).collect())
        .unwrap_or_default();
    let mut hosts = String::from(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n",
    );
    if own.is_empty() {
        hosts.push_str(&format!("127.0.1.1\t{hostname}\n"));
    }
    for address in own {
        hosts.push_str(&format!("{address}\t{hostname}\n"));
    }
    let file = |path: &str, content: String| FileEntry {
        path: path.to_owned(),
        content: content.into(),
        mode: 0o644,
    };
    let mut files = vec![
        file("/etc/hostname", format!("{hostname}\n")),
        file("/etc/hosts", hosts),
    ];
    if let Some(attachment) = attachment {
        let dns = &attachment.dns;
        let mut resolv = String::new();
        for server in &dns.name_servers {
            resolv.push_str(&format!("nameserver {server}\n"));
        }
        if !dns.search.is_empty() {
            resolv.push_str(&format!("search {}\n", dns.search.join(" ")));
        }
        if !dns.options.is_empty() {
            resolv.push_str(&format!("options {}\n", dns.options.join(" ")));
        }
        files.push(file("/etc/resolv.conf", resolv));
    }
    files
}

/// The image's signal for a polite stop, if it names one that exists.
pub(crate) fn stop_signal(image: &Image) -> Option<Signal> {
    image.config.stop_signal.as_deref()?.parse().ok()
}

/// A host name from a group's name: lower case, at most 63 characters.
pub(crate) fn hostname(group: &str) -> String {
    let name: String = group
        .chars()
        .map(|c| c.to_ascii_lowercase())
        .filter(|c| c.is_ascii_alphanumeric() || *c == '-')
        .take(63)
        .collect();
    let name = name.trim_matches('-');
    if name.is_empty() {
        "group".to_owned()
    } else {
        name.to_owned()
    }
}
