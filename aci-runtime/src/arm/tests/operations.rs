//! Groups, resource groups, profiles and their asynchronous operations.

use std::time::Duration;

use aci_core::contract::ResourceStore as _;
use aci_core::fake::{Fault, Faults, Trigger};
use serde_json::json;

use super::*;
use crate::arm::{ArmOptions, Rates};

const SECRET: &str = "hunter2-in-clear";

/// An address in the test's resource group.
fn at(rest: &str) -> String {
    let glue = if rest.contains('?') { '&' } else { '?' };
    format!("{RG}/providers/Microsoft.ContainerInstance/{rest}{glue}api-version=2025-09-01")
}

fn document() -> Value {
    json!({
        "location": "local",
        "tags": {"a": "b"},
        "properties": {
            "osType": "Linux",
            "containers": [{"name": "app", "properties": {
                "image": "hello",
                "environmentVariables": [{"name": "KEY", "secureValue": SECRET}],
                "resources": {"requests": {"cpu": 0.1, "memoryInGB": 0.1}}
            }}],
            "imageRegistryCredentials": [{"server": "r.example.org", "username": "u", "password": SECRET}],
            "volumes": [{"name": "secret-files", "secret": {"key": "aHVudGVyMi1pbi1jbGVhcg=="}}]
        }
    })
}

/// The part of an address that a front is asked for.
fn local(link: &str) -> String {
    let rest = link.split_once("://").unwrap().1;
    rest[rest.find('/').unwrap()..].to_owned()
}

/// Polls an address as clients do until its answer is not 202 or, in its status, not under way.
pub(super) async fn polled(api: &ArmApi, link: &str) -> Answer {
    for _ in 0..500 {
        let answer = ask(api, Method::GET, &local(link), None).await;
        let status = answer.body["status"].as_str().unwrap_or_default();
        let waits = matches!(status, "InProgress" | "Running" | "Accepted");
        if answer.status != StatusCode::ACCEPTED && !waits {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{link} does not come to an end");
}

fn header<'a>(answer: &'a Answer, name: &str) -> &'a str {
    answer.headers[name].to_str().unwrap()
}

#[tokio::test]
async fn a_group_is_created_polled_changed_and_deleted() {
    let host = FakeHost::new(Arc::new(TokioClock::new()));
    let api = builder(&host)
        .await
        .authorizer(danger::Everybody)
        .build()
        .await
        .unwrap();
    let web = at("containerGroups/Web");
    let created = ask(&api, Method::PUT, &web, Some(document())).await;
    assert_eq!(created.status, StatusCode::CREATED, "{}", created.body);
    // The fakes may be done already.
    let state = created.body["properties"]["provisioningState"]
        .as_str()
        .unwrap();
    assert!(matches!(state, "Pending" | "Succeeded"), "{state}");
    assert_eq!(header(&created, "retry-after"), "1");
    let done = polled(&api, header(&created, "azure-asyncoperation")).await;
    assert_eq!(
        (done.status, &done.body["status"]),
        (StatusCode::OK, &json!("Succeeded"))
    );
    assert!(done.body["endTime"].is_string());
    let result = polled(&api, header(&created, "location")).await;
    assert_eq!(result.body["name"], "Web");
    // Another front over the same journal still knows the operation.
    let engine = api.front.engine.clone();
    let again = ArmApi::builder(engine)
        .store(host.store.clone())
        .authorizer(danger::Everybody)
        .build()
        .await
        .unwrap();
    let known = polled(&again, header(&created, "azure-asyncoperation")).await;
    assert_eq!(known.body["status"], "Succeeded");

    let got = ask(&api, Method::GET, &web, None).await;
    assert_eq!(
        got.body["id"],
        format!("{RG}/providers/Microsoft.ContainerInstance/containerGroups/Web")
    );
    assert_eq!(got.body["systemData"]["createdBy"], "everybody");
    assert_eq!(got.body["properties"]["volumes"][0]["secret"], json!({}));
    let etag = header(&got, "etag").to_owned();
    for (name, value, wanted) in [
        ("if-match", "\"other\"", StatusCode::PRECONDITION_FAILED),
        ("if-none-match", "*", StatusCode::PRECONDITION_FAILED),
        ("if-match", etag.as_str(), StatusCode::OK),
        ("if-match", etag.as_str(), StatusCode::PRECONDITION_FAILED),
    ] {
        let answer = ask_with(&api, Method::PUT, &web, Some(document()), &[(name, value)]).await;
        assert_eq!(answer.status, wanted, "{name}: {value}: {}", answer.body);
    }
    let tagged = ask(
        &api,
        Method::PATCH,
        &web,
        Some(json!({"tags": {"new": "tag"}})),
    )
    .await;
    assert_eq!(
        (tagged.status, &tagged.body["tags"]),
        (StatusCode::OK, &json!({"new": "tag"}))
    );

    let deleted = ask(&api, Method::DELETE, &web, None).await;
    assert_eq!(
        (deleted.status, &deleted.body["name"]),
        (StatusCode::OK, &json!("Web"))
    );
    let deleted = ask(&api, Method::DELETE, &web, None).await;
    assert_eq!(deleted.status, StatusCode::NO_CONTENT);
    let nowhere = web.replace("/rg/", "/nowhere/");
    let deleted = ask(&api, Method::DELETE, &nowhere, None).await;
    assert_eq!(deleted.body["error"]["code"], "ResourceGroupNotFound");
}

#[tokio::test]
async fn no_answer_shows_a_secret() {
    let api = open().await;
    ask(
        &api,
        Method::PUT,
        &at("containerGroups/a"),
        Some(document()),
    )
    .await;
    let mut profile = document();
    profile["properties"]
        .as_object_mut()
        .unwrap()
        .remove("imageRegistryCredentials");
    let put = ask(
        &api,
        Method::PUT,
        &at("containerGroupProfiles/p"),
        Some(profile),
    )
    .await;
    assert_eq!(put.status, StatusCode::CREATED, "{}", put.body);
    let mut asked = 0;
    for route in api.routes().iter().filter(|r| r.method == Method::GET) {
        let target = route
            .path
            .replace("{subscriptionId}", "00000000-0000-0000-0000-000000000000")
            .replace("{resourceGroupName}", "rg")
            .replace("{containerGroupName}", "a")
            .replace("{containerName}", "app")
            .replace("{containerGroupProfileName}", "p")
            .replace("{revisionNumber}", "1")
            .replace(['{', '}'], "");
        // WebSockets and metrics in other forms have tests of their own.
        if !target.starts_with("/subscriptions") {
            continue;
        }
        let answer = ask(
            &api,
            Method::GET,
            &format!("{target}?api-version=2025-09-01"),
            None,
        )
        .await;
        let text = answer.body.to_string();
        assert!(
            !text.contains(SECRET) && !text.contains("aHVudGVy"),
            "{route:?}: {text}"
        );
        asked += usize::from(answer.status.is_success());
    }
    assert!(asked > 15, "only {asked} answered");
}

#[tokio::test]
async fn lists_come_in_pages() {
    let host = FakeHost::new(Arc::new(TokioClock::new()));
    let options = ArmOptions {
        page: 2,
        ..ArmOptions::default()
    };
    let builder = builder(&host)
        .await
        .authorizer(danger::Everybody)
        .options(options);
    let api = builder.build().await.unwrap();
    for name in ["e", "b", "d", "a", "c"] {
        let answer = ask(
            &api,
            Method::PUT,
            &at(&format!("containerGroups/{name}")),
            Some(document()),
        )
        .await;
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.body);
    }
    let (mut names, mut pages) = (Vec::new(), 0);
    let mut next = Some(format!("http://localhost:1{}", at("containerGroups")));
    while let Some(link) = next {
        let page = ask(&api, Method::GET, &local(&link), None).await;
        assert_eq!(page.status, StatusCode::OK, "{}", page.body);
        for group in page.body["value"].as_array().unwrap() {
            names.push(group["name"].as_str().unwrap().to_owned());
            assert!(group["properties"].get("instanceView").is_none());
        }
        pages += 1;
        next = page.body["nextLink"].as_str().map(str::to_owned);
    }
    assert_eq!((names.concat().as_str(), pages), ("abcde", 3));
    let top = ask(&api, Method::GET, &at("containerGroups?$top=1"), None).await;
    assert_eq!(top.body["value"].as_array().unwrap().len(), 1);
    let bad = ask(
        &api,
        Method::GET,
        &at("containerGroups?$skiptoken=%25"),
        None,
    )
    .await;
    assert_eq!(bad.body["error"]["code"], "InvalidSkipToken");
    let none = at("containerGroups").replace("/rg/", "/none/");
    let none = ask(&api, Method::GET, &none, None).await;
    assert_eq!(none.body["error"]["code"], "ResourceGroupNotFound");
}

#[tokio::test]
async fn all_problems_are_told_at_once_with_their_places() {
    let api = open().await;
    let mut wrong = document();
    wrong["properties"]["osType"] = json!("Solaris");
    wrong["properties"]["containers"][0]["name"] = json!("Not A Name");
    let answer = ask(&api, Method::PUT, &at("containerGroups/a"), Some(wrong)).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    let error = &answer.body["error"];
    let details = error["details"].as_array().unwrap();
    let targets: Vec<_> = details
        .iter()
        .map(|d| d["target"].as_str().unwrap())
        .collect();
    assert!(targets.contains(&"properties.osType"), "{error}");
    assert!(
        targets.contains(&"properties.containers[0].name"),
        "{error}"
    );
    assert_eq!(
        answer.headers["x-ms-error-code"],
        error["code"].as_str().unwrap()
    );
    let text = ask(
        &api,
        Method::PUT,
        &at("containerGroups/a"),
        Some(json!("text")),
    )
    .await;
    assert_eq!(text.body["error"]["code"], "InvalidRequestContent");
    // Nothing half-made stays behind, not even the resource group.
    let group = ask(
        &api,
        Method::GET,
        &format!("{RG}?api-version=2021-04-01"),
        None,
    )
    .await;
    assert_eq!(group.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_resource_group_is_deleted_with_all_that_is_in_it() {
    let api = open().await;
    let rg = format!("{RG}?api-version=2021-04-01");
    let made = ask(
        &api,
        Method::PUT,
        &rg,
        Some(json!({"location": "local", "tags": {"t": "1"}})),
    )
    .await;
    assert_eq!(
        (made.status, &made.body["name"]),
        (StatusCode::CREATED, &json!("rg"))
    );
    let moved = ask(
        &api,
        Method::PUT,
        &rg,
        Some(json!({"location": "elsewhere"})),
    )
    .await;
    assert_eq!(moved.body["error"]["code"], "InvalidResourceGroupLocation");
    for name in ["a", "b"] {
        ask(
            &api,
            Method::PUT,
            &at(&format!("containerGroups/{name}")),
            Some(document()),
        )
        .await;
    }
    let deleted = ask(&api, Method::DELETE, &rg, None).await;
    assert_eq!(deleted.status, StatusCode::ACCEPTED);
    let done = polled(&api, header(&deleted, "location")).await;
    assert_eq!(done.status, StatusCode::OK);
    assert!(api.front.engine.list().is_empty());
    let gone = ask(&api, Method::HEAD, &rg, None).await;
    assert_eq!(gone.status, StatusCode::NOT_FOUND);
    let bad = rg.replace("/rg?", "/bad%20name.?");
    let bad = ask(&api, Method::PUT, &bad, Some(json!({"location": "local"}))).await;
    assert_eq!(bad.body["error"]["code"], "InvalidResourceGroup");
}

#[tokio::test]
async fn who_asks_too_often_is_told_when_to_come_back() {
    let host = FakeHost::new(Arc::new(TokioClock::new()));
    let options = ArmOptions {
        rates: Rates {
            groups_5m: 2,
            ..Rates::AZURE
        },
        ..ArmOptions::default()
    };
    let builder = builder(&host)
        .await
        .authorizer(danger::Everybody)
        .options(options);
    let api = builder.build().await.unwrap();
    for left in ["1", "0"] {
        let answer = ask(
            &api,
            Method::PUT,
            &at("containerGroups/a"),
            Some(document()),
        )
        .await;
        assert!(answer.status.is_success(), "{}", answer.body);
        let name = "x-ms-ratelimit-remaining-subscription-resource-requests-pt5m";
        assert_eq!(header(&answer, name), left);
    }
    let answer = ask(
        &api,
        Method::PUT,
        &at("containerGroups/a"),
        Some(document()),
    )
    .await;
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
    let wait: u64 = header(&answer, "retry-after").parse().unwrap();
    assert!((1..=300).contains(&wait), "{wait}");
    let read = ask(&api, Method::GET, &at("containerGroups/a"), None).await;
    assert_eq!(read.status, StatusCode::OK);
}

/// A group that is still coming up or going down takes no further change.
#[tokio::test]
async fn a_group_in_transition_is_told_so() {
    // Its image never comes, so the group stays on its way up.
    let faults = Faults::none();
    faults.on("image.pull", Trigger::Always, Fault::Hang);
    let host = FakeHost::with_faults(Arc::new(TokioClock::new()), faults);
    let api = builder(&host)
        .await
        .authorizer(danger::Everybody)
        .build()
        .await
        .unwrap();
    let group = at("containerGroups/a");
    ask(&api, Method::PUT, &group, Some(document())).await;
    let restarted = ask(&api, Method::POST, &at("containerGroups/a/restart"), None).await;
    assert_eq!(restarted.status, StatusCode::CONFLICT);
    let code = &restarted.body["error"]["code"];
    assert_eq!(code, "ContainerGroupTransitioning");
}

/// Time is simulated: what is measured is what the engine waited for.
#[tokio::test(start_paused = true)]
async fn groups_of_a_profile_keep_to_its_grace_period_and_time_to_live() {
    let host = FakeHost::new(Arc::new(TokioClock::new()));
    let engine = Engine::builder()
        .isolation(host.isolation.clone())
        .images(host.images.clone())
        .network(host.network.clone())
        .store(host.store.clone())
        .clock(Arc::clone(&host.clock))
        .build()
        .await
        .unwrap();
    let builder = ArmApi::builder(engine).store(host.store.clone());
    let api = builder.authorizer(danger::Everybody).build().await.unwrap();
    let put = async |target: &str, body: Value| {
        let answer = ask(&api, Method::PUT, &at(target), Some(body)).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.body);
    };
    let made = async |name: &str, command: Value, properties: Value| {
        let mut profile = json!({"location": "local", "properties": {
            "osType": "Linux", "restartPolicy": "Never",
            "containers": [{"name": "app", "properties": {"image": "sh", "command": command,
                "resources": {"requests": {"cpu": 0.1, "memoryInGB": 0.1}}}}]}});
        for (field, value) in properties.as_object().unwrap() {
            profile["properties"][field] = value.clone();
        }
        put(&format!("containerGroupProfiles/{name}"), profile).await;
        let id =
            format!("{RG}/providers/Microsoft.ContainerInstance/containerGroupProfiles/{name}");
        let group =
            json!({"location": "local", "properties": {"containerGroupProfile": {"id": id}}});
        put(&format!("containerGroups/{name}"), group).await;
        let subscription = aci_core::id::GroupRef::DEFAULT_SUBSCRIPTION;
        let name = aci_core::id::GroupRef::new(subscription, "rg", name);
        let group = api.front.engine.get(name).unwrap();
        group.provisioned().await.unwrap();
        group
    };
    let deaf = made(
        "deaf",
        json!(["ignore-term"]),
        json!({"shutdownGracePeriod": "PT7S"}),
    )
    .await;
    let begun = tokio::time::Instant::now();
    deaf.stop().await.unwrap();
    assert_eq!(begun.elapsed().as_secs(), 7);

    let short = made("short", json!(["true"]), json!({"timeToLive": "PT1H"})).await;
    short.ended().await.unwrap();
    let begun = tokio::time::Instant::now();
    let gone = short.wait_for(|_| false).await.unwrap_err();
    assert_eq!(gone.kind(), aci_core::error::ErrorKind::NotFound);
    assert_eq!(begun.elapsed().as_secs().div_ceil(60), 60);
    let got = ask(&api, Method::GET, &at("containerGroups/short"), None).await;
    assert_eq!(got.status, StatusCode::NOT_FOUND);
    // The next program forgets what was noted of it, and of nobody else.
    let engine = api.front.engine.clone();
    let next = ArmApi::builder(engine).store(host.store.clone());
    next.build().await.unwrap();
    let kept = host.store.load().await.unwrap().into_iter();
    let noted = kept.filter(|(key, _)| key.starts_with("group/"));
    let noted: Vec<String> = noted.map(|(key, _)| key).collect();
    assert!(
        noted.len() == 1 && noted[0].ends_with("/rg/deaf"),
        "{noted:?}"
    );
    // One of the same name is new, whatever is noted of the one that went by itself.
    let again = json!({"location": "local", "properties": {"osType": "Linux",
        "containers": [{"name": "app", "properties": {"image": "sh", "command": ["sleep", "60"],
            "resources": {"requests": {"cpu": 0.1, "memoryInGB": 0.1}}}}]}});
    put("containerGroups/short", again).await;
    let got = ask(&api, Method::GET, &at("containerGroups/short"), None).await;
    assert!(header(&got, "etag").ends_with("-1\""), "{:?}", got.headers);
}

/// The fault: a deletion was journaled, its client hung up, and nobody began with it until the next
/// start of the program, which then deleted a group that nobody thought of any more.
#[tokio::test(start_paused = true)]
async fn what_was_accepted_is_carried_through_when_the_client_hangs_up() {
    let faults = Faults::none();
    let host = FakeHost::with_faults(Arc::new(TokioClock::new()), faults.clone());
    let builder = builder(&host).await.authorizer(danger::Everybody);
    let api = builder.build().await.unwrap();
    let target = at("containerGroups/a");
    let put = ask(&api, Method::PUT, &target, Some(document())).await;
    assert_eq!(put.status, StatusCode::CREATED, "{}", put.body);
    let slow = Fault::Delay(Duration::from_secs(2));
    faults.on("store.apply", Trigger::Always, slow);
    let deletion = ask(&api, Method::DELETE, &target, None);
    let hung_up = tokio::time::timeout(Duration::from_secs(1), deletion).await;
    assert!(hung_up.is_err());
    tokio::time::sleep(Duration::from_secs(60)).await;
    let got = ask(&api, Method::GET, &target, None).await;
    assert_eq!(got.status, StatusCode::NOT_FOUND, "{}", got.body);
}
