use super::{
    super::tests::{bodies, build, intake, open},
    framing::tests::{Case, cases, garbage},
    *,
};
use crate::{
    event::{Batch, When},
    kind::{Before, Fields},
    store::{Start, Store},
};
use rustix::{
    fs::OFlags,
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{LocalModes, tcgetattr},
};
use serde_json::{Value, json};
use std::{
    fs::File,
    io::Write,
    os::unix::fs::symlink,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

/// The device's end of a pty, and the port.
pub fn pty() -> (File, PathBuf) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    rustix::fs::fcntl_setfl(&master, OFlags::empty()).unwrap();
    let path = ptsname(&master, Vec::new()).unwrap();
    (File::from(master), PathBuf::from(path.into_string().unwrap()))
}

/// Waits until `done`, for as long as a busy machine may need.
async fn until<T>(what: &str, mut done: impl AsyncFnMut() -> Option<T>) -> T {
    for _ in 0..3000 {
        if let Some(done) = done().await {
            return done;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}

/// Until the port is open and set.
pub async fn opened(device: &File) {
    until("the port is opened", async || {
        (!tcgetattr(device).unwrap().local_modes.contains(LocalModes::ICANON)).then_some(())
    })
    .await;
}

/// Sends, from a thread of its own since the port may be read slowly.
pub async fn send(device: &File, bytes: Vec<u8>) {
    let mut device = device.try_clone().unwrap();
    tokio::task::spawn_blocking(move || device.write_all(&bytes).unwrap()).await.unwrap();
}

/// Runs a source as the runtime does, for ever; what went wrong is told.
async fn again_and_again(mut source: Box<dyn Source>, intake: Intake, faults: tokio::sync::mpsc::Sender<String>) {
    loop {
        let fault = source.run(&intake).await.unwrap_err();
        assert!(matches!(fault, Fault::Retry(_)), "{fault}");
        faults.try_send(fault.to_string()).ok();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The bodies that frames of these contents become.
fn expected(case: &Case, contents: &[Vec<u8>]) -> Vec<String> {
    let framing: Framing = serde_json::from_value(case.config.clone()).unwrap();
    let shape = Shape::new(&framing, None, None).unwrap();
    let mut body = Vec::new();
    let text = |content: &Vec<u8>| {
        assert!(shape.write(content, &mut body));
        String::from_utf8(body.clone()).unwrap()
    };
    contents.iter().map(text).collect()
}

async fn arrives(store: &Store, what: &str, want: &[String]) {
    let mut got = Vec::new();
    for _ in 0..3000 {
        got = bodies(store).await;
        if got.ends_with(want) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what}: {} came, the last {:?}, not {:?}", got.len(), got.last(), want.last());
}

/// A device speaks, is torn, goes mad, is unplugged and plugged in again elsewhere.
async fn goes_through_all(case: &Case, bytes_of_garbage: usize) {
    let folder = tempfile::tempdir().unwrap();
    let stable = folder.path().join("usb-sensor");
    let (device, path) = pty();
    symlink(&path, &stable).unwrap();
    let gap = Duration::from_millis(case.gap_ms.unwrap_or_default());
    let mut config = json!({ "path": stable, "framing": case.config, "flow": "rts_cts", "linger": "0ms" });
    if case.check.is_some() {
        config["check"] = json!("crc16-modbus");
    }
    if case.gap_ms.is_some() {
        config["gap"] = json!("50ms");
    }
    let (intake, store) = intake(100_000).await;
    let (faults, mut told) = tokio::sync::mpsc::channel(100);
    let source = build(&KIND, &config.to_string()).unwrap();
    let running = tokio::spawn(again_and_again(source, intake, faults));
    let mut random = fastrand::Rng::with_seed(4);

    opened(&device).await;
    let contents = case.contents(&mut random, 20);
    send(&device, case.stream(&contents)).await;
    arrives(&store, case.name, &expected(case, &contents)).await;
    assert_eq!(bodies(&store).await.len(), 20, "{}", case.name);

    let contents = case.contents(&mut random, 20);
    let torn = (case.encode)(&contents[0]);
    send(&device, torn[..torn.len() / 2].to_vec()).await;
    tokio::time::sleep(gap * 2).await;
    send(&device, case.stream(&contents[1..])).await;
    arrives(&store, case.name, &expected(case, &contents[17..])).await;

    let mut left = bytes_of_garbage;
    while left > 0 {
        let bytes = garbage(case, &mut random, left.min(1 << 16));
        left -= bytes.len();
        send(&device, bytes).await;
    }
    tokio::time::sleep(Duration::from_millis(100) + gap * 2).await;
    let contents = case.contents(&mut random, 400);
    send(&device, case.stream(&contents)).await;
    arrives(&store, case.name, &expected(case, &contents[399..])).await;

    assert_eq!(told.try_recv().ok(), None, "{}", case.name);
    drop(device);
    assert_eq!(told.recv().await.unwrap(), format!("`{}` is gone", stable.display()));
    std::fs::remove_file(&stable).unwrap();
    let missing = format!("cannot open `{}`: it is not there; is the device plugged in?", stable.display());
    while told.recv().await.unwrap() != missing {}
    let held = std::fs::read_dir("/proc/self/fd").unwrap().filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok());
    let closed = format!("{} (deleted)", path.display());
    assert!(!held.into_iter().any(|open| open == Path::new(&closed)), "{closed} is still open");

    let (device, path) = pty();
    symlink(&path, &stable).unwrap();
    opened(&device).await;
    let contents = case.contents(&mut random, 5);
    send(&device, case.stream(&contents)).await;
    arrives(&store, case.name, &expected(case, &contents)).await;
    running.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_framing_goes_through_all_over_a_pty() {
    for case in cases() {
        goes_through_all(&case, 50_000).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes"]
async fn every_framing_goes_through_much_garbage_over_a_pty() {
    for case in cases() {
        goes_through_all(&case, 10_000_000).await;
    }
}

#[test]
fn a_wrong_configuration_is_told() {
    for (config, want) in [
        (json!({"path": "/dev/x"}), "ok"),
        (json!({"path": "ttyUSB0"}), "path: expected an absolute path"),
        (json!({"path": "/dev/x", "baud": 0}), "baud: expected 1 to 20000000"),
        (json!({"path": "/dev/x", "data_bits": 9}), "data_bits: expected 5 to 8"),
        (json!({"path": "/dev/x", "stop_bits": 3}), "stop_bits: expected 1 or 2"),
        (json!({"path": "/dev/x", "parity": "mark"}), "parity: unknown variant `mark`"),
        (json!({"path": "/dev/x", "rs485": {"delay": "1ms"}}), "rs485.delay: unknown field `delay`"),
        (json!({"path": "/dev/x", "rs485": {"delay_before": "1ms"}}), "ok"),
        (json!({"path": "/dev/x", "max_frame": "65KiB"}), "max_frame: expected 1 to 64KiB"),
        (json!({"path": "/dev/x", "line_end": "\r"}), "ok"),
        (json!({"path": "/dev/x", "line_end": "0x1"}), "line_end: `0x1` is not 1 to 8 bytes"),
        (json!({"path": "/dev/x", "line_end": ""}), "line_end: `` is not 1 to 8 bytes"),
        (json!({"path": "/dev/x", "framing": "slip", "line_end": "\r"}), "line_end: it is for the framing `lines`"),
        (json!({"path": "/dev/x", "framing": "lines", "check": "crc32"}), "check: text has no checksum"),
        (json!({"path": "/dev/x", "framing": "json", "field": "a"}), "field: it does not go with this framing"),
        (json!({"path": "/dev/x", "framing": "nmea", "encoding": "hex"}), "encoding: it does not go with"),
        (json!({"path": "/dev/x", "framing": "cobs", "encoding": "json"}), "ok"),
        (json!({"path": "/dev/x", "framing": "cobs", "encoding": "json", "field": "x"}), "field: it does not"),
        (json!({"path": "/dev/x", "framing": {"fixed": {"length": 0}}}), "framing.fixed.length: expected 1 to 4096"),
        (
            json!({"path": "/dev/x", "check": "crc32", "framing": {"fixed": {"length": 6, "start": "0xaabb"}}}),
            "framing.fixed.length: expected 7 to 4096",
        ),
        (json!({"path": "/dev/x", "framing": {"length": {"size": 3}}}), "framing.length.size: expected 1, 2 or 4"),
        (
            json!({"path": "/dev/x", "framing": {"length": {"size": 1, "offset": 1, "start": "ab"}}}),
            "framing.length.offset: the length cannot lie within `start`",
        ),
        (
            json!({"path": "/dev/x", "max_frame": 8, "framing": {"length": {"size": 4, "offset": 4}}}),
            "framing.length: a frame has 8 bytes without any content, and `max_frame` is 8",
        ),
        (
            json!({"path": "/dev/x", "framing": {"delimited": {"end": "0x03", "escape": "0x0303"}}}),
            "framing.delimited.escape: expected one byte",
        ),
        (
            json!({"path": "/dev/x", "framing": {"delimited": {"end": "0x03", "escape": "0x03"}}}),
            "framing.delimited.escape: it is also `start` or `end`",
        ),
        (json!({"path": "/dev/x", "gap": "1ms"}), "gap: expected 10ms or more"),
        (json!({"path": "/dev/x", "linger": "2m"}), "linger: expected at most 60s"),
    ] {
        let told = build(&KIND, &config.to_string()).map_or_else(|told| told, |_| "ok".into());
        assert!(told.starts_with(want), "{config}: {told}");
    }
}

#[tokio::test]
async fn a_port_that_cannot_be_had_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let ((_device, path), (_other, taken)) = (pty(), pty());
    let line = |path: &Path, data_bits| Line {
        path: path.to_owned(),
        baud: 12_345,
        data_bits,
        parity: Parity::None,
        stop_bits: 2,
        flow: Flow::XonXoff,
        rs485: None,
    };
    let _held = line(&taken, 8).open().unwrap_or_else(|fault| panic!("{fault}"));
    for (path, data_bits, want) in [
        (folder.path().join("gone").as_path(), 8, "it is not there; is the device plugged in?"),
        (&file, 8, "it is no serial port"),
        (&taken, 8, "another program, or another source, has it open"),
        // A pty has only bytes of eight bits.
        (&path, 7, "it does not take this speed, parity, flow control or number of bits"),
        (&path, 8, ""),
    ] {
        let told = line(path, data_bits).open().map_or_else(|fault| fault.to_string(), |_| String::new());
        let want = if want.is_empty() { String::new() } else { format!("cannot open `{}`: {want}", path.display()) };
        assert_eq!(told, want);
    }
}

/// A store that refuses when told to.
struct Refusing(AtomicBool);

#[async_trait]
impl Before for Refusing {
    async fn pass(&self, _: &Arc<str>, _: u8, _: &Batch) -> Result<(), String> {
        if self.0.load(Ordering::Relaxed) { Err("no".into()) } else { Ok(()) }
    }
}

/// Sample times, metas and bodies of all events.
async fn events(store: &Store) -> Vec<(u64, Value, Value)> {
    let topics = ["in".into()];
    let consumer = store.consumer("test", &topics, Start::Oldest).await.unwrap();
    let mut reader = store.reader(consumer, &topics);
    let mut events = Vec::new();
    let value = |bytes: &[u8]| serde_json::from_slice(bytes).unwrap();
    while let Some(lot) = reader.poll(10_000, 1 << 20).await.unwrap() {
        events.extend(lot.events.iter().map(|e| match e.time {
            Some(When::Sampled(mono)) => (mono, value(&e.meta), value(&e.body.to_bytes())),
            other => panic!("{other:?}"),
        }));
    }
    events
}

#[tokio::test]
async fn what_a_full_store_refuses_is_kept_up_to_a_limit_and_counted() {
    let store = open(None).await;
    let refusing = Arc::new(Refusing(AtomicBool::new(true)));
    let fields = Fields { max_event: 1000, priority: 4, ..Fields::default() };
    let intake = Intake::new("in", fields, store.clone(), Some(refusing.clone()));
    let line = Line {
        path: "/dev/x".into(),
        baud: 9600,
        data_bits: 8,
        parity: Parity::None,
        stop_bits: 1,
        flow: Flow::None,
        rs485: None,
    };
    let waiting = Waiting::new(&line, false);
    let committing = waiting.commit(&intake, Duration::ZERO);
    let coming = async {
        for n in 0..20_000 {
            waiting.add(n, Ok(json!({ "n": n }).to_string().as_bytes()));
            if n % 100 == 0 {
                waiting.add(n, Err((Broken::Checksum, b"x")));
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            if n == 15_000 {
                assert!(!waiting.has_room());
            }
        }
        refusing.0.store(false, Ordering::Relaxed);
        waiting.end();
    };
    let (ended, ()) = tokio::join!(committing, coming);
    ended.unwrap();
    // What was dropped last, the next event tells; and a last refusal leaves what waits to the next run.
    waiting.add(20_000, Ok(b"{\"n\":20000}"));
    waiting.commit(&intake, Duration::ZERO).await.unwrap();
    let events = events(&store).await;
    let (mut dropped, mut broken) = (0, 0);
    for (place, (time, meta, body)) in events.iter().enumerate() {
        let n = body["n"].as_u64().unwrap();
        assert_eq!((*time, &meta["path"]), (n, &json!("/dev/x")));
        assert_eq!(n, 20_001 - (events.len() - place) as u64, "only the oldest are dropped");
        dropped += meta["missed"]["dropped"].as_i64().unwrap_or_default();
        broken += meta["missed"]["checksum"].as_i64().unwrap_or_default();
    }
    assert!((1000..10_000).contains(&events.len()), "{}", events.len());
    assert_eq!((dropped + events.len() as i64, broken), (20_001, 200));
}
