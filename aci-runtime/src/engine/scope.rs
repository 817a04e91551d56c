//! Tasks that end together.

use std::sync::Arc;

use aci_core::contract::GroupRecord;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What is under way for one sandbox, or for one group.
#[derive(Debug)]
pub(crate) struct Scope {
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
    /// Whether traffic is to be let in, once that was said.
    traffic: Option<watch::Sender<bool>>,
    /// Whose files there are to be, once that was said.
    files: Option<watch::Sender<Arc<GroupRecord>>>,
}

impl Scope {
    pub(crate) fn new(parent: &CancellationToken) -> Self {
        Self {
            stop: parent.child_token(),
            tasks: TaskTracker::new(),
            traffic: None,
            files: None,
        }
    }

    /// Runs something until the scope ends.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(until(self.stop.clone(), work));
    }

    /// Tells the one task that switches traffic; it is begun when there is something to tell.
    pub(crate) fn ready<F>(&mut self, ready: bool, begin: impl FnOnce(watch::Receiver<bool>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        if let Some(work) = tell(&mut self.traffic, ready, begin) {
            self.spawn(work);
        }
    }

    /// Tells the one task that writes files, as [`Scope::ready`].
    pub(crate) fn files<F>(
        &mut self,
        record: Arc<GroupRecord>,
        begin: impl FnOnce(watch::Receiver<Arc<GroupRecord>>) -> F,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        if let Some(work) = tell(&mut self.files, record, begin) {
            self.spawn(work);
        }
    }

    /// Gives up everything and waits until it has ended.
    pub(crate) async fn end(&mut self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Tells the task that listens, or says what a task does that is to listen from now on.
fn tell<T, F>(
    listener: &mut Option<watch::Sender<T>>,
    value: T,
    begin: impl FnOnce(watch::Receiver<T>) -> F,
) -> Option<F> {
    if let Some(listener) = listener {
        listener.send_replace(value);
        return None;
    }
    let (sender, wanted) = watch::channel(value);
    *listener = Some(sender);
    Some(begin(wanted))
}

/// Does something until it is done or is to stop; then it is dropped where it stands.
pub(crate) async fn until(stop: CancellationToken, work: impl Future<Output = ()>) {
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = work => {}
    }
}
