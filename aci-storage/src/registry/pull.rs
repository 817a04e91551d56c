//! One pull: the index, the manifest, the layers, then the image.

use std::sync::Arc;

use aci_core::contract::{Image, PullPhase, PullPolicy, PullProgress, PullRequest, RegistryLogin};
use aci_core::error::{Error, ErrorKind, Result};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::address::Origin;
use super::connect::Connector;
use super::docker_config;
use super::manifest::Fetched;
use super::session::Session;
use crate::fail::blocking;
use crate::image::{
    ConfigFile, Descriptor, Digest, Document, Inner, Manifest, Origin as From, Reference, Teller,
    not_accessible,
};

/// An index may hold an index; more than three levels nobody writes.
const MAX_LEVELS: usize = 3;
/// Docker Hub's name in references, and the host that serves its images.
const HUB: &str = "docker.io";
const HUB_SERVER: &str = "registry-1.docker.io";
/// What people write as Docker Hub's server in credentials.
const HUB_NAMES: [&str; 4] = [HUB, HUB_SERVER, "index.docker.io", "hub.docker.com"];

/// Has an image in the store, as the request's policy says.
pub(crate) async fn pull(
    inner: &Arc<Inner>,
    request: PullRequest,
    progress: Option<PullProgress>,
) -> Result<Image> {
    Teller::new(progress.as_ref(), None, PullPhase::Resolving).tell(0);
    let asked = request.reference.as_str();
    let found = inner.found(asked)?;
    let connector = inner.connector();
    if asked.parse::<Digest>().is_ok() || !connector.settings.enabled {
        // A digest alone names no registry.
        return present(inner, &request, progress).await;
    }
    let reference: Reference = asked.parse()?;
    let fresh = match (&found, request.policy) {
        (None, PullPolicy::Never) => return Err(not_accessible("images.pull", asked)),
        (None, _) => true,
        (Some(_), PullPolicy::IfNotPresent | PullPolicy::Never) => false,
        // Content by digest cannot change, and what was never pulled is in no registry.
        (Some(found), PullPolicy::Always) => {
            reference.digest().is_none() && found.origin == From::Registry
        }
    };
    if !fresh {
        return present(inner, &request, progress).await;
    }
    let login = match (&request.login, &connector.settings.docker_config) {
        (Some(login), _) if is_for(login, &reference) => Some(login.clone()),
        (_, Some(path)) => {
            let (path, reference) = (path.clone(), reference.clone());
            blocking("images.pull", move || {
                docker_config::login(&path, &reference)
            })
            .await?
        }
        _ => None,
    };
    let known = found.map(|f| f.index.unwrap_or(f.manifest.digest));
    let mut last = None;
    for (endpoint, is_registry) in endpoints(connector, &reference)? {
        let login = login.as_ref().filter(|_| is_registry);
        let session = Session::new(connector, &reference, asked, endpoint, login);
        match fetch(inner, &session, known, progress.as_ref()).await {
            Ok(Some(image)) => return Ok(image),
            Ok(None) => return present(inner, &request, progress).await,
            Err(error) if is_registry => return Err(error),
            Err(error) => {
                tracing::warn!(mirror = %session.endpoint, error = %error.chain(), "a mirror does not have the image");
                last = Some(error);
            }
        }
    }
    Err(last.unwrap_or_else(|| not_accessible("images.pull", asked)))
}

/// Takes the image from the store.
async fn present(
    inner: &Arc<Inner>,
    request: &PullRequest,
    progress: Option<PullProgress>,
) -> Result<Image> {
    let (inner, asked) = (Arc::clone(inner), request.reference.clone());
    blocking("images.pull", move || {
        inner.present(&asked, progress.as_ref())
    })
    .await
}

/// Whether credentials are for an image's registry.
fn is_for(login: &RegistryLogin, reference: &Reference) -> bool {
    let server = login.server.as_str();
    let server = server.strip_prefix("https://").unwrap_or(server);
    let server = server.split('/').next().unwrap_or_default();
    let same = |name: &str| server.eq_ignore_ascii_case(name);
    same(reference.registry()) || (reference.registry() == HUB && HUB_NAMES.into_iter().any(same))
}

/// Who is asked, in turn: the mirrors, then the registry itself.
fn endpoints(connector: &Connector, reference: &Reference) -> Result<Vec<(Origin, bool)>> {
    let settings = &connector.settings;
    let registry = reference.registry();
    let mirrors = settings.mirrors.get(registry).into_iter().flatten();
    let server = if registry == HUB {
        HUB_SERVER
    } else {
        registry
    };
    let named = mirrors.map(|m| (m.as_str(), false)).chain([(server, true)]);
    named
        .map(|(host, is_registry)| {
            let tls = !settings.is_insecure(host);
            let origin = Origin::of_host(host, tls).map_err(|why| {
                Error::new(
                    ErrorKind::Invalid,
                    "images.pull",
                    format!("'{host}' is no host of a registry: {why}"),
                )
            })?;
            Ok((origin, is_registry))
        })
        .collect()
}

/// Fetches from one server; `None` if the tag still means what the store has.
async fn fetch(
    inner: &Arc<Inner>,
    session: &Session<'_>,
    known: Option<Digest>,
    progress: Option<&PullProgress>,
) -> Result<Option<Image>> {
    if known.is_some() && session.current().await? == known {
        return Ok(None);
    }
    let mut fetched = session.top().await?;
    if known == Some(fetched.digest) {
        return Ok(None);
    }
    let mut chosen_from = None;
    for _ in 0..MAX_LEVELS {
        match fetched.document {
            Document::Manifest(ref manifest) => {
                let image = manifest.clone();
                return image_of(inner, session, &fetched, image, chosen_from, progress)
                    .await
                    .map(Some);
            }
            Document::Index(index) => {
                chosen_from = chosen_from.or(Some(fetched.digest));
                let platform = &inner.options().platform;
                let wanted = index
                    .select(platform)
                    .map_err(|e| os_version(session.asked, e))?;
                fetched = session.child(wanted).await?;
            }
        }
    }
    Err(Error::new(
        ErrorKind::Unsupported,
        "images.pull",
        "its indexes are nested too deep",
    ))
}

/// ACI's words for an image for another platform.
fn os_version(asked: &str, error: Error) -> Error {
    if error.aci_code() != Some("OsVersionNotSupported") {
        return error;
    }
    Error::new(
        error.kind(),
        "images.pull",
        format!("The OS version of image '{asked}' is not supported."),
    )
    .code("OsVersionNotSupported")
    .hint(error.message().to_owned())
}

async fn image_of(
    inner: &Arc<Inner>,
    session: &Session<'_>,
    fetched: &Fetched,
    manifest: Manifest,
    chosen_from: Option<Digest>,
    progress: Option<&PullProgress>,
) -> Result<Image> {
    manifest.check()?;
    // What is fetched is nobody's yet, so it is held until the image is.
    let mut pins = inner.pin([fetched.digest, manifest.config.digest]);
    let config = session.checked("blobs", &manifest.config).await?;
    let read = ConfigFile::parse(&config)?;
    read.check(&manifest, &inner.options().platform)
        .map_err(|e| os_version(session.asked, e))?;
    for (layer, diff_id) in manifest.layers.iter().zip(&read.rootfs.diff_ids) {
        if layer.size > inner.options().limits.bytes {
            return Err(Error::new(
                ErrorKind::Invalid,
                "images.pull",
                format!(
                    "the layer {} has {} bytes; the limit is {}",
                    layer.digest,
                    layer.size,
                    inner.options().limits.bytes
                ),
            )
            .hint("raise UnpackLimits::bytes if the image is trusted"));
        }
        pins.add(layer.digest);
        pins.add(*diff_id);
    }
    let at_once = inner.connector().settings.parallel_layers.max(1);
    let layers: Vec<_> = manifest
        .layers
        .iter()
        .cloned()
        .zip(read.rootfs.diff_ids.iter().copied())
        .collect();
    let fresh: Vec<Option<Digest>> = stream::iter(layers)
        .map(|(layer, diff_id)| one_layer(inner, session, layer, diff_id, progress))
        .buffer_unordered(at_once)
        .try_collect()
        .await?;
    let (store, asked) = (Arc::clone(inner), session.asked.to_owned());
    let (bytes, progress) = (fetched.bytes.clone(), progress.cloned());
    blocking("images.pull", move || {
        store.flush_later(fresh.into_iter().flatten().collect());
        store.install(
            &asked,
            &bytes,
            &config,
            chosen_from,
            From::Registry,
            progress.as_ref(),
        )
    })
    .await
}

/// Has a layer fetched and unpacked; its digest if it was not unpacked before.
async fn one_layer(
    inner: &Arc<Inner>,
    session: &Session<'_>,
    layer: Descriptor,
    diff_id: Digest,
    progress: Option<&PullProgress>,
) -> Result<Option<Digest>> {
    let mut unpacking = None;
    let there = || inner.blobs().has(&layer.digest, layer.size);
    if !there() {
        // Whoever wants the same blob waits here, and then finds it.
        let registry = session.endpoint.to_string();
        let turn = inner.fetching(registry, layer.digest).await;
        if !there() {
            let mut teller = Teller::new(progress, Some(&layer), PullPhase::Downloading);
            teller.tell(0);
            let mut begin = |blob| {
                unpacking = inner.unpack_along(&layer, diff_id, blob, progress);
            };
            let heard = &mut |done| teller.tell(done);
            let fetched = session.blob(inner, &layer, turn, &mut begin, heard).await;
            if let Err(error) = fetched {
                // Nothing unfinished is to be left when the error is known.
                if let Some(unpacking) = unpacking {
                    let _ = unpacking.await;
                }
                return Err(error);
            }
        }
    }
    if let Some(unpacking) = unpacking {
        let fresh = unpacking.await.map_err(|e| {
            let what = "the thread that unpacked a layer panicked";
            Error::new(ErrorKind::Internal, "images.pull", what).because(e)
        })??;
        Teller::new(progress, Some(&layer), PullPhase::Done).tell(layer.size);
        return Ok(fresh.then_some(diff_id));
    }
    let (store, progress) = (Arc::clone(inner), progress.cloned());
    blocking("images.pull", move || {
        let fresh = store.ensure_layer(&layer, &diff_id, progress.as_ref())?;
        Ok(fresh.then_some(diff_id))
    })
    .await
}
