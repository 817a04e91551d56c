//! Taking over what an earlier engine left.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use aci_core::contract::{GroupRecord, Sandbox, SandboxStatus};
use aci_core::error::{ErrorKind, Result};
use aci_core::id::SandboxId;

use super::guard::{self, ACTION_LIMIT};
use super::{Shared, lock, meter};

/// How often a sandbox that does not answer is asked again, and after which wait.
const TRIES: u32 = 5;
const WAIT: Duration = Duration::from_secs(1);

/// How long to wait before orphans that could not be removed are tried again.
const SWEEP: Duration = Duration::from_secs(60);

type Found = Option<(Arc<dyn Sandbox>, SandboxStatus)>;

impl Shared {
    /// Reads the journal, finds what still runs, and goes on with every group. No task is begun
    /// before all has been found, so that a failure or a caller who gives up leaves no half of an
    /// engine behind.
    pub(crate) async fn reopen(self: &Arc<Self>) -> Result<()> {
        let records = guard::caught("store.list", self.store.list()).await?;
        let known: BTreeSet<SandboxId> = records.iter().map(|r| r.sandbox.clone()).collect();
        let swept = self.remove_orphans(|id| known.contains(id)).await?;
        let attachments = guard::caught("network.list", self.network.list()).await?;
        let attached: BTreeSet<SandboxId> = attachments.into_iter().map(|a| a.sandbox).collect();
        // Who gives no addresses has nothing that could be gone.
        let addresses = self.network.capability().addresses;
        let mut found = Vec::new();
        for record in records {
            let sandbox = if record.lifecycle.is_settled() {
                None
            } else if addresses
                && record.attachment.is_some()
                && !attached.contains(&record.sandbox)
            {
                self.give_up_cut_off(&record).await;
                None
            } else {
                self.find(&record).await?
            };
            found.push((record, sandbox));
        }
        // Whoever waits, waits in the order of creation.
        found.sort_by(|(a, _), (b, _)| (a.created, &a.group).cmp(&(b.created, &b.group)));
        {
            let mut seats = lock(&self.seats);
            for (record, _) in &found {
                if record.lifecycle.is_new() {
                    seats.queue(&record.group, &record.document);
                } else if !record.lifecycle.is_settled() {
                    seats.seat(&record.group, &record.document);
                }
            }
        }
        for (record, sandbox) in found {
            self.take_up(record, sandbox);
        }
        let admitted = lock(&self.seats).admit_waiting();
        self.admitted(admitted);
        if !swept {
            let shared = Arc::clone(self);
            self.tracker.spawn(async move { shared.sweep().await });
        }
        Ok(())
    }

    /// Ends a sandbox whose attachment somebody took away: nobody reaches it any more, and what its
    /// containers know of their addresses is no longer so. It counts as lost.
    async fn give_up_cut_off(&self, record: &GroupRecord) {
        tracing::warn!(group = %record.group, sandbox = %record.sandbox, "the sandbox's network was removed while no engine was there; the containers are started again in a new one");
        let removing = self.isolation.remove(&record.sandbox);
        let removed =
            guard::limited(&*self.clock, ACTION_LIMIT, "isolation.remove", removing).await;
        if let Err(error) = removed {
            // What is made anew begins with removing the old one, and says so if it cannot.
            tracing::error!(group = %record.group, error = %error.chain(), "the sandbox could not be removed");
        }
    }

    /// The sandbox of a record, if it lives.
    ///
    /// # Errors
    /// Anything but that it is gone: a sandbox that runs must not be taken for lost because it
    /// could not be reached for a moment.
    async fn find(&self, record: &GroupRecord) -> Result<Found> {
        let mut tries = 0;
        loop {
            let adopting = guard::limited(&*self.clock, ACTION_LIMIT, "isolation.adopt", async {
                let sandbox = self.isolation.adopt(&record.sandbox).await?;
                let status = sandbox.status().await?;
                Ok((sandbox, status))
            });
            match adopting.await {
                Ok(found) => return Ok(Some(found)),
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Lost) => {
                    if record.lifecycle.sandbox_epoch().is_some() {
                        tracing::warn!(group = %record.group, error = %error.chain(), "the sandbox is gone");
                    }
                    return Ok(None);
                }
                Err(error) if tries < TRIES => {
                    tries += 1;
                    tracing::warn!(group = %record.group, tries, error = %error.chain(), "the sandbox does not answer; asked again");
                    self.clock.sleep_until(self.clock.now() + WAIT).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Goes on with one group where the journal says that it was.
    fn take_up(self: &Arc<Self>, mut record: GroupRecord, found: Found) {
        let (sandbox, status) = found.unzip();
        let latest = record.lifecycle.latest();
        let told = record.lifecycle.last_sequence();
        if sandbox.is_none() {
            // Nobody knows how long it ran while no engine was there, so that is not billed. What
            // follows is.
            record.ledger.stop(latest);
        }
        let now = self.clock.now().max(latest);
        let actions = record.lifecycle.resume(status.as_ref(), now);
        tracing::info!(group = %record.group, adopted = sandbox.is_some(), state = record.lifecycle.state().as_str(), "group taken up");
        self.enlist(record, sandbox, actions, told);
    }

    /// Removes orphans until there are none.
    async fn sweep(&self) {
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = self.clock.sleep_until(self.clock.now() + SWEEP) => {}
            }
            // A group is known before anything of it is made, so what is listed first and unknown
            // then belongs to nobody.
            let known = |id: &SandboxId| {
                let members = lock(&self.members);
                members
                    .values()
                    .any(|m| m.snapshot.borrow().record.sandbox == *id)
            };
            let swept = tokio::select! {
                () = self.stop.cancelled() => return,
                swept = self.remove_orphans(known) => swept,
            };
            match swept {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(error = %error.chain(), "orphans cannot be listed; tried again");
                }
            }
        }
    }

    /// Removes what the parts have and no record knows: left by a crash between two steps. Answers
    /// whether all of it is gone; one that will not go must not keep the engine from its groups.
    ///
    /// # Errors
    /// Those of asking what there is.
    async fn remove_orphans(&self, known: impl Fn(&SandboxId) -> bool) -> Result<bool> {
        let mut all = true;
        let mut done = |kind: &'static str, id: &SandboxId, removed: Result<()>| {
            meter::orphan(kind, removed.is_ok());
            match removed {
                Ok(()) => tracing::warn!(sandbox = %id, kind, "removed what no record knows"),
                Err(error) => {
                    all = false;
                    tracing::error!(sandbox = %id, kind, error = %error.chain(), "what no record knows could not be removed; tried again later");
                }
            }
        };
        let clock = &*self.clock;
        for id in guard::caught("isolation.list", self.isolation.list()).await? {
            if !known(&id) {
                let removing = self.isolation.remove(&id);
                let removed = guard::limited(clock, ACTION_LIMIT, "isolation.remove", removing);
                done("sandbox", &id, removed.await);
            }
        }
        for attachment in guard::caught("network.list", self.network.list()).await? {
            let id = &attachment.sandbox;
            if !known(id) {
                let detaching = self.network.detach(id);
                let removed = guard::limited(clock, ACTION_LIMIT, "network.detach", detaching);
                done("attachment", id, removed.await);
            }
        }
        for key in guard::caught("image.prepared", self.images.prepared()).await? {
            if !known(&key.sandbox) {
                let releasing = self.images.release(&key);
                let removed = guard::limited(clock, ACTION_LIMIT, "image.release", releasing);
                done("rootfs", &key.sandbox, removed.await);
            }
        }
        for driver in &self.volumes {
            for volume in guard::caught("volume.list", driver.list()).await? {
                if !known(&volume.sandbox) {
                    let releasing = driver.release(&volume.sandbox, &volume.name);
                    let removed = guard::limited(clock, ACTION_LIMIT, "volume.release", releasing);
                    done("volume", &volume.sandbox, removed.await);
                }
            }
        }
        Ok(all)
    }
}
