//! What can be set while the store runs.

use super::{Keep, Options, Refusal, trim, writer::Writer};

impl Writer {
    /// Takes over all that options say, but where the store lies.
    pub(super) fn change(&mut self, options: Options) -> Result<(), Refusal> {
        let counts = |options: &Options, topic: &str| matches!(options.keep.get(topic), Some(Keep { bytes: Some(_), .. }));
        let fresh = |topic: &str| counts(&options, topic) && !counts(&self.options, topic);
        for (id, lane) in self.index.lanes.iter_mut().filter(|(_, lane)| fresh(&lane.topic)) {
            lane.bytes = trim::bytes(&self.db, *id).map_err(|error| Refusal::Failed(error.to_string()))?;
        }
        self.seen.set_window(options.window);
        self.space.set(&options, self.disk.ballast.room());
        self.shared.set_ttl(&options);
        self.shared.view().set_most(options.tails);
        let (path, visit, pools) = (self.options.path.clone(), self.options.visit, self.options.pools.clone());
        self.options = Options { path, visit, pools, ..options };
        let used = super::schema::used(&self.db).ok();
        self.measure(used);
        Ok(())
    }
}
