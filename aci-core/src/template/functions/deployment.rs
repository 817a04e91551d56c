//! What the template and the deployment say of themselves.

use serde_json::{Value, json};

use super::Call;
use crate::template::error::{TemplateError, TemplateResult};
use crate::template::eval::refuse_pending;
use crate::template::parameters;
use crate::template::scope::{Level, Part};
use crate::template::value::get;
use crate::template::variables;

pub(super) fn parameters(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    call.arity(1, 1)?;
    let name = call.text(0)?;
    if let Some(own) = &call.frame.locals.function {
        return own.get(&name.to_lowercase()).cloned().ok_or_else(|| {
            call.refuse(format!(
                "the function has no parameter '{name}'; it sees only its own"
            ))
        });
    }
    let value = parameters::value(call.evaluator, call.frame.scope, name)?;
    refuse_pending(&value)?;
    Ok(value.as_ref().clone())
}

pub(super) fn variables(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    call.arity(1, 1)?;
    if call.frame.part == Part::Function {
        return Err(call.refuse(
            "a function cannot see the template's variables; hand the value over as a parameter",
        ));
    }
    if call.frame.part == Part::Default {
        return Err(call.refuse("the default value of a parameter cannot use variables"));
    }
    Ok(
        variables::value(call.evaluator, call.frame.scope, call.text(0)?)?
            .as_ref()
            .clone(),
    )
}

/// `copyIndex([name], [offset])`.
pub(super) fn copy_index(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    call.arity(0, 2)?;
    let (name, offset) = match call.args.as_slice() {
        [] => (None, 0),
        [Value::String(name)] => (Some(name.as_str()), 0),
        [_] => (None, call.int(0)?),
        _ => (Some(call.text(0)?), call.int(1)?),
    };
    let loops = &call.frame.locals.loops;
    let found = match name {
        Some(name) => loops
            .iter()
            .rev()
            .find(|known| known.name.eq_ignore_ascii_case(name)),
        None => loops
            .iter()
            .rev()
            .find(|known| known.of_resource)
            .or_else(|| loops.last()),
    };
    let index = found
        .ok_or_else(|| call.refuse("there is no copy loop here, or none of that name"))?
        .index;
    index
        .checked_add(offset)
        .map(Value::from)
        .ok_or_else(|| call.refuse("the index does not fit into 64 bits"))
}

pub(super) fn deployment(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    call.arity(0, 0)?;
    let scope = call.frame.scope;
    let place = &scope.seen_place;
    let prefix = match scope.level {
        Level::ResourceGroup => {
            format!(
                "/subscriptions/{}/resourceGroups/{}",
                place.subscription_id, place.resource_group
            )
        }
        Level::Subscription => format!("/subscriptions/{}", place.subscription_id),
        Level::ManagementGroup | Level::Tenant => String::new(),
    };
    let template = |name: &str| get(scope.template, name).cloned().unwrap_or(Value::Null);
    let mut value = json!({
        "name": place.deployment,
        "id": format!("{prefix}/providers/Microsoft.Resources/deployments/{}", place.deployment),
        "type": "Microsoft.Resources/deployments",
        "properties": {
            "template": { "$schema": template("$schema"), "contentVersion": template("contentVersion") },
            "mode": "Incremental",
            "provisioningState": "Accepted",
        },
    });
    if scope.level != Level::ResourceGroup {
        let location = call
            .evaluator
            .context
            .deployment_location
            .as_ref()
            .unwrap_or(&place.location);
        value["location"] = json!(location);
    }
    Ok(value)
}

pub(super) fn resource_group(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    call.arity(0, 0)?;
    if call.frame.scope.level != Level::ResourceGroup {
        return Err(call.refuse("the template does not deploy into a resource group"));
    }
    Ok(call
        .evaluator
        .context
        .resource_group_value(&call.frame.scope.seen_place))
}

pub(super) fn subscription(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    call.arity(0, 0)?;
    match call.frame.scope.level {
        Level::ResourceGroup | Level::Subscription => Ok(call
            .evaluator
            .context
            .subscription_value(&call.frame.scope.seen_place)),
        Level::ManagementGroup | Level::Tenant => Err(TemplateError::expression(
            "the template does not deploy into a subscription",
        )),
    }
}

pub(super) fn tenant(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    call.arity(0, 0)?;
    Ok(call.evaluator.context.tenant_value())
}

/// The public cloud's endpoints, as Resource Manager documents them for `environment`.
pub(super) fn environment(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    call.arity(0, 0)?;
    Ok(json!({
        "name": "AzureCloud",
        "gallery": "https://gallery.azure.com/",
        "graph": "https://graph.windows.net/",
        "portal": "https://portal.azure.com",
        "graphAudience": "https://graph.windows.net/",
        "activeDirectoryDataLake": "https://datalake.azure.net/",
        "batch": "https://batch.core.windows.net/",
        "media": "https://rest.media.azure.net",
        "sqlManagement": "https://management.core.windows.net:8443/",
        "vmImageAliasDoc": "https://raw.githubusercontent.com/Azure/azure-rest-api-specs/master/arm-compute/quickstart-templates/aliases.json",
        "resourceManager": "https://management.azure.com/",
        "authentication": {
            "loginEndpoint": "https://login.microsoftonline.com/",
            "audiences": ["https://management.core.windows.net/", "https://management.azure.com/"],
            "tenant": "common",
            "identityProvider": "AAD",
        },
        "suffixes": {
            "acrLoginServer": ".azurecr.io",
            "azureDatalakeAnalyticsCatalogAndJob": "azuredatalakeanalytics.net",
            "azureDatalakeStoreFileSystem": "azuredatalakestore.net",
            "azureFrontDoorEndpointSuffix": "azurefd.net",
            "keyvaultDns": ".vault.azure.net",
            "sqlServerHostname": ".database.windows.net",
            "storage": "core.windows.net",
        },
    }))
}
