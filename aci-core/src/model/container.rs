//! Containers and init containers.

use std::collections::BTreeMap;

use super::instance_view::{ContainerInstanceView, InitContainerInstanceView};
use super::macros::{object, open_enum};
use super::probe::Probe;
use super::resources::ResourceRequirements;
use super::secret::Secret;
use super::security::SecurityContext;
use super::volume::VolumeMount;

object! {
    /// A container of a group.
    Container {
        /// Its name: 1 to 63 lower-case letters, digits and hyphens, unique among all containers of the group.
        name: String => "name" [required] "2018-04-01" / "2017-08-01-preview";
        /// What it runs and with what.
        properties: ContainerProperties => "properties" [required] "2018-04-01" / "2017-08-01-preview";
    }
}

object! {
    /// What a container runs and with what.
    ContainerProperties {
        /// The image reference, such as `mcr.microsoft.com/azuredocs/aci-helloworld:latest`.
        image: Option<String> => "image" [] "2018-04-01" / "2017-08-01-preview";
        /// The command in exec form, in place of the image's entry point and arguments; empty: the image's own.
        command: Vec<String> => "command" [] "2018-04-01" / "2017-08-01-preview";
        /// The ports that it listens on.
        ports: Vec<ContainerPort> => "ports" [] "2018-04-01" / "2017-08-01-preview";
        /// Its environment.
        environment_variables: Vec<EnvironmentVariable> => "environmentVariables" [] "2018-04-01" / "2017-08-01-preview";
        /// How it is doing; only in replies.
        instance_view: Option<ContainerInstanceView> => "instanceView" [read_only] "2018-04-01" / "2017-08-01-preview";
        /// The CPU, memory and GPUs that it asks for and may use.
        resources: Option<ResourceRequirements> => "resources" [] "2018-04-01" / "2017-08-01-preview";
        /// Where it sees the group's volumes.
        volume_mounts: Vec<VolumeMount> => "volumeMounts" [] "2018-04-01" / "2017-08-01-preview";
        /// Failing restarts the container according to the group's restart policy.
        liveness_probe: Option<Probe> => "livenessProbe" [] "2018-06-01";
        /// Failing keeps traffic away from the container.
        readiness_probe: Option<Probe> => "readinessProbe" [] "2018-06-01";
        /// Its user, capabilities and system call filter.
        security_context: Option<SecurityContext> => "securityContext" [] "2023-05-01" / "2022-10-01-preview";
        /// Values that it sees as files and that change without a restart.
        config_map: Option<ConfigMap> => "configMap" [] "2025-09-01" / "2024-05-01-preview";
    }
}

object! {
    /// A container that runs to its end before the containers of the group start; one after the
    /// other in the order of the document.
    InitContainer {
        /// Its name: 1 to 63 lower-case letters, digits and hyphens, unique among all containers of the group.
        name: String => "name" [required] "2019-12-01";
        /// What it runs and with what.
        properties: InitContainerProperties => "properties" [required] "2019-12-01";
    }
}

object! {
    /// What an init container runs. It has no resources, ports or probes: it may use all that the group has.
    InitContainerProperties {
        /// The image reference.
        image: Option<String> => "image" [] "2019-12-01";
        /// The command in exec form; empty: the image's own.
        command: Vec<String> => "command" [] "2019-12-01";
        /// Its environment.
        environment_variables: Vec<EnvironmentVariable> => "environmentVariables" [] "2019-12-01";
        /// How it is doing; only in replies.
        instance_view: Option<InitContainerInstanceView> => "instanceView" [read_only] "2019-12-01";
        /// Where it sees the group's volumes.
        volume_mounts: Vec<VolumeMount> => "volumeMounts" [] "2019-12-01";
        /// Its user, capabilities and system call filter.
        security_context: Option<SecurityContext> => "securityContext" [] "2023-05-01" / "2022-10-01-preview";
    }
}

object! {
    /// A variable of a container's environment. Exactly one of the three values is given.
    EnvironmentVariable {
        /// Its name: 1 to 63 letters, digits and underscores.
        name: String => "name" [required] "2018-04-01" / "2017-08-01-preview";
        /// A value that anyone who reads the group may see.
        value: Option<String> => "value" [] "2018-04-01" / "2017-08-01-preview";
        /// A value that replies leave out.
        secure_value: Option<Secret> => "secureValue" [] "2018-06-01";
        /// The name of one of the group's secret references, whose secret is the value.
        secure_value_reference: Option<String> => "secureValueReference" [] "2025-09-01" / "2024-10-01-preview";
    }
}

open_enum! {
    /// A transport protocol.
    Protocol {
        /// TCP, the default.
        Tcp = "TCP",
        /// UDP.
        Udp = "UDP",
    }
}

object! {
    /// A port that a container listens on.
    ContainerPort {
        /// Absent: TCP.
        protocol: Option<Protocol> => "protocol" [] "2018-04-01" / "2017-10-01-preview";
        /// The port, 1 to 65535. The containers of a group share their ports.
        port: u16 => "port" [required] "2018-04-01" / "2017-08-01-preview";
    }
}

object! {
    /// Values that a container sees as files in `/mnt/configmap/<container>`, one a key; a change
    /// reaches the files without a restart.
    ConfigMap {
        /// The files' names and contents.
        key_value_pairs: BTreeMap<String, String> => "keyValuePairs" [] "2025-09-01" / "2024-05-01-preview";
    }
}
