//! Writing: on the way to the server, or through to it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use smb2::msg::create::CreateDisposition;

use super::behind::{self, Behind};
use super::handles::Handle;
use super::{Inner, locked};
use crate::smb::ops::{Durable, Kind, Open};
use crate::smb::{Fault, lease};
use crate::wire::Cache;

/// After so many bytes through an open file the server is asked for a lease for writing, and after
/// so many again.
const STREAM: u64 = 256 << 10;
const STREAM_AGAIN: u64 = 16 << 20;
/// A share with less room than this gets no write that waits: it may be refused.
const SPARE: u64 = 128 << 20;
/// So long an answer about room is believed.
const ROOM_BELIEF: Duration = Duration::from_secs(1);

impl Inner {
    /// Writes; what is answered the server has, or will have before anybody can see the difference.
    /// With `wait` it has it.
    pub(crate) async fn write(
        self: &Arc<Self>,
        handle: u64,
        offset: u64,
        data: Bytes,
        wait: bool,
    ) -> Result<u32, Fault> {
        let handle = self.handle(handle)?;
        self.changed();
        // What went through another descriptor of the file is not overtaken.
        let (id, node) = (handle.id, handle.node);
        self.settle_those(|other| other.node == node && other.id != id)
            .await;
        if self.is_behind()
            && !wait
            && !handle.append
            && !handle.sync
            && self.is_granted(&handle, data.len() as u64).await
            && self.has_room().await
            && Behind::put(self, &handle, offset, data.clone()).await?
        {
            return Ok(u32::try_from(data.len()).unwrap_or(u32::MAX));
        }
        self.settle(handle.node).await;
        handle.behind.failure(self, handle.id)?;
        self.write_through(&handle, offset, &data).await
    }

    /// Whether the server grants that nobody else has a file open. It is asked for that once so much
    /// has been written that waiting for each write would tell, and not where bytes are locked: those
    /// are files that others open, who would wait each time for it to be given back.
    async fn is_granted(&self, handle: &Handle, size: u64) -> bool {
        if self.is_alone(handle.node) {
            return true;
        }
        let before = handle.streamed.fetch_add(size, Ordering::Relaxed);
        let after = before + size;
        let first = before < STREAM && after >= STREAM;
        if !first && before / STREAM_AGAIN == after / STREAM_AGAIN
            || locked(&self.locks).contains_key(&handle.node)
        {
            return false;
        }
        let Ok(path) = self.path(handle.node) else {
            return false;
        };
        let (durable, number) = handle.lease().await;
        let access = handle.access;
        let asked = self
            .share
            .run(|link, _| {
                let path = path.clone();
                async move {
                    let state = lease::READ_HANDLE | lease::WRITE;
                    let durable = Some(Durable { state, ..durable });
                    let open = Open {
                        path: &path,
                        access,
                        how: CreateDisposition::FileOpen,
                        kind: Kind::File,
                        durable,
                    };
                    link.upgrade(&open).await
                }
            })
            .await;
        // What was granted over another connection than the present one does not count.
        if let (Ok((granted, of)), Some(current)) = (asked, self.share.up())
            && of == number
        {
            self.granted(handle.node, current.generation, granted);
        }
        self.is_alone(handle.node)
    }

    /// Whether writes may be answered before the server has them.
    fn is_behind(&self) -> bool {
        self.share.config().options.cache == Cache::Strict
    }

    /// Whether the share has so much room that no write is refused for want of it.
    async fn has_room(&self) -> bool {
        let mut spare = self.spare.lock().await;
        if let Some((asked, enough)) = *spare
            && asked.elapsed() < ROOM_BELIEF
        {
            return enough;
        }
        let room = self.room().await;
        let enough = room.is_ok_and(|room| room.free.saturating_mul(room.unit) > SPARE);
        *spare = Some((Instant::now(), enough));
        enough
    }

    /// Writes, and the server has it then.
    pub(crate) async fn write_through(
        &self,
        handle: &Handle,
        offset: u64,
        data: &Bytes,
    ) -> Result<u32, Fault> {
        // Where the file ends now, for others may have appended too.
        let offset = if handle.append {
            let now = handle.run(self, |link, file| async move { link.stat_open(file).await });
            now.await?.size
        } else {
            offset
        };
        let written = self
            .write_pieces(handle, offset, vec![data.clone()])
            .await?;
        Ok(u32::try_from(written).unwrap_or(u32::MAX))
    }

    /// Writes pieces that follow one another; how many bytes.
    pub(crate) async fn write_pieces(
        &self,
        handle: &Handle,
        offset: u64,
        mut data: Vec<Bytes>,
    ) -> Result<u64, Fault> {
        let mut done = 0;
        while !data.is_empty() {
            let pieces = Arc::new(data);
            let written = handle
                .run(self, |link, file| {
                    let pieces = Arc::clone(&pieces);
                    async move { link.write(file, offset + done, &pieces).await }
                })
                .await?;
            if written == 0 {
                return Err(Fault::Errno(libc::EIO));
            }
            done += u64::from(written);
            data = behind::rest(&pieces, written as usize);
        }
        let written = &self.share.bytes_written;
        written.fetch_add(done, Ordering::Relaxed);
        Ok(done)
    }

    /// All that was written is on the server, or it is said what is not.
    pub(crate) async fn flush(&self, handle: u64) -> Result<(), Fault> {
        let handle = self.handle(handle)?;
        handle.behind.settle().await;
        handle.behind.failure(self, handle.id)
    }

    pub(crate) async fn fsync(&self, handle: u64) -> Result<(), Fault> {
        self.flush(handle).await?;
        self.handle(handle)?
            .run(self, |link, file| async move { link.flush(file).await })
            .await
    }

    /// Lengthens a file to hold a range.
    pub(crate) async fn allocate(&self, handle: u64, end: u64) -> Result<(), Fault> {
        let handle = self.handle(handle)?;
        self.settle(handle.node).await;
        self.changed();
        handle
            .run(self, |link, file| async move {
                if link.stat_open(file).await?.size < end {
                    link.set_size(file, end).await?;
                }
                Ok(())
            })
            .await
    }
}
