//! Manifests of a registry.

use aci_core::error::{Error, ErrorKind, Result};
use bytes::Bytes;
use http::Method;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderName};

use super::faults::{bad_answer, corrupt};
use super::session::{Ask, Session, text};
use crate::image::{ACCEPTED, Descriptor, Digest, Document, MAX_JSON};

const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// A manifest or index as it came.
pub(super) struct Fetched {
    pub(super) bytes: Bytes,
    pub(super) digest: Digest,
    pub(super) document: Document,
}

fn ask(method: Method, name: &str) -> Ask {
    Ask {
        method,
        what: format!("manifests/{name}"),
        headers: vec![(ACCEPT, ACCEPTED.join(", "))],
    }
}

impl Session<'_> {
    /// What the reference names: a manifest or an index.
    pub(super) async fn top(&self) -> Result<Fetched> {
        let wanted = self.reference.digest();
        let name = match (wanted, self.reference.tag()) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.unwrap_or("latest").to_owned(),
        };
        let (headers, bytes, from) = self.small(&ask(Method::GET, &name), MAX_JSON).await?;
        let digest = Digest::of(&bytes);
        let said: Option<Digest> = headers
            .get(CONTENT_DIGEST)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.parse().ok());
        if let Some(wanted) = wanted.or(said)
            && wanted != digest
        {
            return Err(corrupt(
                &from,
                format!("the manifest {wanted} has the digest {digest}"),
            ));
        }
        let announced = headers
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .map(|value| value.split(';').next().unwrap_or_default().trim())
            .filter(|value| ACCEPTED.contains(value))
            .unwrap_or_default();
        let document = Document::parse(&bytes, announced).map_err(|e| {
            // Without a digest these bytes are nobody's manifest: a login page, for example.
            if wanted.is_none() && e.kind() == ErrorKind::Corrupt {
                bad_answer(&from, format!("what came is no manifest: {}", e.message()))
            } else {
                e
            }
        })?;
        Ok(Fetched {
            bytes,
            digest,
            document,
        })
    }

    /// One that an index names.
    pub(super) async fn child(&self, wanted: &Descriptor) -> Result<Fetched> {
        let bytes = self.checked("manifests", wanted).await?;
        let document = Document::parse(&bytes, &wanted.media_type)?;
        Ok(Fetched {
            bytes,
            digest: wanted.digest,
            document,
        })
    }

    /// Small content with a descriptor.
    pub(super) async fn checked(&self, kind: &str, wanted: &Descriptor) -> Result<Bytes> {
        if wanted.size > MAX_JSON {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "images.pull",
                format!("{} is larger than {MAX_JSON} bytes", wanted.digest),
            ));
        }
        let ask = Ask {
            what: format!("{kind}/{}", wanted.digest),
            ..ask(Method::GET, "")
        };
        let (_, bytes, from) = self.small(&ask, MAX_JSON).await?;
        let found = Digest::of(&bytes);
        if bytes.len() as u64 != wanted.size || found != wanted.digest {
            return Err(corrupt(
                &from,
                format!(
                    "the content of {} with {} bytes has {} bytes and the digest {found}",
                    wanted.digest,
                    wanted.size,
                    bytes.len()
                ),
            ));
        }
        Ok(bytes)
    }

    /// The digest that the tag has now, if the registry says it without sending the manifest.
    pub(super) async fn current(&self) -> Result<Option<Digest>> {
        let name = self.reference.tag().unwrap_or("latest");
        let ask = ask(Method::HEAD, name);
        let mut patience = self.patience();
        loop {
            match self.attempt(&ask).await {
                Ok(answer) => {
                    return Ok(text(&answer.response, &CONTENT_DIGEST).and_then(|d| d.parse().ok()));
                }
                Err(trouble) => self.pause(&mut patience, trouble).await?,
            }
        }
    }
}
