//! What an engine tells those who watch.

use std::pin::Pin;
use std::task::{Context, Poll};

use aci_core::contract::{PullEvent, VolumeEvent};
use aci_core::id::GroupRef;
use aci_core::model::Event;
use futures_core::Stream;
use tokio::sync::broadcast;
use tokio_util::sync::ReusableBoxFuture;

/// Something that happened to a group.
#[non_exhaustive]
#[derive(Clone, Debug)]
pub enum Notice {
    /// An event in ACI's form; the same event again comes with a higher count.
    Event {
        /// The group.
        group: GroupRef,
        /// The container; `None` for the group as a whole.
        container: Option<String>,
        /// What happened.
        event: Event,
    },
    /// The group's state or provisioning state changed.
    State {
        /// The group.
        group: GroupRef,
        /// `Pending`, `Running`, `Stopped`, `Succeeded` or `Failed`.
        state: String,
        /// ACI's provisioning state.
        provisioning_state: String,
    },
    /// An image is being fetched.
    Pull {
        /// The group.
        group: GroupRef,
        /// The image as the document names it.
        image: String,
        /// The step.
        step: PullEvent,
    },
    /// A volume is being provided.
    Volume {
        /// The group.
        group: GroupRef,
        /// The volume's name.
        volume: String,
        /// The step.
        step: VolumeEvent,
    },
    /// The group is gone and nothing of it is left.
    Deleted {
        /// The group.
        group: GroupRef,
    },
    /// The watcher was too slow and missed so many notices; what is true now can be asked for.
    Missed(u64),
}

impl Notice {
    /// The group that it is about; `None` for [`Notice::Missed`].
    #[must_use]
    pub const fn group(&self) -> Option<&GroupRef> {
        match self {
            Self::Event { group, .. }
            | Self::State { group, .. }
            | Self::Pull { group, .. }
            | Self::Volume { group, .. }
            | Self::Deleted { group } => Some(group),
            Self::Missed(_) => None,
        }
    }
}

type Received = (
    Result<Notice, broadcast::error::RecvError>,
    broadcast::Receiver<Notice>,
);

/// A stream of notices, from the moment of the call on; it ends when the engine is gone.
pub struct Notices {
    next: ReusableBoxFuture<'static, Received>,
    only: Option<GroupRef>,
    ended: bool,
}

impl std::fmt::Debug for Notices {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Notices")
            .field("only", &self.only)
            .finish_non_exhaustive()
    }
}

impl Notices {
    pub(crate) fn new(receiver: broadcast::Receiver<Notice>, only: Option<GroupRef>) -> Self {
        Self {
            next: ReusableBoxFuture::new(receive(receiver)),
            only,
            ended: false,
        }
    }

    /// The next notice; `None` when the engine is gone.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Notice> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }
}

async fn receive(mut receiver: broadcast::Receiver<Notice>) -> Received {
    let got = receiver.recv().await;
    (got, receiver)
}

impl Stream for Notices {
    type Item = Notice;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Notice>> {
        while !self.ended {
            let (got, receiver) = match self.next.poll(cx) {
                Poll::Ready(received) => received,
                Poll::Pending => return Poll::Pending,
            };
            self.next.set(receive(receiver));
            match got {
                Ok(notice) => {
                    let wanted = match (&self.only, notice.group()) {
                        (Some(only), Some(group)) => only == group,
                        _ => true,
                    };
                    if wanted {
                        return Poll::Ready(Some(notice));
                    }
                }
                Err(broadcast::error::RecvError::Lagged(count)) => {
                    return Poll::Ready(Some(Notice::Missed(count)));
                }
                Err(broadcast::error::RecvError::Closed) => self.ended = true,
            }
        }
        Poll::Ready(None)
    }
}
