//! Whether a document can be accepted by this engine.

use aci_core::error::{Error, ErrorKind, Problem, Result};
use aci_core::model::{ContainerGroup, EnvironmentVariable, OsType, Sku};
use aci_core::validate::{Rules, validate};

use super::{Shared, act};

impl Shared {
    /// Refuses what is wrong with a document, all at once, and what the engine's parts cannot do.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] with all problems; [`ErrorKind::Unsupported`].
    pub(crate) fn check(&self, document: &ContainerGroup) -> Result<()> {
        let capability = self.isolation.capability();
        let rules = Rules {
            location: self.options.location.clone(),
            ..self.options.rules.clone()
        };
        for warning in validate(document, &rules).into_result()? {
            tracing::warn!(group = %document.name, "{warning}");
        }
        let properties = &document.properties;
        let cannot = |what: &str, code: &str| {
            Error::new(
                ErrorKind::Unsupported,
                "group.create",
                format!(
                    "{what} cannot be run by the isolation '{}'",
                    capability.name
                ),
            )
            .on(&document.name)
            .code(code)
        };
        if properties.os_type == Some(OsType::Windows) && !capability.windows {
            return Err(cannot("osType 'Windows'", "ServiceUnavailable"));
        }
        if properties.sku == Some(Sku::Confidential) && !capability.confidential {
            return Err(cannot(
                "sku 'Confidential'",
                "ConfidentialContainerGroupSkuIsNotSupported",
            ));
        }
        for volume in &document.properties.volumes {
            act::driver(self, volume)?;
        }
        let references = references(document);
        if self.secrets.is_none() && !references.is_empty() {
            let mut error = Error::from_problems("group.create", references);
            error = error.hint(
                "this engine has no resolver for secret references; give its builder one, or the values themselves",
            );
            return Err(error);
        }
        Ok(())
    }
}

/// Everything that refers to a secret elsewhere.
fn references(document: &ContainerGroup) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut note = |path: String, name: &str| {
        problems.push(Problem::new(
            "SecretReferenceNotSupported",
            path,
            format!("the secret reference '{name}' cannot be resolved here"),
        ));
    };
    let properties = &document.properties;
    let mut environment = |path: &str, variables: &[EnvironmentVariable]| {
        for (i, variable) in variables.iter().enumerate() {
            if let Some(name) = &variable.secure_value_reference {
                note(
                    format!("{path}.environmentVariables[{i}].secureValueReference"),
                    name,
                );
            }
        }
    };
    for (i, container) in properties.containers.iter().enumerate() {
        let path = format!("properties.containers[{i}].properties");
        environment(&path, &container.properties.environment_variables);
    }
    for (i, container) in properties.init_containers.iter().enumerate() {
        let path = format!("properties.initContainers[{i}].properties");
        environment(&path, &container.properties.environment_variables);
    }
    for (i, credential) in properties.image_registry_credentials.iter().enumerate() {
        if let Some(name) = &credential.password_reference {
            note(
                format!("properties.imageRegistryCredentials[{i}].passwordReference"),
                name,
            );
        }
    }
    for (i, volume) in properties.volumes.iter().enumerate() {
        if let Some(references) = &volume.secret_reference {
            for name in references.values() {
                note(format!("properties.volumes[{i}].secretReference"), name);
            }
        }
        if let Some(share) = &volume.azure_file
            && let Some(name) = &share.storage_account_key_reference
        {
            note(
                format!("properties.volumes[{i}].azureFile.storageAccountKeyReference"),
                name,
            );
        }
    }
    problems
}
