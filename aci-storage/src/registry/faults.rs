//! What goes wrong with a registry, in ACI's codes and words.

use aci_core::error::{Error, ErrorKind};

use super::address::Origin;

const OPERATION: &str = "images.pull";

/// ACI's `InaccessibleImage`; `hint` says what to look at.
pub(super) fn inaccessible(kind: ErrorKind, reference: &str, hint: String) -> Error {
    Error::new(
        kind,
        OPERATION,
        format!(
            "The image '{reference}' is not accessible. Please check the image and registry credential."
        ),
    )
    .code("InaccessibleImage")
    .hint(hint)
}

/// ACI's `RegistryErrorResponse`; `why` says what came instead of an answer.
pub(super) fn bad_answer(host: &Origin, why: impl std::fmt::Display) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        OPERATION,
        format!(
            "An error response is received from the docker registry '{host}'. Please retry later."
        ),
    )
    .code("RegistryErrorResponse")
    .hint(why.to_string())
}

/// The registry's bytes are not what they should be.
pub(super) fn corrupt(host: &Origin, what: String) -> Error {
    Error::new(ErrorKind::Corrupt, OPERATION, format!("{what}, from '{host}'"))
        .hint("the registry or something before it damages content; push the image again or use another mirror")
}
