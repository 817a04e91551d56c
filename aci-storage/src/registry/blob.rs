//! Blobs of a registry, checked while they stream into the store.

use std::io::Write as _;
use std::sync::Arc;

use aci_core::error::{Error, ErrorKind, Result};
use bytes::Bytes;
use http::Method;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, RANGE};
use tokio::sync::{mpsc, oneshot};

use super::connect::{Trouble, lost};
use super::faults::corrupt;
use super::session::{Ask, Session, text};
use crate::fail::blocking;
use crate::image::{Along, Descriptor, Growing, Inner, Stager};
use crate::turns::Turn;

/// Pieces (of 8 to 64 KiB as a rule) that wait for the disk.
const WAITING: usize = 16;

/// A blob's file after a fetch.
struct Fetched {
    stager: Stager,
    growing: Growing,
    turn: Turn,
    outcome: Result<()>,
}

/// What arrived of a blob.
struct Arrival {
    to: mpsc::Sender<Bytes>,
    done: u64,
}

impl Session<'_> {
    /// Has a blob in the store. A broken connection is taken up where it broke (`Range`, RFC 9110,
    /// section 14.2), and so is what an earlier pull left. `turn` is held until nobody writes any
    /// more, also if this future is dropped. `begin` gets what reads along; once more if what was
    /// left proved damaged.
    pub(super) async fn blob(
        &self,
        inner: &Arc<Inner>,
        wanted: &Descriptor,
        turn: Turn,
        begin: &mut (dyn FnMut(Along) + Send),
        heard: &mut (dyn FnMut(u64) + Send),
    ) -> Result<()> {
        let mut turn = turn;
        loop {
            let (resumed, fetched) = self.fetch(inner, wanted, turn, begin, heard).await?;
            turn = fetched.turn;
            let found = match fetched.outcome {
                Ok(()) => {
                    let store = Arc::clone(inner);
                    let wanted = wanted.clone();
                    let (stager, growing, held) = (fetched.stager, fetched.growing, turn);
                    let kept = blocking("images.pull", move || {
                        let staged = stager.finish();
                        if staged.size != wanted.size || staged.digest != wanted.digest {
                            return Ok((Some((staged.size, staged.digest)), held));
                        }
                        // The unpacking comes to its end while the blob is flushed.
                        growing.whole(staged.size);
                        metrics::counter!("aci_storage_fetched_bytes_total")
                            .increment(staged.size - resumed);
                        store.blobs().adopt(staged)?;
                        Ok((None, held))
                    });
                    let (wrong, held) = kept.await?;
                    turn = held;
                    match wrong {
                        None => return Ok(()),
                        Some((size, digest)) => corrupt(
                            &self.endpoint,
                            format!(
                                "the blob {} of {} bytes has {size} bytes and the digest {digest}",
                                wanted.digest, wanted.size
                            ),
                        ),
                    }
                }
                // What was left before may be what is wrong.
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    fetched.stager.discard();
                    error
                }
                Err(error) => return Err(error),
            };
            if resumed == 0 {
                return Err(found);
            }
            tracing::warn!(digest = %wanted.digest, "what an earlier pull left is damaged; it is fetched anew");
        }
    }

    /// Fetches what is missing of a blob; with how much an earlier pull had left.
    async fn fetch(
        &self,
        inner: &Arc<Inner>,
        wanted: &Descriptor,
        turn: Turn,
        begin: &mut (dyn FnMut(Along) + Send),
        heard: &mut (dyn FnMut(u64) + Send),
    ) -> Result<(u64, Fetched)> {
        let (to, mut from) = mpsc::channel::<Bytes>(WAITING);
        let (store, described) = (Arc::clone(inner), wanted.clone());
        let (tell, told) = oneshot::channel();
        let writing = tokio::spawn(blocking("images.pull", move || {
            let mut stager = store.blobs().resume(&described)?;
            let (growing, along) = stager.along()?;
            let _ = tell.send((stager.size(), along));
            while let Some(bytes) = from.blocking_recv() {
                if let Err(e) = stager.write_all(&bytes) {
                    let error = stager.failed("write it", e);
                    // A full disk is not to be kept full.
                    stager.discard();
                    return Err(error);
                }
                growing.reached(stager.size());
            }
            Ok((stager, growing, turn))
        }));
        let mut resumed = 0;
        let outcome = match told.await {
            Ok((done, along)) => {
                resumed = done;
                begin(along);
                heard(done);
                let mut arrival = Arrival { to, done };
                self.stream(wanted, &mut arrival, heard).await
                // The writer is at its end now.
            }
            // It says why itself.
            Err(_) => Ok(()),
        };
        // A full disk is the reason, the stream that nobody takes its consequence.
        let (stager, growing, turn) = writing.await.map_err(|e| {
            Error::new(ErrorKind::Internal, "images.pull", "the writer stopped").because(e)
        })??;
        let fetched = Fetched {
            stager,
            growing,
            turn,
            outcome,
        };
        Ok((resumed, fetched))
    }

    async fn stream(
        &self,
        wanted: &Descriptor,
        arrival: &mut Arrival,
        heard: &mut (dyn FnMut(u64) + Send),
    ) -> Result<()> {
        let mut patience = self.patience();
        while arrival.done < wanted.size {
            let before = arrival.done;
            let tried = self.part(wanted, arrival, heard).await;
            if arrival.done > before {
                patience.progress();
            }
            if let Err(trouble) = tried {
                self.pause(&mut patience, trouble).await?;
            }
        }
        Ok(())
    }

    /// From where it is to the end, or until the connection breaks.
    async fn part(
        &self,
        wanted: &Descriptor,
        arrival: &mut Arrival,
        heard: &mut (dyn FnMut(u64) + Send),
    ) -> Result<(), Trouble> {
        let mut ask = Ask {
            method: Method::GET,
            what: format!("blobs/{}", wanted.digest),
            headers: Vec::new(),
        };
        if arrival.done > 0 {
            let range = format!("bytes={}-", arrival.done);
            ask.headers.push((RANGE, range));
        }
        let mut answer = self.attempt(&ask).await?;
        let host = answer.from;
        // A registry that knows no ranges sends all again.
        let mut at = match answer.response.status().as_u16() {
            206 => {
                let range = text(&answer.response, &CONTENT_RANGE).unwrap_or_default();
                if !range.starts_with(&format!("bytes {}-", arrival.done)) {
                    return Err(corrupt(&host, "another range than asked for".to_owned()).into());
                }
                arrival.done
            }
            _ => 0,
        };
        let length = text(&answer.response, &CONTENT_LENGTH).and_then(|l| l.parse::<u64>().ok());
        let wrong_size = |found: String| {
            let what = format!(
                "the blob {} has {found} where {} bytes are announced",
                wanted.digest, wanted.size
            );
            Trouble::Final(corrupt(&host, what))
        };
        if let Some(length) = length
            && at.checked_add(length) != Some(wanted.size)
        {
            return Err(wrong_size(format!("{} bytes", at.saturating_add(length))));
        }
        let body = answer.response.body_mut();
        while let Some(mut bytes) = self.chunk(&host, body).await? {
            let start = at;
            at += bytes.len() as u64;
            if at > wanted.size {
                return Err(wrong_size("more".to_owned()));
            }
            if at <= arrival.done {
                continue;
            }
            if start < arrival.done {
                // It fits: the piece reaches beyond.
                let known = usize::try_from(arrival.done - start).unwrap_or(usize::MAX);
                let _ = bytes.split_to(known.min(bytes.len()));
            }
            if arrival.to.send(bytes).await.is_err() {
                // The writer's own error says more.
                return Err(Error::new(
                    ErrorKind::Internal,
                    "images.pull",
                    "nobody takes what is fetched",
                )
                .into());
            }
            arrival.done = at;
            heard(at);
        }
        if arrival.done < wanted.size {
            return Err(lost(
                &host,
                format!("the answer ended after {at} of {} bytes", wanted.size),
            ));
        }
        Ok(())
    }
}
