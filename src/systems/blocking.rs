//! Calls that block: on a disk, or on a connection without an async interface.

use crate::{budget::Span, fault::Fault};
use std::{sync::Arc, time::Duration};
use tokio::{sync::Mutex, task::spawn_blocking, time::timeout};

/// Something whose calls block. One runs at a time, in a thread for such work; so what it was told first happens first,
/// also when nobody waits for it any more.
pub(super) struct Blocking<T>(Arc<Mutex<T>>);

impl<T: Send + 'static> Blocking<T> {
    pub fn new(inner: T) -> Self {
        Blocking(Arc::new(Mutex::new(inner)))
    }

    /// Runs `work` after the calls before it. Gives up after `limit`; work that has begun by then goes on all the same.
    /// `name` is who does not answer.
    pub async fn call<R: Send + 'static>(
        &self,
        limit: Duration,
        name: &str,
        work: impl FnOnce(&mut T) -> Result<R, Fault> + Send + 'static,
    ) -> Result<R, Fault> {
        let waiting = self.0.clone().lock_owned();
        let run = async {
            let mut inner = waiting.await;
            let done = spawn_blocking(move || work(&mut inner)).await;
            done.map_err(|e| Fault::retry(format!("`{name}`: {e}")))?
        };
        let late = |_| Err(Fault::retry(format!("`{name}`: not done within {}", Span(limit))));
        timeout(limit, run).await.unwrap_or_else(late)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_call_bounds_its_time_and_the_next_one_waits_for_it() {
        let list = Blocking::new(Vec::new());
        let slow = |list: &mut Vec<u8>| {
            std::thread::sleep(Duration::from_millis(200));
            list.push(1);
            Ok(())
        };
        let fault = list.call(Duration::from_millis(20), "x", slow).await.unwrap_err();
        assert_eq!(fault.to_string(), "`x`: not done within 20ms");
        let quick = |list: &mut Vec<u8>| {
            list.push(2);
            Ok(())
        };
        let fault = list.call(Duration::from_millis(20), "x", quick).await.unwrap_err();
        assert!(matches!(fault, Fault::Retry(_)));
        let seen = list.call(Duration::from_secs(10), "x", |list| Ok(list.clone())).await.unwrap();
        assert_eq!(seen, [1], "what had not begun is not done later");
        let fault = list.call(Duration::from_secs(10), "x", |_| -> Result<(), Fault> { panic!("y") }).await;
        assert!(matches!(fault, Err(Fault::Retry(_))));
    }
}
