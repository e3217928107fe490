//! What becomes of a session when its connection is gone: its will, its messages, its end.

use super::{
    Shared,
    access::{Grant, shown},
    decode,
    hub::{Claim, Takeover},
    inbound::{self, Gather, Post},
    link::End,
    outbound::{LOT, sift},
    rows,
    session::Session,
    subscribe,
    wire::Version,
};
use crate::{clock, store::Step, systems::mqtt::payload::About};
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, sleep_until};

/// What is there for clients that are away is looked for this often.
const LOOK: Duration = Duration::from_secs(1);
/// Lots taken from the log at one look, so that one session does not keep the others waiting.
const LOTS: usize = 64;

/// A connection has ended. `will` is the CONNECT that holds it.
pub async fn after(
    shared: &Arc<Shared>,
    session: Session,
    claim: Claim,
    end: End,
    will: Option<Box<[u8]>>,
    grant: &Grant,
) {
    let mut will = will.filter(|_| !matches!(end, End::Goodbye { will: false }));
    let lasts = session.lasts() && !session.ends_now;
    let clean = matches!(&end, End::Takeover(t) if t.clean);
    let delay = will.as_deref().map_or(0, delay);
    if let Some(body) = will.take_if(|_| clean || !lasts || delay == 0) {
        publish(shared, &session.client, &body, grant).await;
    }
    let session = if lasts { session } else { return discard(shared, session).await };
    match end {
        End::Takeover(takeover) => hand_over(shared, session, takeover).await,
        _ => {
            let due = will.map(|body| (body, Instant::now() + Duration::from_secs(delay.into())));
            let left = Duration::from_secs(session.expiry.into());
            keep(shared, session, claim, due, left, grant).await;
        }
    }
}

fn delay(body: &[u8]) -> u32 {
    let connect = decode::connect(body);
    connect.ok().and_then(|c| c.will.and_then(|w| w.props.will_delay)).unwrap_or(0)
}

async fn hand_over(shared: &Arc<Shared>, session: Session, takeover: Takeover) {
    if takeover.clean {
        return discard(shared, session).await;
    }
    if let Err(session) = takeover.reply.send(session) {
        // The new connection is gone; the store has what is needed for the next one.
        let mut session = session;
        save(shared, &mut session, true, None);
        session.release(&shared.hub);
    }
}

/// Keeps a session until its client comes again, or its time is over.
pub async fn keep(
    shared: &Arc<Shared>,
    mut session: Session,
    mut claim: Claim,
    mut will: Option<(Box<[u8]>, Instant)>,
    left: Duration,
    grant: &Grant,
) {
    let end = Instant::now() + left;
    shared.hub.connected(&session.client, false);
    let until = clock::steady_ms().saturating_add(i64::try_from(left.as_millis()).unwrap_or(i64::MAX));
    save(shared, &mut session, true, Some(until));
    let topics = [shared.intake.topic().clone()];
    let mut reader = session.consumer.map(|consumer| shared.intake.store().reader(consumer, &topics));
    loop {
        let mut next = end.min(will.as_ref().map_or(end, |w| w.1));
        if reader.is_some() {
            next = next.min(Instant::now() + LOOK);
        }
        let call = tokio::select! {
            call = &mut claim.call => call.ok(),
            () = sleep_until(next) => None,
        };
        if let Some(takeover) = call {
            if let Some((body, _)) = will.take().filter(|_| takeover.clean) {
                publish(shared, &session.client, &body, grant).await;
            }
            return hand_over(shared, session, takeover).await;
        }
        let now = Instant::now();
        if let Some((body, _)) = will.take_if(|w| w.1 <= now || end <= now) {
            publish(shared, &session.client, &body, grant).await;
        }
        if end <= now {
            return discard(shared, session).await;
        }
        for _ in 0..LOTS {
            let Some(open) = &mut reader else { break };
            let Ok(Some(lot)) = open.poll(LOT.0, LOT.1).await else { break };
            let mut dropped = 0;
            sift(shared, &mut session, &lot, |session, event, to, message| {
                if to.qos > 0 {
                    dropped += session.enqueue(&shared.hub, Some((lot.lane, event.seq)), message, to);
                }
            });
            if dropped > 0 {
                shared.hub.slow.begins(|| {
                    format!(
                        "sources.{}: client `{}` is away: messages for it are dropped",
                        shared.owner(),
                        shown(&session.client)
                    )
                });
            }
        }
        save(shared, &mut session, true, None);
    }
}

/// Lets the store know, in time, what the session holds; with `until`, also when it ends.
fn save(shared: &Shared, session: &mut Session, all: bool, until: Option<i64>) {
    let mut step = session.step(shared.owner(), all).unwrap_or_default();
    step.state.extend(until.map(|until| rows::session(shared.owner(), session, Some(until))));
    if !step.state.is_empty() || !step.moves.is_empty() {
        shared.intake.store().ride(step).ok();
    }
}

/// Ends a session and frees all it had.
pub async fn discard(shared: &Arc<Shared>, mut session: Session) {
    for sub in session.subs.iter().filter(|s| s.is_shared()) {
        shared.hub.share(&sub.filter, &session.client, false);
    }
    if shared.hub.is_lasting(&session.client) {
        let store = shared.intake.store();
        let mut step = session.step(shared.owner(), false).unwrap_or_default();
        step.moves.clear();
        step.state.extend(rows::discard(shared.owner(), &session));
        let done = store.commit(Step { state: step.state, ..Step::default() }).await;
        if let Err(refusal) = done.and(subscribe::let_go(shared, &mut session).await) {
            log::warn!("sources.{}: a session was not removed: {refusal}", shared.owner());
        }
        shared.hub.set_lasting(&session.client, false);
    }
    session.release(&shared.hub);
}

/// Publishes a will as a message of its client.
async fn publish(shared: &Arc<Shared>, client: &str, body: &[u8], grant: &Grant) {
    let Ok(decode::Connect { version, will: Some(will), .. }) = decode::connect(body) else { return };
    if !grant.may_publish(will.topic) {
        return;
    }
    let retain = will.retain && (will.payload.is_empty() || shared.hub.admits(will.topic, will.payload.len() + 128));
    let said = if version == Version::V5 { will.props.about() } else { About::default() };
    let about = About { topic: will.topic, client: Some(client), qos: will.qos, retain, ..said };
    let mut gather = Gather::default();
    if inbound::take(shared, &mut gather, &Post { about, payload: will.payload, meta: None }).is_err() {
        return;
    }
    if let (_, Err(refusal)) = gather.commit(shared.clone()).await {
        shared.hub.full.begins(|| format!("sources.{}: messages are refused: {refusal}", shared.owner()));
    }
}

/// Takes up the sessions and retained messages that the store has; gives a task to run for each session.
pub async fn restore(
    shared: &Arc<Shared>,
) -> Result<Vec<impl Future<Output = ()> + Send + use<>>, crate::store::Refusal> {
    let (store, owner) = (shared.intake.store(), shared.owner());
    for (key, value) in store.state(owner, b"retained/", shared.config.retained).await? {
        let topic = std::str::from_utf8(&key).ok().and_then(|k| k.strip_prefix("retained/"));
        if let (Some(topic), Some(kept)) = (topic, super::payload::Kept::from_value(value)) {
            shared.hub.retain(topic, (0, 0), Some(kept));
        }
    }
    let mut tasks = Vec::new();
    for client in rows::clients(store, owner, shared.config.max_sessions).await? {
        let Some((mut session, until)) = rows::restore(store, &shared.hub, owner, &client).await? else { continue };
        shared.hub.set_lasting(&client, true);
        let (claim, _) = shared.hub.claim(&client);
        if !session.subs.is_empty() {
            subscribe::hold(shared, &mut session).await?;
        }
        for sub in session.subs.iter().filter(|s| s.is_shared()) {
            shared.hub.share(&sub.filter, &client, true);
        }
        let whole = i64::from(session.expiry) * 1000;
        let left = until.map_or(whole, |until| until.saturating_sub(clock::steady_ms())).clamp(0, whole);
        let (shared, left) = (shared.clone(), Duration::from_millis(left.unsigned_abs()));
        tasks.push(async move { keep(&shared, session, claim, None, left, &Grant::default()).await });
    }
    Ok(tasks)
}
