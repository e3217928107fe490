use super::super::tests::{bodies, intake, intake_of};
use super::*;
use crate::{
    kind::Fields,
    store::{Options, Start, Store},
};
use serde_json::Value;
use std::sync::atomic::{AtomicU32, Ordering};

/// A probe out of a function of how often it was read.
struct Script<F>(u32, F);

impl<F: FnMut(u32, &mut dyn FnMut(Taken)) -> Result<(), Trouble> + Send + 'static> Probe for Script<F> {
    fn read(&mut self, tell: &mut dyn FnMut(Taken)) -> Result<(), Trouble> {
        self.0 += 1;
        (self.1)(self.0, tell)
    }
}

type Read = Box<dyn FnMut(u32, &mut dyn FnMut(Taken)) -> Result<(), Trouble> + Send>;

fn of(values: &[f64]) -> Taken {
    Taken::now(None, Ok(values.iter().copied().collect()))
}

fn probes(alone: bool, all: Vec<(&str, u64, Read)>) -> Probes<Script<Read>> {
    let mut probes = Probes::new("device", alone);
    for (name, every_ms, read) in all {
        let fields = ["a", "b"].map(|field| (field.to_owned(), Policy::default())).to_vec();
        probes.add(name, Duration::from_millis(every_ms), fields, Script(0, read));
    }
    probes
}

async fn run(probes: &mut Probes<Script<Read>>, intake: &Intake, ms: u64) -> Option<Fault> {
    let run = tokio::time::timeout(Duration::from_millis(ms), probes.run(intake));
    run.await.ok().map(|ended| ended.unwrap_err())
}

fn only(all: &[String], key: &str) -> Vec<Value> {
    let parsed = all.iter().map(|body| serde_json::from_str::<Value>(body).unwrap());
    parsed.filter(|body| body["device"] == key).collect()
}

#[tokio::test]
async fn what_fails_or_hangs_does_not_hold_up_the_others() {
    let good = |_, tell: &mut dyn FnMut(Taken)| -> Result<(), Trouble> {
        tell(of(&[1.5, 2e20]));
        Ok(())
    };
    static TRIED: AtomicU32 = AtomicU32::new(0);
    let dead = |_, _: &mut dyn FnMut(Taken)| {
        TRIED.fetch_add(1, Ordering::Relaxed);
        Err(Trouble::Failed("nobody answers".into()))
    };
    let hangs = |_, _: &mut dyn FnMut(Taken)| {
        std::thread::sleep(Duration::from_secs(4));
        Ok(())
    };
    let panics = |n, tell: &mut dyn FnMut(Taken)| {
        assert!(n > 1, "planted");
        tell(of(&[3.0, 4.0]));
        Ok(())
    };
    let all: Vec<(&str, u64, Read)> = vec![
        ("good", 100, Box::new(good)),
        ("dead", 100, Box::new(dead)),
        ("hangs", 100, Box::new(hangs)),
        ("panics", 100, Box::new(panics)),
    ];
    let (intake, store) = intake(1000).await;
    let mut probes = probes(false, all);
    assert!(run(&mut probes, &intake, 2500).await.is_none());
    let all = bodies(&store).await;
    let good = only(&all, "good");
    assert!((15..=26).contains(&good.len()), "{}", good.len());
    assert_eq!(all[0], r#"{"device":"good","a":1.5,"b":2e20}"#);
    // At once, after 1 s; the next would come after 2 s more.
    assert_eq!(TRIED.load(Ordering::Relaxed), 2);
    assert!(only(&all, "hangs").is_empty());
    assert_eq!(probes.things[1].failing.unwrap().1, 2);
    assert!(!only(&all, "panics").is_empty());
}

#[tokio::test]
async fn on_a_bus_one_is_read_at_a_time() {
    static BUSY: AtomicU32 = AtomicU32::new(0);
    let read = |_, tell: &mut dyn FnMut(Taken)| -> Result<(), Trouble> {
        assert_eq!(BUSY.fetch_add(1, Ordering::SeqCst), 0);
        std::thread::sleep(Duration::from_millis(20));
        BUSY.fetch_sub(1, Ordering::SeqCst);
        tell(of(&[1.0, 2.0]));
        Ok(())
    };
    let (intake, store) = intake(1000).await;
    let mut probes = probes(true, vec![("x", 100, Box::new(read)), ("y", 100, Box::new(read))]);
    assert!(run(&mut probes, &intake, 1500).await.is_none());
    let all = bodies(&store).await;
    assert!(only(&all, "x").len() >= 5 && only(&all, "y").len() >= 5, "{}", all.len());
}

#[tokio::test]
async fn a_reading_that_takes_too_long_is_told() {
    let (intake, _store) = intake(1000).await;
    let mut probes = probes(true, vec![("x", 20, Box::new(|_, _: &mut dyn FnMut(Taken)| Ok(())))]);
    let under = |since| Under { task: tokio::spawn(async {}).id(), since, late: false };
    for (since, late) in [(Instant::now(), false), (Instant::now() - LIMIT, true)] {
        probes.places[0].reading = Some(under(since));
        probes.late(&intake);
        assert_eq!((probes.places[0].reading.as_ref().unwrap().late, probes.things[0].failing.is_some()), (late, late));
    }
    // Nothing else may begin on its bus.
    assert!(probes.first().is_none());
}

#[tokio::test]
async fn broken_values_are_no_events() {
    let read = |n, tell: &mut dyn FnMut(Taken)| -> Result<(), Trouble> {
        match n {
            1 => tell(of(&[f64::NAN, 2.0])),
            2 => tell(of(&[f64::INFINITY, f64::NAN])),
            3 => tell(of(&[5.0, 6.0])),
            _ => return Err(Trouble::Gone("the bus is gone".into())),
        }
        Ok(())
    };
    let (intake, store) = intake(1000).await;
    let mut probes = probes(false, vec![("x", 20, Box::new(read))]);
    let ended = run(&mut probes, &intake, 10_000).await.unwrap();
    assert!(matches!(&ended, Fault::Retry(why) if why.to_string() == "the bus is gone"), "{ended}");
    // What waits when the bus is gone is written when it is there again.
    assert!(run(&mut probes, &intake, 600).await.is_none_or(|ended| matches!(ended, Fault::Retry(_))));
    let batch = probes.take(&intake).unwrap();
    if !batch.is_empty() {
        intake.append(batch).await.unwrap();
    }
    assert_eq!(bodies(&store).await, [r#"{"device":"x","b":2}"#, r#"{"device":"x","a":5,"b":6}"#]);
    assert!(probes.things[0].failing.is_none());
}

/// A store that is full refuses; what fits into the memory is not lost, and the rest is counted.
#[tokio::test]
async fn what_the_store_refuses_is_kept_and_counted() {
    let (intake, store) = intake(1000).await;
    let mut probes = probes(false, vec![("x", 20, Box::new(|_, _: &mut dyn FnMut(Taken)| Ok(())))]);
    for n in 0..KEPT as u32 + 44 {
        probes.taken(0, of(&[f64::from(n), 0.0]), &intake);
        if n == 99 {
            let taken = probes.take(&intake).unwrap();
            assert_eq!(taken.len(), 100);
        }
        if n == 199 {
            probes.recent.written(Err(crate::store::Refusal::Full), &intake).unwrap();
        }
    }
    let batch = probes.take(&intake).unwrap();
    assert_eq!(batch.len(), KEPT);
    intake.append(batch).await.unwrap();
    let all = only(&bodies(&store).await, "x");
    assert_eq!((&all[0]["a"], &all[0]["lost"], &all[1]["lost"]), (&44.into(), &44.into(), &Value::Null));
    assert_eq!(all[KEPT - 1]["a"], KEPT + 43);
}

#[tokio::test]
async fn an_event_has_the_time_of_its_reading_and_its_key() {
    let store = Store::open(Options::default()).unwrap();
    let topics = ["in".into()];
    let consumer = store.consumer("test", &topics, Start::Oldest).await.unwrap();
    let intake = intake_of(&store, 1000);
    let mut probes = probes(false, vec![("x", 20, Box::new(|_, _: &mut dyn FnMut(Taken)| Ok(())))]);
    let values = Ok(Values::from_array([1.0]));
    probes.taken(0, Taken { id: Some("28-\"1".into()), mono_ms: 5, values }, &intake);
    let batch = probes.take(&intake).unwrap();
    intake.append(batch).await.unwrap();
    let lot = store.reader(consumer, &topics).next(10, 1 << 20).await.unwrap();
    assert_eq!((lot.events[0].time, lot.events[0].key.as_str()), (Some(crate::event::When::Sampled(5)), "x/28-\"1"));
    let small = Intake::new("in", Fields { max_event: 10, priority: 4, ..Fields::default() }, store.clone(), None);
    probes.taken(0, of(&[1.0]), &small);
    assert!(matches!(probes.take(&small), Err(Fault::Fatal(_))));
}
