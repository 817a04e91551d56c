//! Every function, with results that Resource Manager's documentation gives.

use std::time::{Duration, UNIX_EPOCH};

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::template::{EvaluationContext, Parameters, Template, TemplateError, TemplateErrorKind};

/// 2020-04-07 14:53:14 UTC
const NOW: u64 = 1_586_271_194;

fn context() -> EvaluationContext<'static> {
    EvaluationContext::new(UNIX_EPOCH + Duration::from_secs(NOW))
        .subscription_id("11111111-2222-3333-4444-555555555555")
        .tenant_id("99999999-8888-7777-6666-555555555555")
        .resource_group("rg", "westeurope")
        .deployment_name("dep")
}

/// The parameters, variables and outputs of a template with one output for each expression.
fn evaluate(template: Value, expressions: &[&str]) -> Result<Vec<Value>, TemplateError> {
    let mut template = template;
    template["resources"] = json!([]);
    let outputs: serde_json::Map<String, Value> = expressions
        .iter()
        .enumerate()
        .map(|(index, text)| {
            (
                format!("o{index}"),
                json!({"type": "object", "value": format!("[{text}]")}),
            )
        })
        .collect();
    template["outputs"] = Value::Object(outputs);
    let evaluated = Template::from_value(template)?.evaluate(&context())?;
    evaluated
        .outputs
        .iter()
        .map(|output| output.complete().cloned())
        .collect()
}

fn one(expression: &str) -> Result<Value, TemplateError> {
    let template = json!({
        "parameters": { "secret": { "type": "securestring", "defaultValue": "hunter2" } },
        "variables": {
            "first": { "one": "a", "two": "b", "three": "c1" },
            "second": { "three": "c2", "four": "d", "five": "e" },
            "numbers": [1, 2, 3],
            "words": ["one", "two", "three"],
            "dogs": [{ "name": "Casper", "age": 3 }, { "name": "Evie", "age": 5 }, { "name": "Ada", "age": 1 }],
            "nothing": null,
        },
    });
    evaluate(template, &[expression]).map(|mut values| values.remove(0))
}

#[track_caller]
fn is(expression: &str, expected: Value) {
    match one(expression) {
        Ok(value) => assert_eq!(value, expected, "{expression}"),
        Err(error) => panic!("{expression}: {error}"),
    }
}

#[track_caller]
fn fails(expression: &str, part: &str) {
    let error = one(expression).expect_err(expression).to_string();
    assert!(error.contains(part), "{expression}: {error}");
    assert!(
        error.contains(expression),
        "the error names the expression: {error}"
    );
    assert!(
        error.contains("outputs.o0.value"),
        "the error names the path: {error}"
    );
    assert!(
        !error.contains("hunter2"),
        "the error shows a secret: {error}"
    );
}

#[test]
fn strings() {
    is("concat('prefix', '-', 1, true())", json!("prefix-1True"));
    is("toLower('One TWO')", json!("one two"));
    is("toUpper('One Two')", json!("ONE TWO"));
    is("trim('    one two three   ')", json!("one two three"));
    is("substring('one two three', 4, 3)", json!("two"));
    is("substring('abc', 1)", json!("bc"));
    is("substring('abc', 3, 0)", json!(""));
    is("replace('123-123-1234', '-', '')", json!("1231231234"));
    is(
        "replace('123-123-1234', '1234', 'xxxx')",
        json!("123-123-xxxx"),
    );
    is(
        "split('one,two,three', ',')",
        json!(["one", "two", "three"]),
    );
    is(
        "split('one;two,three', createArray(',', ';'))",
        json!(["one", "two", "three"]),
    );
    is("split('', ',')", json!([""]));
    is("join(createArray('a', 'b', 3), '--')", json!("a--b--3"));
    is("startsWith('abcdef', 'AB')", json!(true));
    is("endsWith('abcdef', 'EF')", json!(true));
    is("endsWith('abcdef', 'e')", json!(false));
    is("padLeft('123', 10, '0')", json!("0000000123"));
    is("padLeft(5, 3)", json!("  5"));
    is("padLeft('abcd', 3, 'x')", json!("abcd"));
    is("indexOf('test', 't')", json!(0));
    is("lastIndexOf('test', 't')", json!(3));
    is("indexOf('abcdef', 'CD')", json!(2));
    is("lastIndexOf('abcdef', 'AB')", json!(0));
    is("indexOf('abcdef', 'z')", json!(-1));
    is("indexOf(createArray('a', 'B', 'b'), 'b')", json!(2));
    is("lastIndexOf(createArray(1, 2, 1), 1)", json!(2));
    is(
        "string(createObject('valueA', 10, 'valueB', 'Example Text'))",
        json!(r#"{"valueA":10,"valueB":"Example Text"}"#),
    );
    is(
        "string(createArray('a', 'b', 'c'))",
        json!(r#"["a","b","c"]"#),
    );
    is("string(5)", json!("5"));
    is("string(false())", json!("False"));
    is("length('😀')", json!(2));
    is("CONCAT('any', 'Case')", json!("anyCase"));
    fails(
        "substring('1234567890', 0, 11)",
        "The index parameter: '0', the length parameter: '11', the length of the string parameter: '10'",
    );
    fails("substring('😀', 1)", "inside a character");
    fails("concat('a', createArray())", "parameter 2");
    fails("toLower(5)", "'Integer'");
    fails("toLower()", "it expects 1 parameters, 0 are given");
    fails("replace('a', '', 'b')", "empty");
    fails("int(parameters('secret'))", "not a whole number");
    fails("json(parameters('secret'))", "not JSON");
    fails(
        "createObject('a', 1)[parameters('secret')]",
        "doesn't exist",
    );
}

#[test]
fn formats() {
    is(
        "format('{0}, {1}. Formatted number: {2:N0}', 'Hello', 'User', 8175133)",
        json!("Hello, User. Formatted number: 8,175,133"),
    );
    is(
        "format('{0:D3}-{1:X2}-{2:000}-{3}', 7, 10, 42, true())",
        json!("007-0A-042-True"),
    );
    is(
        "format('{{{0}}}|{1,5}|{1,-5}|', 'x', 'ab')",
        json!("{x}|   ab|ab   |"),
    );
    is(
        "format('{0:N2} {0:F1} {1:D4}', 1234, -5)",
        json!("1,234.00 1234.0 -0005"),
    );
    is("format('{0}', createArray(1, 2))", json!("[1,2]"));
    fails(
        "format('{1}', 'a')",
        "an item without parameter; 1 are given",
    );
    fails("format('{0', 'a')", "ends inside");
    fails(
        "format(concat('{', parameters('secret'), '}'), 'a')",
        "is not like '{0}'",
    );
    fails(
        "format(concat('{0:', parameters('secret'), '}'), 1)",
        "number format is not supported",
    );
    fails(
        "format(concat('{1:', parameters('secret'), '}'), 1)",
        "without parameter",
    );
    fails("format('{0:C}', 1)", "number format is not supported");
    fails("format('{0,2000000000}', 'a')", "units of work");
}

#[test]
fn encodings() {
    is("base64('one, two, three')", json!("b25lLCB0d28sIHRocmVl"));
    is(
        "base64ToString('b25lLCB0d28sIHRocmVl')",
        json!("one, two, three"),
    );
    is(
        "base64ToJson(base64('{''one'': ''a'', ''two'': ''b''}'))",
        json!({"one": "a", "two": "b"}),
    );
    is(
        "dataUri('Hello')",
        json!("data:text/plain;charset=utf8;base64,SGVsbG8="),
    );
    is(
        "dataUriToString('data:;base64,SGVsbG8sIFdvcmxkIQ==')",
        json!("Hello, World!"),
    );
    is(
        "json('{\"a\": [1, 2.5, null]}')",
        json!({"a": [1, 2.5, null]}),
    );
    is("json('null')", json!(null));
    is(
        "uri('http://contoso.org/firstpath', 'myscript.sh')",
        json!("http://contoso.org/myscript.sh"),
    );
    is(
        "uri('http://contoso.org/firstpath/', 'myscript.sh')",
        json!("http://contoso.org/firstpath/myscript.sh"),
    );
    is(
        "uri('http://contoso.org/firstpath/azuredeploy.json', 'myscript.sh')",
        json!("http://contoso.org/firstpath/myscript.sh"),
    );
    is(
        "uri('http://contoso.org/firstpath/azuredeploy.json/', 'myscript.sh')",
        json!("http://contoso.org/firstpath/azuredeploy.json/myscript.sh"),
    );
    is(
        "uri('http://contoso.org/resources/', 'nested/azuredeploy.json')",
        json!("http://contoso.org/resources/nested/azuredeploy.json"),
    );
    is(
        "uri('https://h/a/b/', '../c?x=1')",
        json!("https://h/a/c?x=1"),
    );
    is(
        "uriComponent('http://contoso.com/resources/nested/azuredeploy.json')",
        json!("http%3A%2F%2Fcontoso.com%2Fresources%2Fnested%2Fazuredeploy.json"),
    );
    is(
        "uriComponentToString('http%3A%2F%2Fcontoso.com%2Fresources%2Fnested%2Fazuredeploy.json')",
        json!("http://contoso.com/resources/nested/azuredeploy.json"),
    );
    fails("base64ToString('%')", "not base64");
}

#[test]
fn hashes() {
    is("uniqueString('hello', 'world')", json!("a7wkljktk6wne"));
    // Version 5 UUID of the namespace 11fb06fb-712d-4ddd-98c7-e71bbd588830, by an independent implementation.
    is(
        "guid('hello')",
        json!("520f8434-fe3a-5d99-888d-450a827486a1"),
    );
    is(
        "guid('a', 'b')",
        json!("2d796349-8c7e-55ec-9624-54ece82ed031"),
    );
    fails("uniqueString(1)", "'Integer'");
    fails("newGuid()", "not expected at this location");
    fails("utcNow()", "not expected at this location");
}

#[test]
fn dates() {
    let defaults = |expression: &str| {
        let template = json!({ "parameters": { "p": { "type": "string", "defaultValue": format!("[{expression}]") } } });
        evaluate(template, &["parameters('p')"]).map(|mut values| values.remove(0))
    };
    for (expression, expected) in [
        ("utcNow()", "20200407T145314Z"),
        ("utcNow('u')", "2020-04-07 14:53:14Z"),
        ("utcNow('d')", "04/07/2020"),
        ("utcNow('M d')", "4 7"),
        ("utcNow('yyyy-MM')", "2020-04"),
        ("utcNow('r')", "Tue, 07 Apr 2020 14:53:14 GMT"),
        ("utcNow('hh:mm tt, dddd')", "02:53 PM, Tuesday"),
        ("dateTimeAdd(utcNow('u'), 'P3Y')", "2023-04-07T14:53:14Z"),
        ("dateTimeAdd(utcNow(), 'PT1H')", "2020-04-07T15:53:14Z"),
    ] {
        assert_eq!(
            defaults(expression).unwrap(),
            json!(expected),
            "{expression}"
        );
    }
    is(
        "dateTimeAdd('2020-04-07 14:53:14Z', '-P9D')",
        json!("2020-03-29T14:53:14Z"),
    );
    is(
        "dateTimeAdd('2020-04-07 14:53:14Z', 'PT1H', 'yyyy''_''MM \\d')",
        json!("2020_04 d"),
    );
    is(
        "dateTimeAdd('2020-01-31T00:00:00+02:00', 'P1M')",
        json!("2020-02-29T22:00:00Z"),
    );
    is("dateTimeToEpoch('2020-04-07T14:53:14Z')", json!(NOW));
    is(
        "dateTimeFromEpoch(1586271194)",
        json!("2020-04-07T14:53:14Z"),
    );
    fails("dateTimeAdd('x', 'PT1H')", "ISO 8601 time");
    fails(
        "dateTimeAdd('2020-04-07 14:53:14Z', '1h')",
        "ISO 8601 duration",
    );
    fails(
        "dateTimeAdd('2020-04-07 14:53:14Z', 'P9000Y')",
        "out of range",
    );
    // Different values for different calls, the same for the same evaluation.
    let template = || {
        json!({ "parameters": {
        "a": { "type": "string", "defaultValue": "[newGuid()]" }, "b": { "type": "string", "defaultValue": "[newGuid()]" } } })
    };
    let first = evaluate(template(), &["parameters('a')", "parameters('b')"]).unwrap();
    assert_ne!(first[0], first[1]);
    assert_eq!(
        first,
        evaluate(template(), &["parameters('a')", "parameters('b')"]).unwrap()
    );
}

#[test]
fn numbers() {
    is("int('4')", json!(4));
    is("int(2)", json!(2));
    is("float('1.5')", json!(1.5));
    is("add(5, 3)", json!(8));
    is("sub(7, 3)", json!(4));
    is("mul(5, -3)", json!(-15));
    is("div(8, 3)", json!(2));
    is("mod(7, 3)", json!(1));
    is("min(0, 3, 2, 5, 4)", json!(0));
    is("max(createArray(0, 3, 2, 5, 4))", json!(5));
    is("range(5, 3)", json!([5, 6, 7]));
    fails("div(1, 0)", "zero");
    fails("add(9223372036854775807, 1)", "64 bits");
    fails("int('x')", "not a whole number");
    fails("range(0, 1000000000)", "outside 0 to 10000");
    fails("max(createArray())", "empty array");
}

#[test]
fn conditions() {
    is("if(equals('a', 'a'), 'yes', div(1, 0))", json!("yes"));
    is("and(bool('true'), bool('false'))", json!(false));
    is("or(bool('true'), bool('false'))", json!(true));
    is("not(bool(0))", json!(true));
    is("bool('True')", json!(true));
    is("xor(true(), false())", json!(true));
    is(
        "equals(createObject('a', 1, 'b', 2), createObject('b', 2, 'a', 1))",
        json!(true),
    );
    is("equals('a', 'A')", json!(false));
    is("equals(1, '1')", json!(false));
    is("less(1, 2)", json!(true));
    is("less('a', 'b')", json!(true));
    is("lessOrEquals(2, 2)", json!(true));
    is("greater('a', 'b')", json!(false));
    is("greaterOrEquals(2, 3)", json!(false));
    is("coalesce(null(), json('null'), 'x', div(1, 0))", json!("x"));
    is("coalesce(variables('nothing'))", json!(null));
    fails("if('true', 1, 2)", "'Boolean'");
    fails("less(1, 'a')", "compares two integers or two strings");
    fails("if(true(), 1)", "2 parameters");
}

#[test]
fn collections() {
    is("array('efgh')", json!(["efgh"]));
    is("array(createArray(1))", json!([1]));
    is("createArray()", json!([]));
    is(
        "concat(createArray('1-1'), createArray('2-1'))",
        json!(["1-1", "2-1"]),
    );
    is("contains('OneTwoThree', 'e')", json!(true));
    is("contains('OneTwoThree', 'z')", json!(false));
    is("contains(variables('first'), 'ONE')", json!(true));
    is("contains(variables('words'), 'three')", json!(true));
    is("contains(variables('words'), 'Three')", json!(false));
    is("empty('')", json!(true));
    is("empty(createObject())", json!(true));
    is("empty(null())", json!(true));
    is("empty(variables('words'))", json!(false));
    is("length(variables('first'))", json!(3));
    is("first(variables('words'))", json!("one"));
    is("first('One Two Three')", json!("O"));
    is("last(variables('words'))", json!("three"));
    is("last('One Two Three')", json!("e"));
    is("skip(variables('words'), 2)", json!(["three"]));
    is("skip('one two three', 4)", json!("two three"));
    is("take(variables('words'), 2)", json!(["one", "two"]));
    is("take('one two three', 2)", json!("on"));
    is("take('a', -1)", json!(""));
    is("skip('a', 9)", json!(""));
    is(
        "flatten(createArray(createArray(1), createArray(2, 3)))",
        json!([1, 2, 3]),
    );
    is("indexFromEnd(variables('words'), 1)", json!("three"));
    is("variables('words')[1]", json!("two"));
    is("variables('dogs')[add(0, 1)].name", json!("Evie"));
    is("variables('first')['TWO']", json!("b"));
    fails(
        "variables('words')[3]",
        "out of bounds; the array has 3 elements",
    );
    fails("variables('first').nine", "property 'nine' doesn't exist");
    fails("variables('words').x", "type Array");
    fails("length(1)", "Array, Object, String");
}

#[test]
fn objects() {
    is(
        "createObject('intProp', 1, 'boolProp', true())",
        json!({"intProp": 1, "boolProp": true}),
    );
    is(
        "items(variables('second'))[0]",
        json!({"key": "five", "value": "e"}),
    );
    is(
        "objectKeys(variables('second'))",
        json!(["five", "four", "three"]),
    );
    is(
        "shallowMerge(createArray(variables('first'), createObject('ONE', 'z')))",
        json!({"one": "z", "two": "b", "three": "c1"}),
    );
    is("tryGet(variables('dogs'), 0, 'age')", json!(3));
    is("tryGet(variables('dogs'), 9, 'age')", json!(null));
    is(
        "union(variables('first'), variables('second'))",
        json!({"one": "a", "two": "b", "three": "c2", "four": "d", "five": "e"}),
    );
    is(
        "union(createArray('one', 'two', 'three'), createArray('three', 'four', 'two'))",
        json!(["one", "two", "three", "four"]),
    );
    is(
        "union(json('{\"p\": {\"a\": 1, \"b\": 2}, \"n\": [1, 2]}'), json('{\"p\": {\"b\": 3}, \"n\": [3, 4]}'))",
        json!({"p": {"a": 1, "b": 3}, "n": [3, 4]}),
    );
    is(
        "intersection(createObject('one', 'a', 'two', 'b', 'three', 'c'), createObject('one', 'a', 'two', 'z', 'three', 'c'))",
        json!({"one": "a", "three": "c"}),
    );
    is(
        "intersection(createArray('one', 'two', 'three'), createArray('two', 'three'))",
        json!(["two", "three"]),
    );
    fails("createObject('a')", "in pairs");
    fails("union(createArray(), createObject())", "parameter 1");
}

#[test]
fn lambdas() {
    is(
        "map(variables('dogs'), lambda('dog', format('Hello {0}!', lambdaVariables('dog').name)))",
        json!(["Hello Casper!", "Hello Evie!", "Hello Ada!"]),
    );
    is(
        "map(createArray('a', 'b'), lambda('x', 'i', concat(lambdaVariables('x'), lambdaVariables('i'))))",
        json!(["a0", "b1"]),
    );
    is(
        "filter(variables('numbers'), lambda('n', greater(lambdaVariables('n'), 1)))",
        json!([2, 3]),
    );
    is(
        "reduce(variables('numbers'), 0, lambda('sum', 'n', add(lambdaVariables('sum'), lambdaVariables('n'))))",
        json!(6),
    );
    is(
        "map(sort(variables('dogs'), lambda('a', 'b', less(lambdaVariables('a').age, lambdaVariables('b').age))), lambda('d', lambdaVariables('d').name))",
        json!(["Ada", "Casper", "Evie"]),
    );
    is(
        "toObject(variables('dogs'), lambda('d', lambdaVariables('d').name), lambda('d', lambdaVariables('d').age))",
        json!({"Casper": 3, "Evie": 5, "Ada": 1}),
    );
    is(
        "mapValues(createObject('a', 1), lambda('v', add(lambdaVariables('v'), 1)))",
        json!({"a": 2}),
    );
    is(
        "groupBy(createArray('foo', 'bar', 'fizz'), lambda('w', take(lambdaVariables('w'), 1)))",
        json!({"f": ["foo", "fizz"], "b": ["bar"]}),
    );
    fails("map(variables('numbers'), 1)", "a lambda is expected");
    fails("lambda('x', 1)", "only inside functions");
    fails("lambdaVariables('x')", "no lambda around");
    fails(
        "filter(variables('numbers'), lambda('n', 1))",
        "must return a Boolean",
    );
}

#[test]
fn places_and_ids() {
    let rg = "/subscriptions/11111111-2222-3333-4444-555555555555/resourceGroups/rg";
    is("resourceGroup().id", json!(rg));
    is("resourceGroup().location", json!("westeurope"));
    is(
        "subscription().subscriptionId",
        json!("11111111-2222-3333-4444-555555555555"),
    );
    is(
        "subscription().tenantId",
        json!("99999999-8888-7777-6666-555555555555"),
    );
    is(
        "tenant().tenantId",
        json!("99999999-8888-7777-6666-555555555555"),
    );
    is("deployment().name", json!("dep"));
    is("environment().suffixes.storage", json!("core.windows.net"));
    is(
        "resourceId('Microsoft.Storage/storageAccounts', 'examplestorage')",
        json!(format!(
            "{rg}/providers/Microsoft.Storage/storageAccounts/examplestorage"
        )),
    );
    is(
        "resourceId('otherResourceGroup', 'Microsoft.Storage/storageAccounts', 'e')",
        json!(
            "/subscriptions/11111111-2222-3333-4444-555555555555/resourceGroups/otherResourceGroup/providers/Microsoft.Storage/storageAccounts/e"
        ),
    );
    is(
        "resourceId('s', 'g', 'Microsoft.SQL/servers/databases', 'serverName', 'databaseName')",
        json!(
            "/subscriptions/s/resourceGroups/g/providers/Microsoft.SQL/servers/serverName/databases/databaseName"
        ),
    );
    is(
        "resourceId('Microsoft.ContainerInstance/containerGroups/', 'g')",
        json!(format!(
            "{rg}/providers/Microsoft.ContainerInstance/containerGroups/g"
        )),
    );
    is(
        "subscriptionResourceId('Microsoft.Authorization/roleDefinitions', 'x')",
        json!(
            "/subscriptions/11111111-2222-3333-4444-555555555555/providers/Microsoft.Authorization/roleDefinitions/x"
        ),
    );
    is(
        "tenantResourceId('Microsoft.Authorization/roleDefinitions', 'x')",
        json!("/providers/Microsoft.Authorization/roleDefinitions/x"),
    );
    is(
        "extensionResourceId(resourceGroup().id, 'Microsoft.Authorization/locks', 'l')",
        json!(format!("{rg}/providers/Microsoft.Authorization/locks/l")),
    );
    is(
        "pickZones('Microsoft.ContainerInstance', 'containerGroups', 'westeurope', 2, 1)",
        json!(["2", "3"]),
    );
    fails(
        "resourceId('Microsoft.SQL/servers/databases', 'serverName')",
        "1 are given",
    );
    fails("resourceId('name')", "needs a resource type");
    fails("providers('Microsoft.Web')", "not supported");
    fails("nosuch(1)", "the template function 'nosuch' is not valid");
    fails("contoso.nosuch(1)", "'contoso.nosuch' is not valid");
    fails(
        "parameters('nosuch')",
        "the template parameter 'nosuch' is not found",
    );
    fails(
        "variables('nosuch')",
        "the template variable 'nosuch' is not found",
    );
    fails("copyIndex()", "no copy loop");
}

#[test]
fn address_ranges() {
    is(
        "parseCidr('10.144.0.0/20')",
        json!({"network": "10.144.0.0", "netmask": "255.255.240.0", "broadcast": "10.144.15.255",
        "firstUsable": "10.144.0.1", "lastUsable": "10.144.15.254", "cidr": 20}),
    );
    is(
        "parseCidr('fdad:3236:5555::/48')",
        json!({"network": "fdad:3236:5555::", "netmask": "ffff:ffff:ffff::",
        "firstUsable": "fdad:3236:5555::", "lastUsable": "fdad:3236:5555:ffff:ffff:ffff:ffff:ffff", "cidr": 48}),
    );
    is("cidrSubnet('10.144.0.0/20', 24, 4)", json!("10.144.4.0/24"));
    is(
        "cidrSubnet('fdad:3236:5555::/48', 52, 4)",
        json!("fdad:3236:5555:4000::/52"),
    );
    is("cidrSubnet('0.0.0.0/0', 0, 0)", json!("0.0.0.0/0"));
    is("cidrHost('10.144.3.0/24', 4)", json!("10.144.3.5"));
    is(
        "cidrHost('fdad:3236:5555:3000::/52', 0)",
        json!("fdad:3236:5555:3000::1"),
    );
    is("parseCidr('10.0.0.1/32').lastUsable", json!("10.0.0.1"));
    fails("cidrSubnet('10.144.0.0/20', 24, 16)", "no subnet 16");
    fails("cidrSubnet('10.144.0.0/20', 19, 0)", "no subnet 0");
    fails("cidrSubnet('::/0', 0, 1)", "no subnet 1");
    fails("cidrHost('10.144.3.0/24', 254)", "no host");
    fails("cidrHost('10.144.3.0/24', -1)", "no host");
    fails("parseCidr('10.0.0.1')", "CIDR notation");
    fails("fail('no')", "calls fail");
}

#[test]
fn work_is_bounded() {
    let mut variables = serde_json::Map::new();
    variables.insert("v0".to_owned(), json!("0123456789"));
    for index in 1..60 {
        let last = index - 1;
        variables.insert(
            format!("v{index}"),
            json!(format!(
                "[concat(variables('v{last}'), variables('v{last}'))]"
            )),
        );
    }
    let error = evaluate(
        json!({ "variables": variables }),
        &["length(variables('v40'))"],
    )
    .unwrap_err();
    assert_eq!(error.kind(), TemplateErrorKind::Limit, "{error}");
    for expression in [
        "padLeft('a', 2000000000)",
        "reduce(range(0, 10000), createArray(), lambda('a', 'x', createArray(lambdaVariables('a'))))",
        "map(range(0, 10000), lambda('x', range(0, 10000)))",
        "reduce(range(0, 10000), 'ab', lambda('a', 'x', replace(lambdaVariables('a'), 'a', 'aaaa')))",
    ] {
        let error = one(expression).unwrap_err();
        assert_eq!(error.kind(), TemplateErrorKind::Limit, "{error}");
    }
    let deep = format!("{}1{}", "array(".repeat(500), ")".repeat(500));
    assert_eq!(one(&deep).unwrap_err().kind(), TemplateErrorKind::Limit);
}

fn any_call() -> impl Strategy<Value = String> {
    let names = prop::sample::select(vec![
        "concat",
        "format",
        "substring",
        "replace",
        "split",
        "join",
        "take",
        "skip",
        "union",
        "intersection",
        "createArray",
        "createObject",
        "json",
        "base64",
        "base64ToString",
        "uri",
        "uriComponentToString",
        "padLeft",
        "indexOf",
        "lastIndexOf",
        "int",
        "float",
        "div",
        "mod",
        "range",
        "min",
        "if",
        "and",
        "coalesce",
        "equals",
        "less",
        "resourceId",
        "extensionResourceId",
        "dateTimeAdd",
        "items",
        "tryGet",
        "shallowMerge",
        "flatten",
        "map",
        "sort",
        "reduce",
        "lambda",
        "lambdaVariables",
        "parameters",
        "variables",
        "copyIndex",
        "reference",
        "listKeys",
        "first",
        "last",
        "contains",
        "empty",
        "length",
        "string",
        "bool",
        "uniqueString",
        "guid",
        "pickZones",
        "resourceInfo",
        "dataUriToString",
        "parseCidr",
        "cidrSubnet",
        "cidrHost",
    ]);
    let leaf = prop_oneof![
        "[ -~]{0,6}|é|😀|[{}0-9:N]{0,6}".prop_map(|text| format!("'{}'", text.replace('\'', "''"))),
        any::<i64>().prop_map(|number| number.to_string()),
        (-3_i64..4).prop_map(|number| number.to_string()),
        Just("true()".to_owned()),
        Just("null()".to_owned()),
        Just("variables('first')".to_owned()),
        Just("variables('words')".to_owned()),
        Just("variables('dogs')".to_owned()),
    ];
    leaf.prop_recursive(3, 24, 4, move |inner| {
        (names.clone(), prop::collection::vec(inner, 0..4))
            .prop_map(|(name, args)| format!("{name}({})", args.join(", ")))
    })
}

proptest! {
    #[test]
    fn no_expression_panics(expression in any_call()) {
        if let Err(error) = one(&expression) {
            prop_assert!(error.to_string().starts_with("Deployment template validation failed: "));
        }
    }

    #[test]
    fn encodings_come_back(text in "\\PC{0,20}") {
        let parameters = Parameters::new().with("p", text.clone());
        let template = Template::from_value(json!({
            "parameters": { "p": { "type": "string" } },
            "resources": [],
            "outputs": {
                "a": { "type": "string", "value": "[base64ToString(base64(parameters('p')))]" },
                "b": { "type": "string", "value": "[uriComponentToString(uriComponent(parameters('p')))]" },
                "c": { "type": "string", "value": "[dataUriToString(dataUri(parameters('p')))]" },
                "d": { "type": "array", "value": "[json(string(createArray(parameters('p'))))]" },
            },
        })).unwrap();
        let evaluated = template.evaluate(&context().parameters(parameters)).unwrap();
        for output in &evaluated.outputs[..3] {
            prop_assert_eq!(&output.value, &json!(text));
        }
        prop_assert_eq!(&evaluated.outputs[3].value, &json!([text]));
    }
}
