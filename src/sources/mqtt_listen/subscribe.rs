//! SUBSCRIBE and UNSUBSCRIBE: a session begins to read the log.

use super::{
    Shared, encode, filter,
    link::{End, Link},
    rows,
    session::{Session, Sub},
    wire::{Broken, kind, reason},
};
use crate::store::{Refusal, Start, Step};

/// The name of the consumer that holds what a lasting session has not read.
fn consumer_name(shared: &Shared, client: &str) -> String {
    format!("{}/{client}", shared.owner())
}

fn unavailable(refusal: &Refusal) -> End {
    log::debug!("a session was not stored: {refusal}");
    Broken(reason::UNAVAILABLE, "the store does not take the session").into()
}

/// Writes down what a lasting session is.
pub async fn note(shared: &Shared, session: &Session) -> Result<(), Refusal> {
    let state = vec![rows::session(shared.owner(), session, None)];
    shared.intake.store().commit(Step { state, ..Step::default() }).await.map(drop)
}

/// Gives a lasting session the consumer whose cursor holds what it has not read.
pub async fn hold(shared: &Shared, session: &mut Session) -> Result<(), Refusal> {
    if session.lasts() && session.consumer.is_none() {
        let name = consumer_name(shared, &session.client);
        let topics = [shared.intake.topic().clone()];
        session.consumer = Some(shared.intake.store().consumer(&name, &topics, Start::Newest).await?);
    }
    Ok(())
}

/// Drops that consumer.
pub async fn let_go(shared: &Shared, session: &mut Session) -> Result<(), Refusal> {
    if session.consumer.take().is_some() {
        shared.intake.store().forget(&consumer_name(shared, &session.client)).await?;
        session.restart();
    }
    Ok(())
}

impl Link {
    pub async fn subscribe(&mut self, body: &[u8]) -> Result<(), End> {
        let packet = super::decode::subscribe(body, self.version)?;
        if packet.wanted.len() > self.shared.config.max_subscriptions {
            return Err(Broken(reason::QUOTA, "more filters in one packet than a session may have").into());
        }
        self.settle().await?;
        let shared = self.shared.clone();
        let store = shared.intake.store();
        let topics = [shared.intake.topic().clone()];
        let gate = shared.hub.gate.write().await;
        let mut codes = Vec::with_capacity(packet.wanted.len());
        let since: Vec<(u16, u64)> = store.tail(&topics).positions().collect();
        for wanted in &packet.wanted {
            let sub = Sub {
                filter: wanted.filter.to_owned(),
                options: wanted.options & 0b1111,
                id: packet.id,
                since: since.clone(),
            };
            let code = self.enter(sub, wanted.options >> 4 & 3);
            codes.push(code);
        }
        if !self.session.subs.is_empty() && self.reader.is_none() && self.pull.is_none() {
            hold(&shared, &mut self.session).await.map_err(|e| unavailable(&e))?;
            self.reader = Some(match self.session.consumer {
                Some(consumer) => store.reader(consumer, &topics),
                None => store.tail(&topics),
            });
        }
        drop(gate);
        if self.session.lasts() {
            note(&shared, &self.session).await.map_err(|e| unavailable(&e))?;
        }
        encode::codes(&mut self.out, self.version, kind::SUBACK, packet.packet_id, &codes);
        self.pump()
    }

    /// Enters a subscription, also among those who get retained messages (`handling`: 3.8.3.1).
    fn enter(&mut self, mut sub: Sub, handling: u8) -> u8 {
        let hub = &self.shared.hub;
        if filter::is_too_much(&sub.filter) || matches!(filter::shared(&sub.filter), Some(None)) {
            return reason::FILTER;
        }
        if !self.grant.may_subscribe(sub.bare()) {
            return reason::NOT_AUTHORIZED;
        }
        let known = self.session.subs.iter().position(|s| s.filter == sub.filter);
        let full = self.session.subs.len() >= self.shared.config.max_subscriptions || !self.session.fits(hub, &sub);
        if known.is_none() && full {
            return reason::QUOTA;
        }
        if !sub.is_shared() && (handling == 0 || handling == 1 && known.is_none()) {
            // Who asks again, with the same filter, begins again.
            self.shelf.retain(|(asked, _)| asked.filter != sub.filter);
            self.shelf.push_back((sub.clone(), None));
        }
        let qos = sub.options & 3;
        if sub.is_shared() {
            hub.share(&sub.filter, &self.session.client, true);
        }
        match known.and_then(|at| self.session.subs.get_mut(at)) {
            Some(old) => {
                sub.since = std::mem::take(&mut old.since);
                *old = sub;
            }
            None => self.session.begin(hub, sub),
        }
        qos
    }

    pub async fn unsubscribe(&mut self, body: &[u8]) -> Result<(), End> {
        let (packet_id, filters) = super::decode::unsubscribe(body, self.version)?;
        self.settle().await?;
        let shared = self.shared.clone();
        let mut codes = Vec::with_capacity(filters.len());
        for filter in filters {
            let at = self.session.subs.iter().position(|s| s.filter == filter);
            self.shelf.retain(|(sub, _)| sub.filter != filter);
            if let Some(sub) = at.map(|at| self.session.end(&shared.hub, at))
                && sub.is_shared()
            {
                shared.hub.share(&sub.filter, &self.session.client, false);
            }
            codes.push(if at.is_some() { reason::SUCCESS } else { reason::NO_SUBSCRIPTION });
        }
        if self.session.subs.is_empty() {
            (self.reader, self.pull) = (None, None);
            let_go(&shared, &mut self.session).await.map_err(|e| unavailable(&e))?;
        }
        if self.session.lasts() {
            note(&shared, &self.session).await.map_err(|e| unavailable(&e))?;
        }
        encode::codes(&mut self.out, self.version, kind::UNSUBACK, packet_id, &codes);
        Ok(())
    }
}
