//! The codes that validation reports, in one table.

/// Where a code comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// ACI or Azure Resource Manager reports it; code and wording are theirs as far as replies of
    /// the service show them.
    Service,
    /// ACI has the rule, and its code was not seen: the code follows the pattern of ACI's own
    /// (`InvalidContainerPorts`, `MissingIpAddressPorts`), and so does the wording.
    Pattern,
    /// The rule is this crate's: the document could not be run as it stands.
    Own,
}

/// One code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code {
    /// The code as a reply has it.
    pub name: &'static str,
    /// Where it comes from.
    pub origin: Origin,
    /// What it is reported for.
    pub when: &'static str,
}

macro_rules! codes {
    ($($ident:ident = $name:literal, $origin:ident, $when:literal;)*) => {
        $(pub(super) const $ident: Code = Code { name: $name, origin: Origin::$origin, when: $when };)*

        /// Every code, grouped by theme.
        ///
        /// | code | origin | reported for |
        /// |---|---|---|
        $(#[doc = concat!("| `", $name, "` | ", stringify!($origin), " | ", $when, " |")])*
        pub const CODES: &[Code] = &[$($ident),*];
    };
}

codes! {
    INVALID_REQUEST_CONTENT = "InvalidRequestContent", Service, "a required property is absent";
    INVALID_CONTAINER_GROUP_NAME = "InvalidContainerGroupName", Pattern, "the group's name";
    INVALID_TAG_NAME_CHARACTERS = "InvalidTagNameCharacters", Service, "a tag's name has reserved characters";
    INVALID_TAGS = "InvalidTags", Pattern, "more than 50 tags, names above 512 or values above 256 characters";
    INVALID_ZONES = "InvalidZones", Pattern, "zones other than one of 1, 2 and 3";

    MISSING_CONTAINERS = "MissingContainers", Pattern, "no container besides init containers";
    TOO_MANY_CONTAINERS = "TooManyContainers", Pattern, "more than 60 containers, or more than 59 init containers";
    INVALID_CONTAINER_NAME = "InvalidContainerName", Pattern, "a container's name; the wording is ACI's";
    DUPLICATE_CONTAINER_NAME = "DuplicateContainerName", Pattern, "two containers of one name, init containers included";
    INVALID_CONTAINER_IMAGE = "InvalidContainerImage", Pattern, "no image, or no image reference";
    INVALID_CONTAINER_COMMAND = "InvalidContainerCommand", Own, "an empty program or a NUL character";
    INVALID_CONTAINER_ENVIRONMENT_VARIABLE = "InvalidContainerEnvironmentVariable", Service, "an environment variable's name or value";
    INVALID_INIT_CONTAINER = "InvalidInitContainer", Pattern, "ports, resources or probes of an init container";
    INVALID_CONTAINER_PROBE = "InvalidContainerProbe", Pattern, "a probe without exactly one check, or with numbers out of range";
    INVALID_SECURITY_CONTEXT = "InvalidSecurityContext", Pattern, "capabilities, users or the seccomp profile";
    INVALID_CONFIG_MAP = "InvalidConfigMap", Pattern, "a key of a config map that is no file name";

    RESOURCE_REQUESTS_NOT_SPECIFIED = "ResourceRequestsNotSpecified", Service, "a container without requests for CPU and memory";
    INVALID_RESOURCE_REQUESTS = "InvalidResourceRequests", Pattern, "a number that is no amount";
    MEMORY_NOT_TIMES_OF_ONE_TENTH_GB = "MemoryRequirementNotTimesOfOneTenthGB", Service, "memory between two tenths of a GB";
    CPU_NOT_TIMES_OF_ONE_HUNDREDTH = "CpuRequirementNotTimesOfOneHundredthCore", Pattern, "CPU between two hundredths of a core";
    RESOURCE_LIMITS_LESS_THAN_REQUESTS = "ResourceLimitsLessThanRequests", Service, "a limit below its request";
    CONTAINER_LIMIT_GREATER_THAN_TOTAL = "ContainerLimitGreaterThanContainerGroupTotalRequest", Service, "a limit above the group's total";
    SERVICE_UNAVAILABLE = "ServiceUnavailable", Service, "a group larger than its sku allows";
    INVALID_GPU_RESOURCE = "InvalidGpuResource", Pattern, "GPUs of an unknown kind or count";

    INVALID_CONTAINER_PORTS = "InvalidContainerPorts", Service, "a container's port out of range, or an unknown protocol";
    DUPLICATE_CONTAINER_PORTS = "DuplicateContainerPorts", Pattern, "a port used twice: the containers of a group share one address";
    MISSING_IP_ADDRESS_PORTS = "MissingIpAddressPorts", Service, "an address without ports";
    INVALID_IP_ADDRESS_PORTS = "InvalidIpAddressPorts", Pattern, "a port of the address out of range, twice, or one too many";
    UNUSED_IP_ADDRESS_PORTS = "UnusedIpAddressPorts", Pattern, "a port of the address that no container uses; the wording is ACI's";
    RESERVED_PORTS = "ReservedPorts", Pattern, "ports that ACI keeps for itself";
    INVALID_IP_ADDRESS = "InvalidIpAddress", Pattern, "an address of unknown type, or a private one without a network";
    INVALID_IP_ADDRESS_TYPE_FOR_NETWORK_PROFILE = "InvalidIpAddressTypeForNetworkProfile", Service, "a public address in a virtual network";
    INVALID_DNS_NAME_LABEL = "InvalidDnsNameLabel", Pattern, "a DNS name label; the wording is ACI's";
    INVALID_SUBNET = "InvalidSubnetId", Pattern, "a subnet's or network profile's resource id, or more than one subnet";
    INVALID_DNS_CONFIG = "InvalidDnsConfig", Pattern, "name servers that are no addresses, or unreadable search domains";

    TOO_MANY_VOLUMES = "TooManyVolumes", Pattern, "more than 20 volumes";
    INVALID_VOLUME = "InvalidVolume", Pattern, "a volume's name or kind";
    DUPLICATE_VOLUME_NAME = "DuplicateVolumeName", Pattern, "two volumes of one name";
    INVALID_AZURE_FILE_VOLUME = "InvalidAzureFileVolume", Pattern, "a share without a name, an account or exactly one way in";
    INVALID_SECRET_VOLUME = "InvalidSecretVolume", Pattern, "a file name, or contents that are not base64";
    INVALID_GIT_REPO_VOLUME = "InvalidGitRepoVolume", Pattern, "a repository's address or directory";
    INVALID_VOLUME_MOUNT = "InvalidVolumeMount", Pattern, "a mount of no volume, or at an impossible path";

    INVALID_OS_TYPE = "InvalidOsType", Service, "no operating system, or an unknown one";
    INVALID_RESTART_POLICY = "InvalidRestartPolicy", Pattern, "an unknown restart policy";
    INVALID_SKU = "InvalidSku", Pattern, "an unknown sku";
    NOT_SUPPORTED_ON_WINDOWS = "NotSupportedOnWindows", Pattern, "what ACI has for Linux only";
    PRIORITY_NOT_SPECIFIED = "PriorityNotSpecified", Service, "an unknown priority";
    SPOT_INBOUND = "SpotPriorityContainerGroupNotSupportedForInboundConnectivity", Service, "a spot group with an address or a network";
    SPOT_SKU = "SpotPriorityContainerGroupNotSupportedInSku", Service, "a spot group that is not standard";
    SPOT_GPU = "SpotPriorityContainerGroupWithGPUResourcesNotSupported", Service, "a spot group with GPUs";
    SPOT_ZONES = "SpotPriorityContainerGroupNotSupportedInZones", Pattern, "a spot group with zones";
    CONFIDENTIAL_NOT_SUPPORTED = "ConfidentialContainerGroupSkuIsNotSupported", Service, "a confidential group where there are none, on Windows or with GPUs";
    INVALID_CCE_POLICY = "InvalidCcePolicy", Pattern, "a policy that is not base64 or above 120 KB";

    INVALID_IMAGE_REGISTRY_SERVER = "InvalidImageRegistryServer", Service, "a registry that is no host name";
    INVALID_IMAGE_REGISTRY_CREDENTIAL_TYPE = "InvalidImageRegistryCredentialType", Service, "an identity before api-version 2021-07-01, or two ways in";
    INVALID_IMAGE_REGISTRY_IDENTITY = "InvalidImageRegistryIdentity", Service, "an identity that the group does not have";
    INVALID_SECRET_REFERENCE = "InvalidSecretReference", Pattern, "a secret reference, or the name of none";
    INVALID_IDENTITY = "InvalidIdentity", Pattern, "the group's identities";
    INVALID_IDENTITY_ACLS = "InvalidIdentityAcls", Pattern, "access to identities";
    INVALID_DIAGNOSTICS = "InvalidLogAnalytics", Pattern, "the log analytics workspace";
    INVALID_ENCRYPTION_PROPERTIES = "InvalidEncryptionProperties", Pattern, "the encryption key";
    INVALID_EXTENSION = "InvalidExtension", Pattern, "an extension without name, type or version";
    INVALID_PROFILE = "InvalidContainerGroupProfile", Pattern, "a profile's name or its durations";
    INVALID_PROFILE_REFERENCE = "InvalidContainerGroupProfileReference", Pattern, "a container group profile or standby pool";

    INVALID_API_VERSION = "InvalidApiVersionParameter", Service, "an api-version that is none";
    UNKNOWN_IN_API_VERSION = "PropertyNotInApiVersion", Own, "a property that the api-version does not know (a warning)";
    NO_EFFECT = "NoEffect", Own, "a property that changes nothing (a warning)";
    MAY_FAIL_LATER = "MayFailLater", Own, "what ACI accepts and then cannot run (a warning)";
}
