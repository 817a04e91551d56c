use std::sync::Arc;
use std::time::Duration;

use aci_core::fake::TokioClock;
use aci_core::time::Timestamp;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{Method, Request, StatusCode};
use proptest::prelude::*;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::{Value, json};

use super::super::auth::{self, Authorizer as _, Need};
use super::jwt::verify;
use super::*;

const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);
const ISSUER: &str = "https://sts.example/tenant/";

struct Service {
    pair: EcdsaKeyPair,
    random: SystemRandom,
}

impl Service {
    fn new() -> Self {
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).unwrap();
        Self { pair, random }
    }

    fn key(&self, id: &str) -> Value {
        let point = self.pair.public_key().as_ref();
        json!({"kty": "EC", "crv": "P-256", "kid": id, "use": "sig", "alg": "ES256",
               "x": URL_SAFE_NO_PAD.encode(&point[1..33]), "y": URL_SAFE_NO_PAD.encode(&point[33..])})
    }

    fn jwks(&self) -> Jwks {
        Jwks::parse(&json!({"keys": [self.key("one")]}).to_string()).unwrap()
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(header), part(claims));
        let signature = self.pair.sign(&self.random, message.as_bytes()).unwrap();
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

fn header() -> Value {
    json!({"alg": "ES256", "typ": "JWT", "kid": "one"})
}

fn claims() -> Value {
    json!({"iss": ISSUER, "aud": "https://management.azure.com/", "exp": 1_800_000_600, "nbf": 1_799_999_000,
           "sub": "subject", "oid": "object-1", "name": "Ada"})
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

#[test]
fn a_token_is_taken_only_if_every_claim_holds() {
    let service = Service::new();
    let keys = service.jwks();
    let options = JwtOptions::new(ISSUER);
    let judge = |claims: &Value| verify(&service.sign(&header(), claims), &keys, &options, NOW);
    assert_eq!(judge(&claims()).unwrap()["oid"], "object-1");
    assert!(
        judge(&with(
            "aud",
            json!(["x", "https://management.core.windows.net"])
        ))
        .is_ok()
    );
    for (claims, why) in [
        (with("exp", json!(1_799_999_940)), Refusal::Expired),
        (with("exp", Value::Null), Refusal::Unknown),
        (with("exp", json!("tomorrow")), Refusal::Unknown),
        (with("exp", json!(-1)), Refusal::Unknown),
        (with("nbf", json!(1_800_000_061)), Refusal::NotYetValid),
        (
            with("aud", json!("https://vault.azure.net")),
            Refusal::WrongAudience,
        ),
        (with("aud", json!([])), Refusal::WrongAudience),
        (with("aud", Value::Null), Refusal::WrongAudience),
        (
            with("iss", json!("https://sts.example/tenant")),
            Refusal::WrongIssuer,
        ),
        (with("iss", Value::Null), Refusal::WrongIssuer),
    ] {
        assert_eq!(judge(&claims), Err(why), "{claims}");
    }
    // Within the difference that clocks may have.
    assert!(judge(&with("exp", json!(1_799_999_941))).is_ok());
    assert!(judge(&with("nbf", json!(1_800_000_060))).is_ok());
}

#[test]
fn no_other_algorithm_key_or_form_is_taken() {
    let service = Service::new();
    let keys = service.jwks();
    let options = JwtOptions::new(ISSUER);
    let judge = |token: &str| verify(token, &keys, &options, NOW).map(drop);
    let good = service.sign(&header(), &claims());
    assert_eq!(judge(&good), Ok(()));
    // The key's secret used as if it were symmetric, no signature at all, unknown demands.
    for alg in ["none", "None", "HS256", "RS256", "ES384", ""] {
        let header = json!({"alg": alg, "kid": "one"});
        assert!(judge(&service.sign(&header, &claims())).is_err(), "{alg}");
    }
    let demanding = json!({"alg": "ES256", "kid": "one", "crit": ["b64"]});
    assert!(judge(&service.sign(&demanding, &claims())).is_err());
    let other = json!({"alg": "ES256", "kid": "two"});
    assert!(judge(&service.sign(&other, &claims())).is_err());
    assert!(judge(&Service::new().sign(&header(), &claims())).is_err());
    let (message, _) = good.rsplit_once('.').unwrap();
    for signature in ["", "AAAA", "!!"] {
        assert!(judge(&format!("{message}.{signature}")).is_err());
    }
    assert!(judge(&format!("{good}=")).is_err());
    assert!(judge("").is_err());
    assert!(judge("..").is_err());
    assert!(judge(&"a".repeat(100_000)).is_err());
}

#[test]
fn keys_that_cannot_be_used_are_left_out() {
    let service = Service::new();
    let mut for_encryption = service.key("two");
    for_encryption["use"] = json!("enc");
    let small = json!({"kty": "RSA", "n": URL_SAFE_NO_PAD.encode([1; 128]), "e": "AQAB"});
    let symmetric = json!({"kty": "oct", "k": "AAAA"});
    let set = json!({"keys": [for_encryption, small, symmetric, service.key("one")]});
    let keys = Jwks::parse(&set.to_string()).unwrap();
    assert_eq!(format!("{keys:?}"), r#"[Some("one")]"#);
    for text in ["", "{}", r#"{"keys": []}"#, r#"{"keys": [{"kty": "oct"}]}"#] {
        assert!(Jwks::parse(text).is_err(), "{text}");
    }
}

proptest! {
    /// Whatever is changed in a good token, it is good no longer.
    #[test]
    fn a_changed_token_is_refused(at in 0usize..400, to in "[A-Za-z0-9_.-]") {
        let service = Service::new();
        let good = service.sign(&header(), &claims());
        let at = at % good.len();
        let mut changed = good.clone();
        changed.replace_range(at..=at, &to);
        let options = JwtOptions::new(ISSUER);
        let judged = verify(&changed, &service.jwks(), &options, NOW);
        prop_assert_eq!(judged.is_ok(), changed == good);
    }

    #[test]
    fn any_text_is_judged(token in ".{0,200}") {
        let service = Service::new();
        prop_assert!(verify(&token, &service.jwks(), &JwtOptions::new(ISSUER), NOW).is_err());
    }
}

async fn ask(
    control: &AccessControl,
    headers: &[&str],
    need: Need,
    scope: (Option<&str>, Option<&str>),
) -> Result<String, (StatusCode, String)> {
    let mut request = Request::builder().method(Method::GET);
    for value in headers {
        request = request.header(AUTHORIZATION, *value);
    }
    let (parts, ()) = request.body(()).unwrap().into_parts();
    let access = auth::Access {
        need,
        action: "Microsoft.ContainerInstance/containerGroups/read",
        subscription: scope.0,
        resource_group: scope.1,
        path: "/subscriptions/S",
        request: &parts,
    };
    let answer = control.authorize(access).await;
    answer
        .map(|p| p.id)
        .map_err(|e| (e.status(), e.code().to_owned()))
}

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

#[tokio::test]
async fn a_principal_does_what_its_grants_say_and_no_more() {
    let control = AccessControl::new(RoleTable::new([
        Grant::in_resource_group("ci", Role::Contributor, "Sub", "RG"),
        Grant::in_subscription("ci", Role::Reader, "sub"),
    ]))
    .authenticator(StaticTokens::default().token(TOKEN, "ci").unwrap());
    let bearer = format!("Bearer {TOKEN}");
    let forbidden = Err((StatusCode::FORBIDDEN, "AuthorizationFailed".to_owned()));
    for (need, subscription, group, allowed) in [
        (Need::Write, Some("SUB"), Some("rg"), true),
        (Need::Write, Some("sub"), Some("other"), false),
        (Need::Write, Some("sub"), None, false),
        (Need::Write, None, None, false),
        (Need::Read, Some("sub"), Some("other"), true),
        (Need::Read, Some("sub"), None, true),
        (Need::Read, Some("other"), Some("rg"), false),
        (Need::Read, None, None, true),
    ] {
        let asked = ask(&control, &[&bearer], need, (subscription, group)).await;
        let expected = if allowed {
            Ok("ci".to_owned())
        } else {
            forbidden.clone()
        };
        assert_eq!(asked, expected, "{need:?} {subscription:?} {group:?}");
    }
}

#[tokio::test]
async fn who_is_not_known_is_refused_before_anything_else() {
    let service = Service::new();
    let clock = Arc::new(TokioClock::new());
    let control = AccessControl::new(RoleTable::new([Grant::everywhere("ci", Role::Contributor)]))
        .authenticator(StaticTokens::default().token(TOKEN, "ci").unwrap())
        .authenticator(JwtTokens::new(
            JwtOptions::new(ISSUER),
            service.jwks(),
            clock,
        ));
    let expired = service.sign(&header(), &with("exp", json!(1)));
    let (expired, good) = (format!("Bearer {expired}"), format!("Bearer {TOKEN}"));
    let shorter = &good[..good.len() - 1];
    for (headers, code) in [
        (vec![], "AuthenticationFailed"),
        (vec!["Basic YTpi"], "AuthenticationFailed"),
        (vec!["Bearer"], "AuthenticationFailed"),
        (vec![&*good, &*good], "AuthenticationFailed"),
        (vec!["Bearer wrong"], "InvalidAuthenticationToken"),
        (vec![shorter], "InvalidAuthenticationToken"),
        (vec!["Bearer eyJh.eyJh.eyJh"], "InvalidAuthenticationToken"),
        (vec![&*expired], "ExpiredAuthenticationToken"),
    ] {
        let asked = ask(&control, &headers, Need::Read, (None, None)).await;
        assert_eq!(
            asked,
            Err((StatusCode::UNAUTHORIZED, code.to_owned())),
            "{headers:?}"
        );
    }
    assert!(
        ask(&control, &[&good], Need::Read, (None, None))
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn keys_are_replaced_while_the_server_runs() {
    let (old, new) = (Service::new(), Service::new());
    let clock = Arc::new(TokioClock::new());
    let tokens = JwtTokens::new(JwtOptions::new(ISSUER), old.jwks(), clock.clone());
    let now = aci_core::contract::Clock::now(&*clock);
    let expires = (now + Duration::from_secs(60))
        .since(Timestamp::EPOCH)
        .as_secs();
    let mut claims = with("exp", json!(expires));
    claims["nbf"] = json!(0);
    let token = new.sign(&header(), &claims);
    let credentials = Credentials {
        bearer: Some(&token),
        client_certificate: None,
    };
    assert_eq!(
        tokens.authenticate(credentials).await,
        Err(Refusal::Unknown)
    );
    tokens.replace(new.jwks());
    let principal = tokens.authenticate(credentials).await.unwrap().unwrap();
    assert_eq!((&*principal.id, &*principal.name), ("object-1", "Ada"));
}

#[test]
fn nothing_shows_a_token() {
    let tokens = StaticTokens::default().token(TOKEN, "ci").unwrap();
    assert_eq!(format!("{tokens:?}"), r#"["ci"]"#);
    let credentials = Credentials {
        bearer: Some(TOKEN),
        client_certificate: None,
    };
    assert!(!format!("{credentials:?}").contains(TOKEN));
    assert!(StaticTokens::default().token("short", "ci").is_err());
    assert!(
        StaticTokens::default()
            .token(&"a b".repeat(20), "ci")
            .is_err()
    );
}

/// Signed by openssl, as most token services sign.
#[test]
fn a_token_with_an_rsa_signature_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let openssl = |arguments: &[&str]| {
        let mut command = std::process::Command::new("openssl");
        let output = command
            .args(arguments)
            .current_dir(dir.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        output.stdout
    };
    openssl(&["genrsa", "-out", "key", "2048"]);
    let modulus = String::from_utf8(openssl(&["rsa", "-in", "key", "-modulus", "-noout"])).unwrap();
    let hex = modulus.trim().trim_start_matches("Modulus=").as_bytes();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    let n: Vec<u8> = hex.chunks(2).map(byte).collect();
    let key = json!({"kty": "RSA", "kid": "one", "use": "sig", "n": URL_SAFE_NO_PAD.encode(n), "e": "AQAB"});
    let keys = Jwks::parse(&json!({"keys": [key]}).to_string()).unwrap();
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let header = json!({"alg": "RS256", "kid": "one"});
    let message = format!("{}.{}", part(&header), part(&claims()));
    std::fs::write(dir.path().join("message"), &message).unwrap();
    let signature = openssl(&["dgst", "-sha256", "-sign", "key", "message"]);
    let token = |signature: &[u8]| format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature));
    let options = JwtOptions::new(ISSUER);
    assert!(verify(&token(&signature), &keys, &options, NOW).is_ok());
    let mut broken = signature;
    broken[100] ^= 1;
    assert!(verify(&token(&broken), &keys, &options, NOW).is_err());
}
