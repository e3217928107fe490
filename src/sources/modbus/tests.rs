use super::super::tests::{bodies, build, intake};
use super::*;
use serde_json::{Value, json};
use std::{
    io::{Read, Write},
    net::TcpListener,
    sync::{Mutex, atomic::AtomicBool, atomic::Ordering},
};

/// A unit's answer, or nothing.
type Answers = fn(u8, &[u8]) -> Vec<u8>;
/// The unit of each request, and when it came.
type Heard = Arc<Mutex<Vec<(u8, Instant)>>>;

/// Units behind one address; while `dead`, unit 2 says nothing.
fn units(answers: Answers, dead: &'static AtomicBool) -> (String, Heard) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let heard = Heard::default();
    let seen = heard.clone();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let mut request = [0; 12];
            while stream.read_exact(&mut request).is_ok() {
                seen.lock().unwrap().push((request[6], Instant::now()));
                let pdu = answers(request[6], &request[7..]);
                if request[6] == 2 && dead.load(Ordering::Relaxed) {
                    continue;
                }
                let length = (pdu.len() as u16 + 1).to_be_bytes();
                let frame = [&request[..4], &length, &request[6..7], &pdu].concat();
                stream.write_all(&frame).unwrap();
            }
        }
    });
    (address, heard)
}

fn config(address: &str) -> Value {
    let group = |unit: u8, every: &str| {
        json!({ "unit": unit, "function": "holding", "every": every,
                "values": { "a": { "address": 0 }, "b": { "address": 9, "report": { "when": "change" } } } })
    };
    json!({ "connect": { "tcp": address }, "timeout": "50ms", "retries": 1, "status": true, "groups": {
        "one": group(1, "100ms"), "two": group(2, "100ms"), "three": group(3, "100ms") } })
}

/// The address that was asked, plus a hundred times the unit; unit 3 has nothing at 9.
fn sums(unit: u8, request: &[u8]) -> Vec<u8> {
    match (unit, request[2]) {
        (3, 9) => vec![0x83, 2],
        (unit, address) => [vec![3, 2], (100 * u16::from(unit) + u16::from(address)).to_be_bytes().to_vec()].concat(),
    }
}

#[tokio::test]
async fn a_silent_unit_does_not_hold_up_the_others() {
    static DEAD: AtomicBool = AtomicBool::new(true);
    let (address, heard) = units(sums, &DEAD);
    let (intake, store) = intake(1000).await;
    let mut source = build(&KIND, &config(&address).to_string()).unwrap();
    for (dead, seconds) in [(true, 4), (false, 5)] {
        DEAD.store(dead, Ordering::Relaxed);
        let ended = tokio::time::timeout(Duration::from_secs(seconds), source.run(&intake)).await;
        assert!(ended.is_err(), "{ended:?}");
        let heard = std::mem::take(&mut *heard.lock().unwrap());
        let count = |unit| heard.iter().filter(|(u, _)| *u == unit).count();
        if dead {
            // Two requests a poll; one poll in ten may be late on a busy machine. The dead one: twice at once, after 1 s, 2 s.
            assert!(count(1) >= 2 * 36 && count(1) <= 2 * 42, "{}", count(1));
            assert_eq!(count(2), 4);
        } else {
            assert!(count(2) > 20, "{}", count(2));
        }
    }
    let all: Vec<Value> = bodies(&store).await.iter().map(|b| serde_json::from_str(b).unwrap()).collect();
    let of = |group: &str| all.iter().filter(|e| e["group"] == group).cloned().collect::<Vec<_>>();
    assert_eq!(of("one")[0], json!({ "unit": 1, "group": "one", "a": 100, "b": 109 }));
    assert!(of("one")[1..].iter().all(|e| *e == json!({ "unit": 1, "group": "one", "a": 100 })));
    assert_eq!(of("two")[0], json!({ "unit": 2, "group": "two", "a": 200, "b": 209 }));
    assert!(of("three").is_empty(), "what a unit refuses to tell is no event");
    let status: Vec<&Value> = all.iter().filter(|e| e.get("up").is_some()).collect();
    assert_eq!(
        status,
        [&json!({ "unit": 2, "up": false, "error": "no answer in time" }), &json!({ "unit": 2, "up": true })]
    );
}

#[tokio::test]
async fn without_a_connection_it_is_tried_again() {
    let (intake, _store) = intake(1000).await;
    let mut source = build(&KIND, &config("127.0.0.1:1").to_string()).unwrap();
    let fault = source.run(&intake).await.unwrap_err();
    assert!(matches!(&fault, Fault::Retry(e) if e.to_string().starts_with("cannot connect to `127.0.0.1:1`")));
}

#[test]
fn a_wrong_configuration_is_refused() {
    for (place, value, want) in [
        ("/timeout", json!("1ms"), "timeout: expected 10ms to 1m"),
        ("/retries", json!(11), "retries: expected 0 to 10"),
        ("/connect", json!({ "tcp": "x:y" }), "connect.tcp: `x:y` is no host and port; write it like `10.0.0.7:502`"),
        ("/connect", json!({ "rtu": { "path": "tty" } }), "connect.rtu.path: expected an absolute path"),
        ("/connect", json!({ "rtu": { "path": "/dev/x", "gap": "2s" } }), "connect.rtu.gap: expected at most 1s"),
        ("/groups", json!({}), "groups: expected 1 to 256"),
        ("/groups/one/every", json!("1ms"), "groups.one.every: expected at least 10ms"),
        ("/groups/one/values", json!({}), "groups.one.values: expected 1 to 1000"),
        ("/groups/one/report", json!({ "when": { "band": 0 } }), "groups.one.report.when: expected a number above 0"),
        (
            "/groups/one/values",
            json!({ "unit": { "address": 0 } }),
            "groups.one.values.unit: the event has a field of this name already",
        ),
        (
            "/groups/one/values/a",
            json!({ "address": 65_535, "as": "u32" }),
            "groups.one.values.a.address: it ends behind the last address, 65535",
        ),
        (
            "/groups/one/values/a",
            json!({ "address": 0, "as": "text" }),
            "groups.one.values.a.length: expected 1 to 125, the registers of the text",
        ),
        (
            "/groups/one/values/a",
            json!({ "address": 0, "length": 1 }),
            "groups.one.values.a.length: expected with `\"as\": \"text\"`",
        ),
        (
            "/groups/one/values/a",
            json!({ "address": 0, "bit": 3 }),
            "groups.one.values.a.bit: expected with `\"as\": \"bool\"`",
        ),
        (
            "/groups/one/values/a",
            json!({ "address": 0, "scale": 0 }),
            "groups.one.values.a.scale: expected anything but 0",
        ),
    ] {
        let mut config = config("plc");
        let (above, field) = place.rsplit_once('/').unwrap();
        config.pointer_mut(above).unwrap()[field] = value;
        assert_eq!(build(&KIND, &config.to_string()).err().as_deref(), Some(want));
    }
    let mut coils = config("plc");
    coils["groups"]["one"]["function"] = json!("coil");
    coils["groups"]["one"]["values"]["a"]["as"] = json!("u16");
    let want = "groups.one.values.a.as: coils and discrete inputs are of type `bool`, and have no `bit`";
    assert_eq!(build(&KIND, &coils.to_string()).err().as_deref(), Some(want));
    let mut line = config("plc");
    line["connect"] = json!({ "rtu": { "path": "/dev/ttyUSB0" } });
    line["groups"]["one"]["unit"] = json!(0);
    assert_eq!(build(&KIND, &line.to_string()).err().as_deref(), Some("groups.one.unit: expected 1 to 247"));
}
