//! From an address and a revision to a commit in a pack of objects.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use aci_core::error::{Error, ErrorKind, Result};
use gix_hash::{Kind as Hash, ObjectId, Prefix};
use gix_object::{CommitRefIter, Kind, TagRefIter};
use gix_pack::Bundle;
use gix_protocol::fetch::{self, Arguments, Context, Negotiate, Options, Response, Shallow, Tags};
use gix_protocol::handshake::Ref;
use gix_protocol::ls_refs::RefPrefixes;
use gix_protocol::{Handshake, LsRefsCommand};
use gix_transport::client::blocking_io::http::Transport;
use gix_transport::{Protocol, Service};
use gix_utils::progress::Discard;

use super::GitLimits;
use super::plan::{Head, Plan, Wanted, choose, tips};
use super::web::{Session, Web, failed};

/// Tags may point to tags; more of them in a row are not followed.
const MAX_TAGS: u32 = 5;
const AGENT: &str = "git/aci-storage";

/// The objects of a repository, as far as they were fetched.
pub(super) struct Objects {
    bundle: Bundle,
}

impl Objects {
    /// An object's kind; its bytes go into the buffer.
    pub(super) fn read(&self, id: &gix_hash::oid, buffer: &mut Vec<u8>) -> Result<Kind> {
        let mut inflate = gix_zlib::Inflate::default();
        let found = self
            .bundle
            .find(id, buffer, &mut inflate, &mut gix_pack::cache::Never)
            .map_err(|error| damaged(&error))?;
        match found {
            Some((object, _)) => Ok(object.kind),
            None => Err(failed(
                ErrorKind::Corrupt,
                format!("the server did not send the object {id}"),
            )),
        }
    }
}

impl gix_object::Find for Objects {
    fn try_find<'a>(
        &self,
        id: &gix_hash::oid,
        buffer: &'a mut Vec<u8>,
    ) -> gix_error::Result<Option<gix_object::Data<'a>>> {
        let mut inflate = gix_zlib::Inflate::default();
        let found = self
            .bundle
            .find(id, buffer, &mut inflate, &mut gix_pack::cache::Never)?;
        Ok(found.map(|(object, _)| object))
    }
}

/// What came of a fetch.
pub(super) struct Fetched {
    pub(super) objects: Objects,
    pub(super) commit: ObjectId,
    pub(super) tree: ObjectId,
    pub(super) head: Head,
}

/// A server's or a library's words: bounded, on one line.
fn words(error: &gix_error::Error) -> String {
    let text = format!("{error:#}");
    text.chars()
        .take(300)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

fn damaged(error: &gix_error::Error) -> Error {
    failed(
        ErrorKind::Corrupt,
        format!("the repository's objects cannot be read: {}", words(error)),
    )
}

/// Nothing is there yet, so there is nothing to agree on: wants, and done.
struct Fresh(Vec<ObjectId>);

impl Negotiate for Fresh {
    fn mark_complete_and_common_ref(&mut self) -> gix_error::Result<fetch::negotiate::Action> {
        Ok(fetch::negotiate::Action::MustNegotiate {
            remote_ref_target_known: vec![false; self.0.len()],
        })
    }

    fn add_wants(&mut self, arguments: &mut Arguments, _: &[bool]) -> bool {
        for id in &self.0 {
            arguments.want(id);
        }
        !self.0.is_empty()
    }

    fn one_round(
        &mut self,
        _: &mut fetch::negotiate::one_round::State,
        _: &mut Arguments,
        _: Option<&Response>,
    ) -> gix_error::Result<(fetch::negotiate::Round, bool)> {
        let round = fetch::negotiate::Round {
            haves_sent: 0,
            in_vain: 0,
            haves_to_send: 0,
            previous_response_had_at_least_one_in_common: false,
        };
        Ok((round, true))
    }
}

type Connection = Transport<Web>;

/// A conversation with the server, and its references.
fn greet(
    session: &Arc<Session>,
    plan: &Plan,
) -> gix_error::Result<(Connection, Handshake, Vec<Ref>)> {
    let url = gix_url::parse(plan.url.as_str())?;
    let web = Web::new(Arc::clone(session));
    let mut transport = Transport::new_http(web, url, Protocol::V2, false);
    let mut handshake = gix_protocol::handshake(
        &mut transport,
        Service::UploadPack,
        |_| Ok(None),
        Vec::new(),
        &mut Discard,
    )?;
    let refs = match handshake.refs.take() {
        Some(refs) => refs,
        None => {
            let mut prefixes = RefPrefixes::new();
            prefixes.extend(["HEAD", "refs/heads/", "refs/tags/"].map(Into::into));
            let revision = plan.revision.as_deref().unwrap_or_default();
            if revision.starts_with("refs/") {
                prefixes.extend([revision.into()]);
            }
            let agent = ("agent", Some(AGENT.to_owned()));
            LsRefsCommand::new(Some(prefixes), &handshake.capabilities, agent).invoke_blocking(
                &mut transport,
                &mut Discard,
                false,
            )?
        }
    };
    Ok((transport, handshake, refs))
}

/// Whether only the newest commit can be asked for.
fn can_be_shallow(handshake: &Handshake) -> bool {
    match handshake.server_protocol_version {
        Protocol::V2 => handshake
            .capabilities
            .capability("fetch")
            .and_then(|fetch| fetch.supports("shallow"))
            .unwrap_or(false),
        _ => handshake.capabilities.contains("shallow"),
    }
}

/// Fetches into `git/objects/pack`.
fn receive(
    transport: &mut Connection,
    handshake: &mut Handshake,
    wants: Vec<ObjectId>,
    shallow: bool,
    git: &Path,
    limits: &GitLimits,
    stop: &AtomicBool,
) -> gix_error::Result<Option<Objects>> {
    let mut objects = None;
    let shallow = if shallow && can_be_shallow(handshake) {
        Shallow::DepthAtRemote(std::num::NonZeroU32::MIN)
    } else {
        Shallow::NoChange
    };
    let packs = git.join("objects/pack");
    let options = gix_pack::bundle::write::Options {
        // A copy is not worth all processors of the machine, and memory grows with threads.
        thread_limit: Some(1),
        alloc_limit_bytes: Some(usize::try_from(limits.file).unwrap_or(usize::MAX)),
        ..Default::default()
    };
    let take = |pack: &mut dyn std::io::BufRead,
                progress: &mut dyn gix_utils::progress::DynNestedProgress,
                stop: &AtomicBool|
     -> gix_error::Result<bool> {
        let nowhere = None::<gix_object::find::Never>;
        let written = Bundle::write_to_directory(
            pack,
            Some(&packs),
            progress,
            stop,
            nowhere,
            Hash::Sha1,
            options,
        )?;
        if let Some(keep) = &written.keep_path {
            let _ = std::fs::remove_file(keep);
        }
        if let Some(path) = &written.index_path {
            objects = Some(Objects {
                bundle: Bundle::at(path, Hash::Sha1)?,
            });
        }
        Ok(true)
    };
    gix_protocol::fetch(
        &mut Fresh(wants),
        take,
        Discard,
        stop,
        Context {
            handshake,
            transport,
            user_agent: ("agent", Some(AGENT.to_owned())),
            trace_packetlines: false,
        },
        Options {
            shallow_file: git.join("shallow"),
            shallow: &shallow,
            tags: Tags::None,
            reject_shallow_remote: false,
        },
    )?;
    Ok(objects)
}

/// Fetches what a revision means.
pub(super) fn fetch(
    session: &Arc<Session>,
    plan: &Plan,
    git: &Path,
    limits: &GitLimits,
) -> Result<Fetched> {
    let stop = &*session.stop.flag;
    let or = |kind, what: &str, error: gix_error::Error| {
        let own = session.take_failure();
        own.unwrap_or_else(|| {
            let host = &session.origin;
            let text = words(&error);
            failed(kind, format!("{what} '{host}': {text}"))
        })
    };
    let unheard = |error| {
        or(
            ErrorKind::Unavailable,
            "no repository can be asked for at",
            error,
        )
    };
    // What came is the same the next time.
    let told = |error| or(ErrorKind::Corrupt, "no use of the repository of", error);
    let missing = |what: &str| {
        let message = match &plan.revision {
            Some(revision) => format!("the repository has no {what} '{revision}'"),
            None => "the repository has no commit yet".to_owned(),
        };
        failed(ErrorKind::NotFound, message).hint("check 'revision' of the volume")
    };
    let (mut transport, mut handshake, refs) = greet(session, plan).map_err(unheard)?;
    let revision = plan.revision.as_deref();
    let wanted = choose(revision, &refs).ok_or_else(|| missing("branch, tag or commit"))?;
    let all = tips(&refs);
    let mut found = match &wanted {
        Wanted::Search(_) => None,
        Wanted::One(id, _) => {
            let one = receive(
                &mut transport,
                &mut handshake,
                vec![*id],
                true,
                git,
                limits,
                stop,
            );
            match one {
                Ok(objects) => objects,
                // Not every server gives a commit that is no branch's or tag's; it may be in what
                // they all have behind them.
                Err(error) if !all.contains(id) => match session.take_failure() {
                    Some(failure) => return Err(failure),
                    None => {
                        tracing::debug!(error = words(&error), "the commit alone is not to be had");
                        None
                    }
                },
                Err(error) => return Err(told(error)),
            }
        }
    };
    if found.is_none() {
        if all.is_empty() {
            return Err(missing("commit"));
        }
        let _ = std::fs::remove_file(git.join("shallow"));
        let (mut transport, mut handshake, _) = greet(session, plan).map_err(unheard)?;
        let everything = receive(
            &mut transport,
            &mut handshake,
            all,
            false,
            git,
            limits,
            stop,
        );
        found = everything.map_err(told)?;
    }
    let objects = found.ok_or_else(|| missing("commit"))?;
    let index = &objects.bundle.index;
    let (mut id, head) = match wanted {
        Wanted::One(id, head) => (id, head),
        Wanted::Search(_) => {
            let prefix = Prefix::from_hex(revision.unwrap_or_default());
            let prefix = prefix.map_err(|_| missing("commit"))?;
            let at = match index.lookup_prefix(prefix, None) {
                Some(Ok(at)) => at,
                Some(Err(())) => return Err(missing("single commit")),
                None => return Err(missing("commit")),
            };
            (index.oid_at_index(at).to_owned(), Head::Detached)
        }
    };
    if index.lookup(id).is_none() {
        return Err(missing("commit"));
    }
    let mut buffer = Vec::new();
    for _ in 0..MAX_TAGS {
        match objects.read(&id, &mut buffer)? {
            Kind::Commit => {
                let tree = CommitRefIter::from_bytes(&buffer, Hash::Sha1)
                    .tree_id()
                    .map_err(|error| damaged(&error))?;
                return Ok(Fetched {
                    objects,
                    commit: id,
                    tree,
                    head,
                });
            }
            Kind::Tag => {
                id = TagRefIter::from_bytes(&buffer, Hash::Sha1)
                    .target_id()
                    .map_err(|error| damaged(&error))?;
            }
            Kind::Tree | Kind::Blob => break,
        }
    }
    Err(missing("commit"))
}
