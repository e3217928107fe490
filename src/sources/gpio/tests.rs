use super::super::tests::{bodies, build, intake};
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

/// Writes what was not written when the lines were gone.
async fn rest(gpio: &mut Gpio, intake: &Intake) {
    let lines = &gpio.lines;
    let batch = gpio.recent.take(intake, |reading, out| lines[reading.of].write(reading, out)).unwrap();
    if !batch.is_empty() {
        intake.append(batch).await.unwrap();
    }
}

/// What the events of scripted lines are.
async fn told(config: serde_json::Value, steps: Vec<Step>) -> Vec<String> {
    let (intake, store) = intake(1000).await;
    let mut gpio = gpio(&config);
    let levels = vec![false; gpio.lines.len()];
    let mut script = Script { steps: steps.into(), levels };
    let ended = gpio.follow(&mut script, &intake).await.unwrap_err();
    assert_eq!(ended.to_string(), "the line is gone");
    rest(&mut gpio, &intake).await;
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
    rest(&mut gpio, &intake).await;
    let topics = ["in".into()];
    let consumer = store.consumer("test", &topics, crate::store::Start::Oldest).await.unwrap();
    let lot = store.reader(consumer, &topics).next(10, 1 << 20).await.unwrap();
    assert_eq!((lot.events[0].time, lot.events[0].key.as_str()), (Some(crate::event::When::Sampled(5)), "GPIO17"));
}

#[tokio::test(start_paused = true)]
async fn levels_are_told_by_the_policy() {
    let levels = |all: &[bool]| -> Vec<Step> {
        let steps = all.iter().map(|level| Step::Levels(vec![*level]));
        steps.chain([Step::Unplugged]).collect()
    };
    let [off, on] = [r#"{"line":"GPIO17","value":false}"#, r#"{"line":"GPIO17","value":true}"#];
    let poll = |report: serde_json::Value| json!({ "line": "GPIO17", "poll": "1s", "report": report });
    for (config, want) in [
        (json!({ "line": "GPIO17", "poll": "1s" }), vec![off, off, on, on, on, on, off]),
        (poll(json!({ "when": "change" })), vec![off, on, off]),
        (poll(json!({ "when": "change", "at_least": "1ms" })), vec![off, off, on, on, on, on, off]),
        (poll(json!({ "when": "change", "at_least": "1h" })), vec![off, on, off]),
    ] {
        let (intake, store) = intake(1000).await;
        let mut gpio = gpio(&config);
        let mut script =
            Script { steps: levels(&[false, false, true, true, true, true, false]).into(), levels: vec![false] };
        for _ in 0..7 {
            // Real time passes between two readings, since `at_least` is about that.
            std::thread::sleep(Duration::from_millis(2));
            gpio.read(&mut script).unwrap();
        }
        assert!(gpio.read(&mut script).is_err());
        rest(&mut gpio, &intake).await;
        assert_eq!(bodies(&store).await, want, "{config}");
    }
}

#[tokio::test]
async fn a_level_that_an_edge_told_is_no_change() {
    let config = json!({ "line": "GPIO17", "edge": "rising", "poll": "1s", "report": { "when": "change" } });
    let (intake, store) = intake(1000).await;
    let mut gpio = gpio(&config);
    let mut script = Script { steps: VecDeque::new(), levels: vec![true] };
    gpio.edge(&Edge { line: 0, rising: true, mono_ms: 0, seq: 1 });
    gpio.read(&mut script).unwrap();
    script.levels = vec![false];
    gpio.read(&mut script).unwrap();
    rest(&mut gpio, &intake).await;
    let edge = r#"{"line":"GPIO17","value":true,"edge":"rising","seq":1}"#;
    assert_eq!(bodies(&store).await, [edge, r#"{"line":"GPIO17","value":false}"#]);
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
fn a_wrong_configuration_is_told() {
    for (config, want) in [
        (r#"{ "line": "GPIO17" }"#, ""),
        (r#"{ "lines": { "door": "pin 11" }, "poll": "10ms", "report": { "when": "change", "at_least": "1m" } }"#, ""),
        ("{}", "expected either `line` or `lines`"),
        (r#"{ "line": "GPIO17", "lines": { "door": "pin 11" } }"#, "expected either `line` or `lines`"),
        (r#"{ "line": "" }"#, "line: `` names no line"),
        (r#"{ "line": "GPIO17", "debounce": "11s" }"#, "debounce: expected at most 10s"),
        (r#"{ "line": "GPIO17", "poll": "9ms" }"#, "poll: expected at least 10ms"),
        (r#"{ "line": "GPIO17", "report": { "when": "change" } }"#, "poll: is missing"),
        (
            r#"{ "line": "GPIO17", "poll": "1s", "report": { "when": { "band": 0 } } }"#,
            "report.when: expected a number above 0",
        ),
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
