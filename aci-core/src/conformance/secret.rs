//! The suite of [`SecretResolver`].

use async_trait::async_trait;
use futures_util::future::join_all;

use super::{cut_short, fails, hides, run, works};
use crate::contract::{SecretRequest, SecretResolver};
use crate::error::ErrorKind;
use crate::model::SecretReference;

/// What the suite needs of an implementation.
#[async_trait]
pub trait SecretHarness: Send + Sync {
    /// The resolver.
    fn resolver(&self) -> &dyn SecretResolver;

    /// Puts a secret into the vault, or another value of it, and says how it is referred to by an
    /// identity that may read it.
    async fn put(&self, name: &str, value: &str) -> SecretReference;

    /// Removes a secret from the vault.
    async fn remove(&self, name: &str);

    /// A reference to the same secret by an identity that may not read it; `None` if all may.
    async fn forbidden(&self, name: &str) -> Option<SecretReference>;
}

/// What must never show.
const VALUE: &str = "conformance-p4ss/w\u{f6}rd\n with a line end\n";
/// A part of it that `Debug` would not write otherwise.
const PART: &str = "conformance-p4ss";

/// Runs all cases.
pub async fn all(harness: &dyn SecretHarness) {
    let clean = async || {
        harness.remove("aci-suite").await;
        Vec::new()
    };
    run("values_as_they_are", values_as_they_are(harness), clean).await;
    run("changes_are_seen", changes_are_seen(harness), clean).await;
    run("what_is_not_there", what_is_not_there(harness), clean).await;
    run("what_is_forbidden", what_is_forbidden(harness), clean).await;
    run("many_at_once", many_at_once(harness), clean).await;
}

fn request(reference: SecretReference) -> SecretRequest {
    SecretRequest {
        group: "aci-suite".into(),
        reference,
    }
}

/// A value comes as it was put there, and shows nowhere.
pub async fn values_as_they_are(harness: &dyn SecretHarness) {
    let resolver = harness.resolver();
    assert!(!resolver.name().is_empty());
    for value in [VALUE, " ", "x"] {
        let reference = harness.put("aci-suite", value).await;
        let found = works(resolver.resolve(request(reference)).await, "resolve");
        assert!(found.expose() == value, "another value");
        if value == VALUE {
            hides(&found, PART);
            hides(&resolver, PART);
        }
    }
}

/// A value that was changed is the changed one at the next call.
pub async fn changes_are_seen(harness: &dyn SecretHarness) {
    let resolver = harness.resolver();
    for value in ["first", "second"] {
        let reference = harness.put("aci-suite", value).await;
        let found = works(resolver.resolve(request(reference)).await, "resolve");
        assert!(found.expose() == value, "not the value of now");
    }
}

/// A secret that is not there, or not any more, is `NotFound`, and its last value does not show.
pub async fn what_is_not_there(harness: &dyn SecretHarness) {
    let resolver = harness.resolver();
    let reference = harness.put("aci-suite", VALUE).await;
    harness.remove("aci-suite").await;
    let asked = resolver.resolve(request(reference)).await;
    let error = fails(asked, ErrorKind::NotFound, "a removed secret");
    hides(&error, PART);
}

/// An identity without the right gets no value.
pub async fn what_is_forbidden(harness: &dyn SecretHarness) {
    harness.put("aci-suite", VALUE).await;
    let Some(reference) = harness.forbidden("aci-suite").await else {
        return super::skip("what_is_forbidden", "every identity may read");
    };
    let asked = harness.resolver().resolve(request(reference)).await;
    let error = fails(
        asked,
        ErrorKind::PermissionDenied,
        "an identity without the right",
    );
    hides(&error, PART);
}

/// Many tasks may ask at once, and give up.
pub async fn many_at_once(harness: &dyn SecretHarness) {
    let resolver = harness.resolver();
    let reference = harness.put("aci-suite", "value").await;
    for cut in super::CUTS {
        let _ = cut_short(cut, resolver.resolve(request(reference.clone()))).await;
    }
    let all = (0..32).map(|_| resolver.resolve(request(reference.clone())));
    for found in join_all(all).await {
        assert!(works(found, "resolve").expose() == "value");
    }
}
