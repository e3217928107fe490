//! A consumer that an operator holds back: it reads nothing more until it is let go, also over restarts.

use super::{Put, Refusal, Step, Store, lane::Index};
use rusqlite::Connection;
use std::collections::BTreeSet;

/// Who remembers the names of those that are paused.
pub(super) const OWNER: &str = "paused";

impl Store {
    /// Holds a consumer back, or lets it go; what it has in hand it finishes. False: there is no such consumer.
    pub async fn pause(&self, name: &str, paused: bool) -> Result<bool, Refusal> {
        let known = self.shared.view().index.consumer(name);
        let Some(id) = known else { return Ok(false) };
        let put = Put { owner: OWNER.into(), key: name.into(), value: paused.then(Vec::new) };
        self.commit(Step { inner: true, state: vec![put], ..Step::default() }).await?;
        let mut view = self.shared.view();
        if paused {
            view.paused.insert(id);
        } else if view.paused.remove(&id) {
            let lanes: Vec<u16> = view.index.cursors.keys().filter(|(c, _)| *c == id).map(|(_, lane)| *lane).collect();
            lanes.into_iter().for_each(|lane| view.wake(lane));
        }
        Ok(true)
    }

    /// Names of the consumers that are held back.
    pub fn paused(&self) -> Vec<String> {
        let view = self.shared.view();
        view.paused.iter().filter_map(|id| Some(view.index.consumers.get(id)?.name.clone())).collect()
    }
}

/// Those that were held back when the store was closed.
pub(super) fn load(db: &Connection, index: &Index) -> rusqlite::Result<BTreeSet<u32>> {
    let mut query = db.prepare("SELECT key FROM state WHERE owner = ?1")?;
    let names: BTreeSet<Vec<u8>> = query.query_map([OWNER], |r| r.get(0))?.collect::<Result<_, _>>()?;
    Ok(index.consumers.iter().filter(|(_, c)| names.contains(c.name.as_bytes())).map(|(id, _)| *id).collect())
}

#[cfg(test)]
mod tests {
    use super::super::{Append, Options, Start, Step, Store};
    use crate::event::{Batch, Draft};
    use std::{sync::Arc, time::Duration};
    use tokio::time::timeout;

    fn event(n: u64) -> Step {
        let mut batch = Batch::default();
        batch.push(&Draft { body: format!(r#"{{"n":{n}}}"#).as_bytes(), ..Draft::default() }).unwrap();
        Step { appends: vec![Append { topic: "t".into(), priority: 4, batch }], ..Step::default() }
    }

    #[tokio::test]
    async fn who_is_paused_reads_nothing_until_it_is_let_go_also_over_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { path: Some(dir.path().join("t.db")), ..Options::default() };
        let topics: Vec<Arc<str>> = vec!["t".into()];
        let store = Store::open(options.clone()).unwrap();
        let (a, b) = (
            store.consumer("a", &topics, Start::Oldest).await.unwrap(),
            store.consumer("b", &topics, Start::Oldest).await.unwrap(),
        );
        assert!(!store.pause("nobody", true).await.unwrap());
        assert!(store.pause("a", true).await.unwrap() && store.paused() == ["a"]);
        store.commit(event(1)).await.unwrap();
        let (mut held, mut free) = (store.reader(a, &topics), store.reader(b, &topics));
        assert_eq!(free.next(9, 1000).await.unwrap().events.len(), 1);
        assert!(timeout(Duration::from_millis(50), held.next(9, 1000)).await.is_err());
        store.close().await;

        let store = Store::open(options).unwrap();
        assert_eq!(store.paused(), ["a"]);
        let a = store.consumer("a", &topics, Start::Oldest).await.unwrap();
        let mut held = store.reader(a, &topics);
        assert!(timeout(Duration::from_millis(50), held.next(9, 1000)).await.is_err());
        // It waits for a signal, and gets it.
        let reading = tokio::spawn(async move { held.next(9, 1000).await.unwrap().events.len() });
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(store.pause("a", false).await.unwrap() && store.paused().is_empty());
        assert_eq!(timeout(Duration::from_secs(10), reading).await.unwrap().unwrap(), 1);
    }
}
