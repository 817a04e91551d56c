use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use aci_core::fake::{FakeHost, TokioClock};
use aci_core::model::ContainerGroup;
use http_body_util::BodyExt as _;

use super::*;
use choose::{allowed, identities, one};

const A: &str = "/subscriptions/s/resourceGroups/r/providers/Microsoft.ManagedIdentity/userAssignedIdentities/a";
const B: &str = "/subscriptions/s/resourceGroups/r/providers/Microsoft.ManagedIdentity/userAssignedIdentities/b";

fn document(kind: &str, users: &[&str], acls: &Value) -> ContainerGroup {
    let users: serde_json::Map<_, _> = users.iter().map(|u| ((*u).to_owned(), json!({}))).collect();
    let mut value = json!({
        "name": "g", "location": "local",
        "identity": {"type": kind, "userAssignedIdentities": users},
        "properties": {"osType": "Linux", "restartPolicy": "Always", "containers": [{"name": "c",
            "properties": {"image": "sh", "command": ["sleep", "3600"],
                           "resources": {"requests": {"cpu": 1, "memoryInGB": 1}}}}]}});
    if !acls.is_null() {
        value["properties"]["identityAcls"] = acls.clone();
    }
    ContainerGroup::from_json(&value.to_string()).unwrap()
}

fn wanted(text: &str) -> Result<Wanted, Refused> {
    let query: BTreeMap<_, _> = crate::arm::query(Some(text));
    Wanted::read(&query)
}

fn ids(name: &str) -> IdentityIds {
    IdentityIds {
        client_id: format!("client-{name}"),
        principal_id: format!("principal-{name}"),
        tenant_id: "tenant".to_owned(),
    }
}

/// `api-version` and `resource`, which every request has.
fn choose(document: &ContainerGroup, more: &str) -> Result<IdentityRef, String> {
    let wanted = wanted(&format!("api-version=2018-02-01&resource=r{more}")).map_err(|r| r.2)?;
    let known: Vec<_> = identities(document)
        .into_iter()
        .map(|identity| {
            let name = match &identity {
                IdentityRef::System => "system",
                IdentityRef::User(id) => id.rsplit('/').next().unwrap(),
            };
            (identity.clone(), ids(name))
        })
        .collect();
    one(&wanted, &known)
        .map(|(i, _)| i.clone())
        .map_err(|r| r.2)
}

#[test]
fn the_identity_is_the_named_one_or_the_only_one() {
    let (none, system) = (document("None", &[], &Value::Null), IdentityRef::System);
    let user = |id: &str| Ok(IdentityRef::User(id.to_owned()));
    assert!(choose(&none, "").unwrap_err().contains("not found"));
    let own = document("SystemAssigned", &[], &Value::Null);
    assert_eq!(choose(&own, ""), Ok(system.clone()));
    assert_eq!(choose(&own, "&client_id=CLIENT-SYSTEM"), Ok(system.clone()));
    assert!(
        choose(&own, "&client_id=other")
            .unwrap_err()
            .contains("not found")
    );
    let single = document("UserAssigned", &[A], &Value::Null);
    assert_eq!(choose(&single, ""), user(A));
    let two = document("UserAssigned", &[A, B], &Value::Null);
    assert!(
        choose(&two, "")
            .unwrap_err()
            .contains("Multiple user assigned")
    );
    assert_eq!(choose(&two, "&client_id=client-b"), user(B));
    assert_eq!(choose(&two, "&object_id=principal-a"), user(A));
    assert_eq!(
        choose(&two, &format!("&mi_res_id={}", B.to_uppercase())),
        user(B)
    );
    assert_eq!(choose(&two, &format!("&msi_res_id={A}")), user(A));
    let all = document("SystemAssigned, UserAssigned", &[A], &Value::Null);
    assert_eq!(choose(&all, ""), Ok(system));
    assert!(choose(&all, "&client_id=client-a&object_id=principal-a").is_err());
}

#[test]
fn what_the_platform_has_for_itself_no_container_gets() {
    let (a, b) = (
        IdentityRef::User(A.to_owned()),
        IdentityRef::User(B.to_owned()),
    );
    let may = |acls: Value, identity: &IdentityRef| {
        allowed(&document("UserAssigned", &[A, B], &acls), identity).is_ok()
    };
    assert!(may(Value::Null, &a));
    let acls = json!({"defaultAccess": "System", "acls": [{"identity": A, "access": "All"}]});
    assert!(may(acls.clone(), &a) && !may(acls, &b));
    let acls = json!({"defaultAccess": "User", "acls": [{"identity": A.to_uppercase(), "access": "System"}]});
    assert!(!may(acls.clone(), &a) && may(acls, &b));
    assert!(!may(json!({"defaultAccess": "Tomorrow"}), &a));
}

#[derive(Debug)]
struct Host;

#[async_trait]
impl IdentityProvider for Host {
    async fn ids(&self, _: Option<&GroupRef>, identity: &IdentityRef) -> Result<IdentityIds> {
        Ok(match identity {
            IdentityRef::System => ids("system"),
            IdentityRef::User(id) => ids(id.rsplit('/').next().unwrap_or_default()),
        })
    }

    async fn token(
        &self,
        group: &GroupRef,
        _: &IdentityRef,
        resource: &str,
    ) -> Result<IdentityToken> {
        if resource == "down" {
            return Err(aci_core::error::Error::new(
                ErrorKind::Unavailable,
                "token",
                "the secret of the service",
            ));
        }
        Ok(IdentityToken {
            access_token: Secret::new(format!("token of {group} for {resource}")),
            expires_on: Timestamp::from_secs(u64::from(u32::MAX)),
        })
    }
}

async fn ask(
    router: &Router,
    peer: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> (StatusCode, Value) {
    let mut request = Request::get(path).body(Body::empty()).unwrap();
    for (name, value) in headers {
        let name = http::HeaderName::from_bytes(name.as_bytes()).unwrap();
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    request.extensions_mut().insert(Connection {
        peer: Some(SocketAddr::new(peer.parse().unwrap(), 1)),
        ..Default::default()
    });
    let service = hyper_util::service::TowerToHyperService::new(router.clone());
    let response = hyper::service::Service::call(&service, request)
        .await
        .unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap())
}

#[tokio::test]
async fn a_group_gets_its_own_token_and_nobody_else_does() {
    let host = FakeHost::new(Arc::new(TokioClock::new()));
    let engine = Engine::builder()
        .isolation(host.isolation.clone())
        .images(host.images.clone())
        .network(host.network.clone())
        .store(host.store.clone())
        .build()
        .await
        .unwrap();
    let group = engine
        .create_or_update(document("SystemAssigned", &[], &Value::Null))
        .await
        .unwrap();
    group.running().await.unwrap();
    let own = group.address().unwrap().to_string();
    let router = router(engine.clone(), Arc::new(Host));
    let path =
        "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fvault";
    let metadata: &[_] = &[("metadata", "true")];
    let (status, body) = ask(&router, &own, path, metadata).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    assert_eq!(body["access_token"], "token of g for https://vault");
    assert_eq!(
        (&body["client_id"], &body["resource"]),
        (&json!("client-system"), &json!("https://vault"))
    );
    assert_eq!(body["expires_on"], u32::MAX.to_string());
    for (peer, path, headers, status) in [
        ("192.0.2.77", path, metadata, 403),
        (&*own, path, &[], 400),
        (&*own, path, &[("metadata", "false")], 400),
        (
            &*own,
            path,
            &[("metadata", "true"), ("x-forwarded-for", "1.2.3.4")],
            400,
        ),
        (
            &*own,
            "/metadata/instance?api-version=2021-02-01",
            metadata,
            404,
        ),
        (
            &*own,
            "/metadata/identity/oauth2/token?resource=x",
            metadata,
            400,
        ),
        (
            &*own,
            "/metadata/identity/oauth2/token?api-version=2018-02-01",
            metadata,
            400,
        ),
    ] {
        let (answered, body) = ask(&router, peer, path, headers).await;
        assert_eq!(answered.as_u16(), status, "{path} {headers:?}: {body}");
        assert!(body["error"].is_string());
    }
    let down = "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=down";
    let (status, body) = ask(&router, &own, down, metadata).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(!body.to_string().contains("secret"), "{body}");
}
