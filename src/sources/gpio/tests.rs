use super::super::tests::{bodies, build, intake};
use super::ring::CAPACITY;
use super::*;
use serde_json::json;
use std::collections::VecDeque;

/// What scripted lines do next.
enum Step {
    Edge(Edge),
    Levels(Vec<bool>),
    Wait(u64),
    Unplugged,
}

struct Script {
    steps: VecDeque<Step>,
    levels: Vec<bool>,
}

#[async_trait]
impl Inputs for Script {
    async fn edge(&mut self) -> Result<Edge, Fault> {
        loop {
            // Dropping the future must lose nothing: a step is over when it is taken off.
            match self.steps.front() {
                Some(Step::Wait(ms)) => time::sleep(Duration::from_millis(*ms)).await,
                Some(Step::Levels(levels)) => self.levels.clone_from(levels),
                Some(Step::Edge(edge)) => {
                    let edge = *edge;
                    self.steps.pop_front();
                    if let Some(level) = self.levels.get_mut(edge.line) {
                        *level = edge.rising;
                    }
                    return Ok(edge);
                }
                Some(Step::Unplugged) | None => return Err(Fault::retry("the line is gone")),
            }
            self.steps.pop_front();
        }
    }

    fn level(&mut self, line: usize) -> Result<bool, Fault> {
        match self.steps.front() {
            Some(Step::Unplugged) => return Err(Fault::retry("the line is gone")),
            Some(Step::Levels(levels)) => {
                self.levels.clone_from(levels);
                self.steps.pop_front();
            }
            _ => {}
        }
        Ok(self.levels[line])
    }
}

fn edge(line: usize, seq: u32, rising: bool) -> Step {
    Step::Edge(Edge { line, rising, mono_ms: u64::from(seq), seq })
}

fn gpio(config: &serde_json::Value) -> Gpio {
    Gpio::new(serde_json::from_value(config.clone()).unwrap()).unwrap()
}

/// What the events of scripted lines are.
async fn told(config: serde_json::Value, steps: Vec<Step>) -> Vec<String> {
    let (intake, store) = intake(1000).await;
    let mut gpio = gpio(&config);
    let levels = vec![false; gpio.lines.len()];
    let mut script = Script { steps: steps.into(), levels };
    let ended = gpio.follow(&mut script, &intake).await.unwrap_err();
    assert_eq!(ended.to_string(), "the line is gone");
    while !gpio.ring.is_empty() {
        let batch = gpio.take(&intake).unwrap();
        intake.append(batch).await.unwrap();
    }
    bodies(&store).await
}

#[tokio::test]
async fn edges_become_events() {
    let first = r#"{"line":"GPIO17","value":false}"#;
    for (config, steps, want) in [
        (
            json!({ "line": "GPIO17" }),
            vec![edge(0, 1, true), Step::Wait(5), edge(0, 2, false)],
            vec![
                first,
                r#"{"line":"GPIO17","value":true,"edge":"rising","seq":1}"#,
                r#"{"line":"GPIO17","value":false,"edge":"falling","seq":2}"#,
            ],
        ),
        // The kernel had no room for some; the numbers wrap around.
        (
            json!({ "line": "GPIO17", "edge": "rising" }),
            vec![edge(0, 3, true), edge(0, 4, true), edge(0, u32::MAX, true), edge(0, 0, true), edge(0, 2, true)],
            vec![
                r#"{"line":"GPIO17","value":true,"edge":"rising","seq":3,"lost":2}"#,
                r#"{"line":"GPIO17","value":true,"edge":"rising","seq":4}"#,
                r#"{"line":"GPIO17","value":true,"edge":"rising","seq":4294967295,"lost":4294967290}"#,
                r#"{"line":"GPIO17","value":true,"edge":"rising","seq":0}"#,
                r#"{"line":"GPIO17","value":true,"edge":"rising","seq":2,"lost":1}"#,
            ],
        ),
        (
            json!({ "lines": { "door": "pin 11", "bell \"2\"": "pin 13" }, "edge": "falling" }),
            vec![edge(1, 1, false), edge(0, 1, false), edge(7, 1, false)],
            vec![
                r#"{"line":"door","value":false,"edge":"falling","seq":1}"#,
                r#"{"line":"bell \"2\"","value":false,"edge":"falling","seq":1}"#,
            ],
        ),
    ] {
        assert_eq!(told(config, steps).await, want);
    }
}

#[tokio::test]
async fn an_event_has_the_time_of_its_edge() {
    let (intake, store) = intake(1000).await;
    let mut gpio = gpio(&json!({ "line": "GPIO17", "edge": "rising" }));
    let steps = [edge(0, 5, true)].into();
    gpio.follow(&mut Script { steps, levels: vec![false] }, &intake).await.unwrap_err();
    if !gpio.ring.is_empty() {
        let batch = gpio.take(&intake).unwrap();
        intake.append(batch).await.unwrap();
    }
    let topics = ["in".into()];
    let consumer = store.consumer("test", &topics, crate::store::Start::Oldest).await.unwrap();
    let lot = store.reader(consumer, &topics).next(10, 1 << 20).await.unwrap();
    assert_eq!((lot.events[0].time, lot.events[0].key.as_str()), (Some(When::Sampled(5)), "GPIO17"));
}

#[tokio::test(start_paused = true)]
async fn levels_are_told_by_the_policy() {
    let levels = |all: &[bool]| -> Vec<Step> {
        let steps = all.iter().map(|level| Step::Levels(vec![*level]));
        steps.chain([Step::Unplugged]).collect()
    };
    let [off, on] = [r#"{"line":"GPIO17","value":false}"#, r#"{"line":"GPIO17","value":true}"#];
    for (config, want) in [
        (json!({ "line": "GPIO17", "poll": "1s" }), vec![off, off, on, on, on, on, off]),
        (json!({ "line": "GPIO17", "poll": "1s", "report": "change" }), vec![off, on, off]),
        (
            json!({ "line": "GPIO17", "poll": "1s", "report": "change", "at_least": "1ms" }),
            vec![off, off, on, on, on, on, off],
        ),
        (json!({ "line": "GPIO17", "poll": "1s", "report": "change", "at_least": "1h" }), vec![off, on, off]),
    ] {
        let mut gpio = gpio(&config);
        let mut script =
            Script { steps: levels(&[false, false, true, true, true, true, false]).into(), levels: vec![false] };
        for _ in 0..7 {
            // Real time passes between two readings, since `at_least` is about that.
            std::thread::sleep(Duration::from_millis(2));
            gpio.read(&mut script, gpio.report == Report::Always).unwrap();
        }
        assert!(gpio.read(&mut script, true).is_err());
        let mut told = Vec::new();
        while let Some(reading) = gpio.ring.pop() {
            let mut body = Vec::new();
            reading.write("GPIO17", &mut body);
            told.push(String::from_utf8(body).unwrap());
        }
        assert_eq!(told, want, "{config}");
    }
}

#[tokio::test]
async fn polling_goes_on_until_the_line_is_gone() {
    let (intake, store) = intake(1000).await;
    let mut gpio = gpio(&json!({ "line": "GPIO17", "poll": "10ms" }));
    let steps =
        [true, true, false].map(|level| Step::Levels(vec![level])).into_iter().chain([Step::Unplugged]).collect();
    let ended = gpio.follow(&mut Script { steps, levels: vec![false] }, &intake).await.unwrap_err();
    assert_eq!(ended.to_string(), "the line is gone");
    assert_eq!(bodies(&store).await[..2], [r#"{"line":"GPIO17","value":true}"#; 2]);
}

#[test]
fn the_oldest_is_dropped_and_counted() {
    let reading = |line, seq: u32, lost| Reading { line, active: true, mono_ms: 0, seq: Some(seq), lost };
    let mut ring = Ring::default();
    ring.push(reading(1, 1, 3));
    for seq in 1..=CAPACITY as u32 + 9 {
        ring.push(reading(0, seq, 0));
    }
    // The other line has no reading left that could say so; its edges' numbers do.
    let mut taken: Vec<Reading> = std::iter::from_fn(|| ring.pop()).collect();
    assert_eq!(taken.len(), CAPACITY);
    assert_eq!((taken[0].clone(), taken[1].clone()), (reading(0, 10, 9), reading(0, 11, 0)));
    // Ten more come while these cannot be written: they are put back without the ten oldest.
    for seq in 300..310 {
        ring.push(reading(0, seq, 0));
    }
    ring.put_back(&mut taken);
    let all: Vec<Reading> = std::iter::from_fn(|| ring.pop()).collect();
    assert_eq!((all.len(), taken.len()), (CAPACITY, 0));
    assert_eq!((all[0].clone(), all[CAPACITY - 1].clone()), (reading(0, 20, 19), reading(0, 309, 0)));
    assert!(all[1..].iter().all(|r| r.lost == 0));
}

#[tokio::test(start_paused = true)]
async fn what_a_full_store_refuses_is_kept() {
    let (intake, store) = intake(1000).await;
    let mut gpio = gpio(&json!({ "line": "GPIO17", "edge": "rising" }));
    for seq in [1, 2, 5] {
        gpio.edge(&Edge { line: 0, rising: true, mono_ms: 0, seq });
    }
    let batch = gpio.take(&intake).unwrap();
    assert_eq!((batch.len(), gpio.lost, gpio.taken.len()), (3, 2, 3));
    let wait = gpio.written(Err(Refusal::Full), &intake).unwrap();
    assert_eq!(wait, Some(time::Instant::now() + REFUSED));
    assert_eq!((gpio.lost, gpio.taken.len()), (0, 0));
    gpio.edge(&Edge { line: 0, rising: true, mono_ms: 0, seq: 6 });
    let batch = gpio.take(&intake).unwrap();
    let result = intake.append(batch).await;
    assert_eq!(gpio.written(result, &intake).unwrap(), None);
    let all = bodies(&store).await;
    assert_eq!((all.len(), gpio.lost, gpio.taken.len()), (4, 2, 0));
    assert_eq!(all[2], r#"{"line":"GPIO17","value":true,"edge":"rising","seq":5,"lost":2}"#);
    let closed = gpio.written(Err(Refusal::Closed), &intake).unwrap_err();
    assert!(matches!(closed, Fault::Retry(_)), "{closed}");
}

#[test]
fn a_wrong_configuration_is_told() {
    for (config, want) in [
        (r#"{ "line": "GPIO17" }"#, ""),
        (r#"{ "lines": { "door": "pin 11" }, "poll": "10ms", "report": "change", "at_least": "1m" }"#, ""),
        ("{}", "expected either `line` or `lines`"),
        (r#"{ "line": "GPIO17", "lines": { "door": "pin 11" } }"#, "expected either `line` or `lines`"),
        (r#"{ "line": "" }"#, "line: `` names no line"),
        (r#"{ "line": "GPIO17", "debounce": "11s" }"#, "debounce: expected at most 10s"),
        (r#"{ "line": "GPIO17", "poll": "9ms" }"#, "poll: expected at least 10ms"),
        (r#"{ "line": "GPIO17", "report": "change" }"#, "poll: is missing"),
        (r#"{ "line": "GPIO17", "poll": "1s", "at_least": "1m" }"#, "at_least: has a meaning only with"),
        (r#"{ "line": "GPIO17", "edge": "none" }"#, "edge: unknown variant `none`"),
    ] {
        let told = build(&KIND, config).err().unwrap_or_default();
        assert!(told.starts_with(want) && told.is_empty() == want.is_empty(), "{config}: {told}");
    }
}

/// There is no chip where tests run; on a board this test says nothing.
#[tokio::test]
async fn a_machine_without_chips_says_so() {
    let (intake, _store) = intake(1000).await;
    if crate::board::chips().is_err() {
        let mut source = build(&KIND, KIND.example).unwrap();
        let fault = source.run(&intake).await.unwrap_err();
        assert!(matches!(fault, Fault::Retry(_)));
        assert!(fault.to_string().starts_with("this machine has no GPIO chips (no /dev/gpiochip*)"), "{fault}");
    }
}
