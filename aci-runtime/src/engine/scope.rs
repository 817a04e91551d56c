//! Tasks that end together.

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
}

impl Scope {
    pub(crate) fn new(parent: &CancellationToken) -> Self {
        Self {
            stop: parent.child_token(),
            tasks: TaskTracker::new(),
            traffic: None,
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
        match &self.traffic {
            Some(traffic) => {
                traffic.send_replace(ready);
            }
            None => {
                let (traffic, wanted) = watch::channel(ready);
                self.spawn(begin(wanted));
                self.traffic = Some(traffic);
            }
        }
    }

    /// Gives up everything and waits until it has ended.
    pub(crate) async fn end(&mut self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Does something until it is done or is to stop; then it is dropped where it stands.
pub(crate) async fn until(stop: CancellationToken, work: impl Future<Output = ()>) {
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = work => {}
    }
}
