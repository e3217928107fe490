//! Carries events between the store and an object store: out while the store is over its mark, back when a reader has come
//! to them.

use super::{backoff::Backoff, links::Links};
use crate::{
    fault::Fault,
    store::{Errand, Manifest, Parcel, Refusal, Store},
    systems::objects::Objects,
};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

/// The first and the longest wait after the object store has failed.
const INITIAL: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(10);
/// An object that was read back damaged so often in a row, over some minutes, will not mend itself.
const DAMAGED: u32 = 20;
/// What it is called in the log.
const NAME: &str = "store.disk.offload";

pub(super) struct Offload {
    store: Store,
    objects: Arc<dyn Objects>,
    links: Links,
    /// What all keys of this store begin with, up to the last `/`.
    folder: String,
    /// Of what goes out.
    backoff: Backoff,
    /// By its key, each object that failed to come back: and how often it was not what was put there.
    ill: BTreeMap<String, (Backoff, u32)>,
    /// The last object that was to be deleted is still there.
    kept: bool,
}

/// Why a round did not work.
enum Failure {
    Closed,
    Later(String),
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Closed => Failure::Closed,
            refusal => Failure::Later(refusal.to_string()),
        }
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Failure::Later(fault.to_string())
    }
}

impl Offload {
    /// Keys are `PREFIX/GATEWAY-STORE/LANE-FIRST-NEXT`.
    pub fn new(store: Store, objects: Arc<dyn Objects>, links: Links, prefix: &str, gateway: &str) -> Self {
        let prefix = prefix.trim_matches('/');
        let slash = if prefix.is_empty() { "" } else { "/" };
        let folder = format!("{prefix}{slash}{gateway}-{:016x}/", store.number());
        let (backoff, ill) = (Backoff::new(INITIAL, LONGEST), BTreeMap::new());
        Offload { store, objects, links, folder, backoff, ill, kept: false }
    }

    /// Until the store is closed.
    pub async fn run(mut self) {
        let mut clean = false;
        loop {
            let done = match clean {
                true => self.errand().await,
                false => self.clean().await,
            };
            match done {
                Ok(()) => clean = true,
                Err(Failure::Closed) => return,
                Err(Failure::Later(reason)) => tokio::time::sleep(self.failed(None, &reason).await).await,
            }
        }
    }

    /// A range did not come back, or else nothing goes out: gives how long that is left alone.
    async fn failed(&mut self, range: Option<Manifest>, reason: &str) -> Duration {
        self.links.down(NAME, reason);
        let backoff = match &range {
            Some(range) => &mut self.ill(&range.key).0,
            None => &mut self.backoff,
        };
        let wait = backoff.failed(Instant::now());
        self.store.offload_fails(range, wait).await.ok();
        wait
    }

    fn ill(&mut self, key: &str) -> &mut (Backoff, u32) {
        self.ill.entry(key.to_owned()).or_insert_with(|| (Backoff::new(INITIAL, LONGEST), 0))
    }

    async fn worked(&self) -> Result<(), Failure> {
        if !self.store.offload_ails().await? {
            self.links.up(NAME);
        }
        Ok(())
    }

    /// Deletes what a crash between two steps left: objects that the store does not need.
    async fn clean(&mut self) -> Result<(), Failure> {
        let mut after: Option<String> = None;
        loop {
            let keys = self.objects.list(&self.folder, after.as_deref(), usize::MAX).await?;
            let Some(last) = keys.last().cloned() else { break };
            for key in keys {
                if !self.store.needs(key.clone()).await? {
                    log::info!("{NAME}: `{key}` was left over");
                    self.delete(&key).await;
                }
            }
            after = Some(last);
        }
        // What failed before, failed in the object store of another configuration.
        self.store.offload_begins().await?;
        self.worked().await
    }

    /// One that cannot be deleted is in nobody's way: it is tried again at the next start.
    async fn delete(&mut self, key: &str) {
        self.ill.remove(key);
        let done = self.objects.delete(key).await;
        if let Err(fault) = &done
            && !self.kept
        {
            log::warn!("{NAME}: `{key}`, and maybe more, stays until the next start: {fault}");
        }
        self.kept = done.is_err();
    }

    async fn errand(&mut self) -> Result<(), Failure> {
        let (range, done) = match self.store.errand().await? {
            Errand::Out(parcel) => (None, self.out(parcel).await),
            Errand::Back(manifest) => (Some(manifest.clone()), self.back(manifest).await),
            Errand::Forget(key) => {
                self.delete(&key).await;
                (None, Ok(()))
            }
        };
        match done {
            Ok(()) => self.worked().await,
            // The others go on meanwhile.
            Err(Failure::Later(reason)) => {
                self.failed(range, &reason).await;
                Ok(())
            }
            closed => closed,
        }
    }

    /// Put, read back, compared; only then do the rows leave the store.
    async fn out(&mut self, parcel: Parcel) -> Result<(), Failure> {
        let key = self.folder.clone() + &parcel.name();
        self.objects.put(&key, &parcel.object).await?;
        let found = self.objects.get(&key).await?.unwrap_or_default();
        if !same(&found, parcel.object.len() as u64, &parcel.sha256) {
            self.delete(&key).await;
            return Err(Failure::Later(format!("`{key}` was not read back as it was written")));
        }
        if !self.store.went(parcel, key.clone()).await? {
            self.delete(&key).await;
        }
        self.backoff.succeeded(Instant::now());
        Ok(())
    }

    /// Fetched, compared, put back into the store; only then is the object deleted.
    async fn back(&mut self, manifest: Manifest) -> Result<(), Failure> {
        let key = manifest.key.clone();
        // It may be another medium that is plugged in: what is missing is waited for.
        let Some(object) = self.objects.get(&key).await? else {
            return Err(Failure::Later(format!("`{key}` is missing; its events are waited for")));
        };
        if !same(&object, manifest.length, &manifest.sha256) {
            let (_, times) = self.ill(&key);
            *times += 1;
            if *times < DAMAGED {
                return Err(Failure::Later(format!("`{key}` is damaged")));
            }
            log::error!("{NAME}: `{key}` stays damaged; what is whole of it is delivered");
        }
        self.store.came(manifest, object).await?;
        self.delete(&key).await;
        Ok(())
    }
}

fn same(object: &[u8], length: u64, sha256: &[u8; 32]) -> bool {
    object.len() as u64 == length && Sha256::digest(object)[..] == sha256[..]
}
