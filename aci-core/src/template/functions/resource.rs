//! Resource ids.

use serde_json::Value;

use super::Call;
use crate::template::error::{TemplateError, TemplateResult};
use crate::template::scope::Level;

/// `/providers/Namespace/type/name/childType/childName` of a type and its names.
pub(crate) fn provider_path(kind: &str, names: &[&str]) -> Option<String> {
    let mut segments = kind.trim_end_matches('/').split('/');
    let namespace = segments.next()?;
    let types: Vec<&str> = segments.collect();
    if types.is_empty() || types.len() != names.len() || names.iter().any(|name| name.is_empty()) {
        return None;
    }
    let mut path = format!("/providers/{namespace}");
    for (kind, name) in types.iter().zip(names) {
        path.push_str(&format!("/{kind}/{name}"));
    }
    Some(path)
}

fn segments(call: &Call<'_, '_, '_>, kind: &str, names: &[&str]) -> TemplateResult<String> {
    provider_path(kind, names).ok_or_else(|| {
        call.refuse(format!(
            "a resource type with {} segments after its namespace needs as many resource names; {} are given",
            kind.trim_end_matches('/').matches('/').count(),
            names.len()
        ))
    })
}

/// Splits the arguments into what stands before the type, the type, and the names.
fn parts<'c>(
    call: &'c Call<'_, '_, '_>,
    most: usize,
) -> TemplateResult<(Vec<&'c str>, &'c str, Vec<&'c str>)> {
    let texts = (0..call.args.len())
        .map(|index| call.text(index))
        .collect::<TemplateResult<Vec<_>>>()?;
    let at = texts
        .iter()
        .position(|text| text.contains('/'))
        .filter(|at| *at <= most);
    match at {
        Some(at) => Ok((texts[..at].to_vec(), texts[at], texts[at + 1..].to_vec())),
        None => Err(call.refuse("it needs a resource type such as 'Microsoft.ContainerInstance/containerGroups', and the names")),
    }
}

pub(super) fn resource_id(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    let (before, kind, names) = parts(call, 2)?;
    let path = segments(call, kind, &names)?;
    let place = &call.frame.scope.seen_place;
    let own = place.subscription_id.as_str();
    let prefix = match (before.as_slice(), call.frame.scope.level) {
        ([subscription, group], _) => {
            format!("/subscriptions/{subscription}/resourceGroups/{group}")
        }
        ([group], Level::ResourceGroup) => format!("/subscriptions/{own}/resourceGroups/{group}"),
        ([subscription], _) => format!("/subscriptions/{subscription}"),
        (_, Level::ResourceGroup) => format!(
            "/subscriptions/{own}/resourceGroups/{}",
            place.resource_group
        ),
        (_, Level::Subscription) => format!("/subscriptions/{own}"),
        (_, Level::ManagementGroup | Level::Tenant) => String::new(),
    };
    Ok(Value::String(prefix + &path))
}

pub(super) fn subscription_resource_id(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    let (before, kind, names) = parts(call, 1)?;
    let own = call.frame.scope.seen_place.subscription_id.as_str();
    let subscription = before.first().copied().unwrap_or(own);
    let path = match names.as_slice() {
        [name] if kind.eq_ignore_ascii_case("Microsoft.Resources/resourceGroups") => {
            format!("/resourceGroups/{name}")
        }
        _ => segments(call, kind, &names)?,
    };
    Ok(Value::String(format!(
        "/subscriptions/{subscription}{path}"
    )))
}

pub(super) fn tenant_resource_id(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    let (_, kind, names) = parts(call, 0)?;
    segments(call, kind, &names).map(Value::String)
}

/// `extensionResourceId(resourceId, type, names...)`.
pub(super) fn extension_resource_id(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    call.arity(3, usize::MAX)?;
    let texts = (0..call.args.len())
        .map(|index| call.text(index))
        .collect::<TemplateResult<Vec<_>>>()?;
    let base = texts[0].trim_end_matches('/');
    if !base.is_empty() && !base.starts_with('/') {
        return Err(TemplateError::expression(
            "the first parameter must be the id of the resource that is extended",
        ));
    }
    Ok(Value::String(format!(
        "{base}{}",
        segments(call, texts[1], &texts[2..])?
    )))
}

/// `pickZones`: zones `1` to `3`, whatever the type and the location; a machine has no list of
/// Azure's regions.
pub(super) fn pick_zones(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    const ZONES: i64 = 3;
    call.arity(3, 5)?;
    for index in 0..3 {
        call.text(index)?;
    }
    let count = if call.args.len() > 3 { call.int(3)? } else { 1 };
    let offset = if call.args.len() > 4 { call.int(4)? } else { 0 };
    if !(1..=ZONES).contains(&count) || offset < 0 || offset.saturating_add(count) > ZONES {
        return Err(call.refuse(format!(
            "{count} zones from offset {offset} are not among the {ZONES} zones"
        )));
    }
    Ok(Value::Array(
        (offset + 1..=offset + count)
            .map(|zone| Value::String(zone.to_string()))
            .collect(),
    ))
}
