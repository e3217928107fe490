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
    /// How often in a row an object was not what was put there.
    damaged: u32,
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
        Offload { store, objects, links, folder, damaged: 0 }
    }

    /// Until the store is closed.
    pub async fn run(mut self) {
        let mut backoff = Backoff::new(INITIAL, LONGEST);
        let (mut clean, mut failing) = (false, false);
        loop {
            let done = match clean {
                true => self.errand().await,
                false => self.clean().await,
            };
            match done {
                Err(Failure::Closed) => return,
                Ok(()) => {
                    clean = true;
                    backoff.succeeded(Instant::now());
                    self.links.up(NAME);
                }
                Err(Failure::Later(reason)) => {
                    self.links.down(NAME, &reason);
                    self.told(&mut failing, true).await;
                    tokio::time::sleep(backoff.failed(Instant::now())).await;
                    continue;
                }
            }
            self.told(&mut failing, false).await;
        }
    }

    async fn told(&self, failing: &mut bool, now: bool) {
        if *failing != now {
            *failing = now;
            self.store.offload_fails(now).await.ok();
        }
    }

    /// Deletes what a crash between two steps left: objects that the store does not need.
    async fn clean(&self) -> Result<(), Failure> {
        let mut after: Option<String> = None;
        loop {
            let keys = self.objects.list(&self.folder, after.as_deref(), usize::MAX).await?;
            let Some(last) = keys.last().cloned() else { return Ok(()) };
            for key in keys {
                if !self.store.needs(key.clone()).await? {
                    log::info!("{NAME}: `{key}` was left over");
                    self.objects.delete(&key).await?;
                }
            }
            after = Some(last);
        }
    }

    async fn errand(&mut self) -> Result<(), Failure> {
        match self.store.errand().await? {
            Errand::Out(parcel) => self.out(parcel).await,
            Errand::Back(manifest) => self.back(manifest).await,
            Errand::Forget(key) => Ok(self.objects.delete(&key).await?),
        }
    }

    /// Put, read back, compared; only then do the rows leave the store.
    async fn out(&mut self, parcel: Parcel) -> Result<(), Failure> {
        let key = self.folder.clone() + &parcel.name();
        self.objects.put(&key, &parcel.object).await?;
        let found = self.objects.get(&key).await?.unwrap_or_default();
        if !same(&found, parcel.object.len() as u64, &parcel.sha256) {
            self.objects.delete(&key).await.ok();
            return Err(Failure::Later(format!("`{key}` was not read back as it was written")));
        }
        if !self.store.went(parcel, key.clone()).await? {
            self.objects.delete(&key).await?;
        }
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
            self.damaged += 1;
            if self.damaged < DAMAGED {
                return Err(Failure::Later(format!("`{key}` is damaged")));
            }
            log::error!("{NAME}: `{key}` stays damaged; what is whole of it is delivered");
        }
        self.damaged = 0;
        self.store.came(manifest, object).await?;
        Ok(self.objects.delete(&key).await?)
    }
}

fn same(object: &[u8], length: u64, sha256: &[u8; 32]) -> bool {
    object.len() as u64 == length && Sha256::digest(object)[..] == sha256[..]
}
