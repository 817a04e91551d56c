//! Blobs of a registry, checked while they stream into the store.

use std::io::Write as _;
use std::sync::Arc;

use aci_core::error::{Error, ErrorKind, Result};
use bytes::Bytes;
use http::Method;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, RANGE};
use tokio::sync::mpsc;

use super::connect::{Trouble, lost};
use super::faults::corrupt;
use super::session::{Ask, Session, text};
use crate::fail::blocking;
use crate::image::{Descriptor, Inner};

/// Pieces (of 8 to 64 KiB as a rule) that wait for the disk.
const WAITING: usize = 16;

/// What arrived of a blob.
struct Arrival {
    to: mpsc::Sender<Bytes>,
    done: u64,
}

impl Session<'_> {
    /// Has a blob in the store. A broken connection is taken up where it broke (`Range`, RFC 9110,
    /// section 14.2).
    pub(super) async fn blob(
        &self,
        inner: &Arc<Inner>,
        wanted: &Descriptor,
        heard: &mut (dyn FnMut(u64) + Send),
    ) -> Result<()> {
        let (to, mut from) = mpsc::channel::<Bytes>(WAITING);
        let store = Arc::clone(inner);
        let writing = tokio::spawn(blocking("images.pull", move || {
            let mut stager = store.blobs().stager()?;
            while let Some(bytes) = from.blocking_recv() {
                stager
                    .write_all(&bytes)
                    .map_err(|e| stager.failed("write it", e))?;
            }
            Ok(stager.finish())
        }));
        let mut arrival = Arrival { to, done: 0 };
        let fetched = self.stream(wanted, &mut arrival, heard).await;
        drop(arrival); // The writer is at its end now.
        let written = writing.await.map_err(|e| {
            Error::new(ErrorKind::Internal, "images.pull", "the writer stopped").because(e)
        })?;
        // A full disk is the reason, the stream that nobody takes its consequence.
        let staged = match (written, fetched) {
            (Err(error), _) | (Ok(_), Err(error)) => return Err(error),
            (Ok(staged), Ok(())) => staged,
        };
        if staged.size != wanted.size || staged.digest != wanted.digest {
            return Err(corrupt(
                &self.endpoint,
                format!(
                    "the blob {} of {} bytes has {} bytes and the digest {}",
                    wanted.digest, wanted.size, staged.size, staged.digest
                ),
            ));
        }
        metrics::counter!("aci_storage_fetched_bytes_total").increment(staged.size);
        let store = Arc::clone(inner);
        blocking("images.pull", move || store.blobs().adopt(staged)).await
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
