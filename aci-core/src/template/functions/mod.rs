//! The functions of the expression language, by family.

mod cidr;
mod collection;
mod date;
mod deployment;
mod encoding;
mod format;
pub(crate) mod hash;
pub(crate) mod lambda;
mod logical;
mod numeric;
mod object;
pub(crate) mod resource;
pub(crate) mod runtime;
mod string;
#[cfg(test)]
mod tests;
pub(crate) mod user;

use serde_json::{Map, Value};

use super::error::{TemplateError, TemplateResult};
use super::eval::{Evaluator, refuse_pending};
use super::parser::Expr;
use super::scope::Frame;
use super::value::type_name;

/// A call whose arguments are evaluated.
pub(crate) struct Call<'c, 'f, 't> {
    pub(crate) evaluator: &'c Evaluator<'t>,
    pub(crate) frame: &'c Frame<'f, 't>,
    pub(crate) name: &'c str,
    pub(crate) args: Vec<Value>,
}

/// Evaluates a call of a function of the language.
pub(crate) fn call<'t>(
    evaluator: &Evaluator<'t>,
    name: &str,
    arguments: &[Expr],
    frame: &Frame<'_, 't>,
) -> TemplateResult<Value> {
    let lower = name.to_ascii_lowercase();
    if let Some(result) = logical::lazy(evaluator, &lower, arguments, frame) {
        return result;
    }
    if let Some(result) = lambda::call(evaluator, &lower, arguments, frame) {
        return result;
    }
    let mut args = Vec::with_capacity(arguments.len());
    for argument in arguments {
        let value = evaluator.eval(argument, frame)?;
        refuse_pending(&value)?;
        args.push(value);
    }
    let call = Call {
        evaluator,
        frame,
        name,
        args,
    };
    dispatch(&lower, &call)
}

fn dispatch(lower: &str, call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    match lower {
        "parameters" => deployment::parameters(call),
        "variables" => deployment::variables(call),
        "copyindex" => deployment::copy_index(call),
        "lambdavariables" => lambda::variable(call),
        "deployment" => deployment::deployment(call),
        "environment" => deployment::environment(call),
        "resourcegroup" => deployment::resource_group(call),
        "subscription" => deployment::subscription(call),
        "tenant" => deployment::tenant(call),

        "concat" => string::concat(call),
        "format" => format::format(call),
        "string" => string::string(call),
        "tolower" => string::to_lower(call),
        "toupper" => string::to_upper(call),
        "trim" => string::trim(call),
        "substring" => string::substring(call),
        "replace" => string::replace(call),
        "split" => string::split(call),
        "join" => string::join(call),
        "startswith" => string::starts_with(call),
        "endswith" => string::ends_with(call),
        "padleft" => string::pad_left(call),
        "indexof" => string::index_of(call),
        "lastindexof" => string::last_index_of(call),

        "base64" => encoding::base64(call),
        "base64tostring" => encoding::base64_to_string(call),
        "base64tojson" => encoding::base64_to_json(call),
        "datauri" => encoding::data_uri(call),
        "datauritostring" => encoding::data_uri_to_string(call),
        "json" => encoding::json(call),
        "uri" => encoding::uri(call),
        "uricomponent" => encoding::uri_component(call),
        "uricomponenttostring" => encoding::uri_component_to_string(call),

        "uniquestring" => hash::unique_string(call),
        "guid" => hash::guid(call),
        "newguid" => hash::new_guid(call),

        "utcnow" => date::utc_now(call),
        "datetimeadd" => date::date_time_add(call),
        "datetimefromepoch" => date::from_epoch(call),
        "datetimetoepoch" => date::to_epoch(call),

        "int" => numeric::int(call),
        "float" => numeric::float(call),
        "add" | "sub" | "mul" | "div" | "mod" => numeric::arithmetic(call, lower),
        "min" => numeric::extreme(call, std::cmp::Ordering::Less),
        "max" => numeric::extreme(call, std::cmp::Ordering::Greater),
        "range" => numeric::range(call),

        "true" => logical::constant(call, Value::Bool(true)),
        "false" => logical::constant(call, Value::Bool(false)),
        "null" => logical::constant(call, Value::Null),
        "bool" => logical::bool(call),
        "not" => logical::not(call),
        "xor" => logical::xor(call),
        "equals" => logical::equals(call),
        "less" | "lessorequals" | "greater" | "greaterorequals" => logical::compare(call, lower),

        "array" => collection::array(call),
        "createarray" => collection::create_array(call),
        "contains" => collection::contains(call),
        "empty" => collection::empty(call),
        "length" => collection::length(call),
        "first" => collection::first(call),
        "last" => collection::last(call),
        "skip" => collection::skip(call),
        "take" => collection::take(call),
        "flatten" => collection::flatten(call),
        "indexfromend" => collection::index_from_end(call),

        "createobject" => object::create_object(call),
        "items" => object::items(call),
        "objectkeys" => object::keys(call),
        "shallowmerge" => object::shallow_merge(call),
        "tryget" => object::try_get(call),
        "union" => object::union(call),
        "intersection" => object::intersection(call),

        "parsecidr" => cidr::parse(call),
        "cidrsubnet" => cidr::subnet(call),
        "cidrhost" => cidr::host(call),

        "resourceid" => resource::resource_id(call),
        "subscriptionresourceid" => resource::subscription_resource_id(call),
        "tenantresourceid" => resource::tenant_resource_id(call),
        "extensionresourceid" => resource::extension_resource_id(call),
        "pickzones" => resource::pick_zones(call),
        "reference" => runtime::reference(call),
        "references" => runtime::references(call),
        "resourceinfo" => runtime::resource_info(call),
        _ if runtime::is_list(lower) => runtime::list(call),

        "fail" => Err(TemplateError::expression(
            "the template refuses to be deployed like this: it calls fail",
        )),
        "managementgroup"
        | "managementgroupresourceid"
        | "providers"
        | "deployer"
        | "tologicalzone"
        | "tologicalzones"
        | "tophysicalzone"
        | "tophysicalzones"
        | "builduri"
        | "parseuri" => Err(TemplateError::unsupported(format!(
            "the template function '{}' is not supported; give its value as a parameter instead",
            call.name
        ))),
        _ => Err(TemplateError::expression(format!(
            "the template function '{}' is not valid",
            call.name
        ))),
    }
}

impl Call<'_, '_, '_> {
    /// Checks the number of arguments.
    pub(crate) fn arity(&self, least: usize, most: usize) -> TemplateResult<()> {
        let count = self.args.len();
        if (least..=most).contains(&count) {
            return Ok(());
        }
        let expected = match (least, most) {
            (least, most) if least == most => format!("{least}"),
            (least, usize::MAX) => format!("at least {least}"),
            (least, most) => format!("{least} to {most}"),
        };
        Err(TemplateError::expression(format!(
            "unable to evaluate template language function '{}': it expects {expected} parameters, {count} are given",
            self.name
        )))
    }

    /// The error for an argument of the wrong type.
    pub(crate) fn wrong(&self, index: usize, expected: &str) -> TemplateError {
        TemplateError::expression(format!(
            "the template language function '{}' expects its parameter {} to be of type '{expected}'; the provided value is of type '{}'",
            self.name,
            index + 1,
            self.args.get(index).map_or("nothing", type_name)
        ))
    }

    /// The error for a value that cannot be used, without showing it.
    pub(crate) fn refuse(&self, why: impl std::fmt::Display) -> TemplateError {
        TemplateError::expression(format!(
            "the template language function '{}' failed: {why}",
            self.name
        ))
    }

    pub(crate) fn text(&self, index: usize) -> TemplateResult<&str> {
        self.args
            .get(index)
            .and_then(Value::as_str)
            .ok_or_else(|| self.wrong(index, "String"))
    }

    /// An argument that may be left out or null.
    pub(crate) fn optional_text(&self, index: usize) -> TemplateResult<Option<&str>> {
        match self.args.get(index) {
            None | Some(Value::Null) => Ok(None),
            Some(_) => self.text(index).map(Some),
        }
    }

    pub(crate) fn int(&self, index: usize) -> TemplateResult<i64> {
        self.args
            .get(index)
            .and_then(Value::as_i64)
            .ok_or_else(|| self.wrong(index, "Integer"))
    }

    pub(crate) fn bool(&self, index: usize) -> TemplateResult<bool> {
        self.args
            .get(index)
            .and_then(Value::as_bool)
            .ok_or_else(|| self.wrong(index, "Boolean"))
    }

    pub(crate) fn array(&self, index: usize) -> TemplateResult<&[Value]> {
        self.args
            .get(index)
            .and_then(Value::as_array)
            .map(Vec::as_slice)
            .ok_or_else(|| self.wrong(index, "Array"))
    }

    pub(crate) fn object(&self, index: usize) -> TemplateResult<&Map<String, Value>> {
        self.args
            .get(index)
            .and_then(Value::as_object)
            .ok_or_else(|| self.wrong(index, "Object"))
    }

    /// Pays for what is about to be made.
    pub(crate) fn spend(&self, units: usize) -> TemplateResult<()> {
        self.evaluator.budget.spend(units)
    }
}
