//! What every object store does.

use crate::{build, kit, rejected};
use serde_json::json;
use std::{path::Path, sync::Arc};
use tidegate::systems::{System, objects::Objects};

fn objects(kind: &str, dir: &Path, config: serde_json::Value) -> Arc<dyn Objects> {
    match build(kind, dir, config).unwrap() {
        System::Objects(objects) => objects,
        other => panic!("{kind} is {}", other.sort()),
    }
}

async fn contract(store: &dyn Objects) {
    whole(store).await;
    lists(store).await;
    limits(store).await;
}

async fn whole(store: &dyn Objects) {
    assert_eq!(store.get("none").await.unwrap(), None);
    store.delete("none/at/all").await.unwrap();
    let all: Vec<u8> = (0..=255).collect();
    let large: Vec<u8> = (0..5_000_000u32).map(|n| (n >> 8) as u8).collect();
    let odd = " a+b%2F&c=d?e#f;:@<>\"'\\*[]~ü💧 ";
    let rows = [
        ("a", &b""[..]),
        ("b/c/d.json", b"{}"),
        (odd, &all),
        ("b/e", &large),
        ("b/e", b"2"),
        ("..a", b"3"),
        (".b", b"4"),
    ];
    for (key, object) in rows {
        store.put(key, object).await.unwrap();
        assert!(store.get(key).await.unwrap().as_deref() == Some(object), "{key}");
    }
    let keys = store.list("", None, 100).await.unwrap();
    assert_eq!(keys, [odd, "..a", ".b", "a", "b/c/d.json", "b/e"]);
    for key in keys {
        store.delete(&key).await.unwrap();
        store.delete(&key).await.unwrap();
        assert_eq!(store.get(&key).await.unwrap(), None, "{key}");
    }
    assert_eq!(store.list("", None, 100).await.unwrap(), [""; 0]);
}

async fn lists(store: &dyn Objects) {
    // `-` comes before `/`, and `0` after it.
    let keys = ["l/a-b", "l/a/x", "l/a/y/z", "l/a0", "l/b", "l/ä", "l-", "la", "m"];
    let mut keys = keys.map(str::to_owned);
    keys.sort();
    for key in keys.iter().rev() {
        store.put(key, b"").await.unwrap();
    }
    for (prefix, after, limit) in [
        ("", None, 100),
        ("l", None, 100),
        ("l/", None, 100),
        ("l/a", None, 100),
        ("l/a/", None, 100),
        ("l/a/y/z", None, 100),
        ("l/", Some("l/a-b"), 100),
        ("l/", Some("l/a/"), 2),
        ("l/", Some("l/a/x"), 2),
        ("l/", Some("a"), 1),
        ("l/", Some("z"), 9),
        ("", Some("l/a/y"), 9),
        ("", Some("l/a/y/zz"), 9),
        ("x", None, 1),
        ("l", None, 0),
    ] {
        let wanted = |key: &&String| key.starts_with(prefix) && after.is_none_or(|after| key.as_str() > after);
        let want: Vec<&String> = keys.iter().filter(wanted).take(limit).collect();
        let got = store.list(prefix, after, limit).await.unwrap();
        assert_eq!(got.iter().collect::<Vec<_>>(), want, "{prefix} {after:?} {limit}");
    }
    let (mut paged, mut after) = (Vec::new(), None);
    loop {
        let page = store.list("l", after.as_deref(), 2).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.clone());
        paged.extend(page);
    }
    assert_eq!(paged, keys[..8]);
    for key in keys {
        store.delete(&key).await.unwrap();
    }
}

async fn limits(store: &dyn Objects) {
    let parts = |n: usize| vec!["p"; n].join("/");
    let longest = [&"a".repeat(255), &"b".repeat(255)].map(String::as_str).join("/");
    for key in [&longest, &parts(32)] {
        store.put(key, b"1").await.unwrap();
        assert_eq!(store.get(key).await.unwrap().as_deref(), Some(&b"1"[..]), "{key}");
        assert_eq!(store.list("", None, 9).await.unwrap(), [key.as_str()]);
        store.delete(key).await.unwrap();
    }
    let (long, long_part, many) =
        ("a/".repeat(15) + &"x".repeat(255) + "/" + &"x".repeat(255), "a".repeat(256), parts(33));
    for key in [
        "",
        "/",
        "/a",
        "a/",
        "a//b",
        ".",
        "..",
        "../a",
        "a/../b",
        "a/./b",
        "a/..",
        "a\nb",
        "a\0b",
        "a\u{7f}",
        "a\u{ffff}",
        ".tidegate-partial/object",
        ".tidegate",
        &long,
        &long_part,
        &many,
        "/etc/passwd",
        "../../etc/passwd",
    ] {
        rejected(key, store.get(key).await);
        rejected(key, store.put(key, b"x").await);
        rejected(key, store.delete(key).await);
    }
    rejected("large", store.put("a", &vec![0; (64 << 20) + 1]).await);
    rejected("prefix", store.list(&"x".repeat(513), None, 1).await);
    rejected("after", store.list("", Some("\n"), 1).await);
    for prefix in ["/", "../", "..", "a/../", "//", "."] {
        assert_eq!(store.list(prefix, None, 9).await.unwrap(), [""; 0], "{prefix}");
    }
}

#[tokio::test]
async fn memory() {
    contract(&*objects("memory_objects", Path::new("."), json!({}))).await;
}

#[tokio::test]
async fn directory() {
    let dir = kit::folder();
    std::fs::write(dir.path().join("beside"), "untouched").unwrap();
    let path = dir.path().join("objects");
    let store = objects("directory", dir.path(), json!({ "path": path }));
    contract(&*store).await;
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    let left: Vec<_> = std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, [".tidegate-partial"]);
    // The largest goes in and out.
    let large = vec![7; 64 << 20];
    store.put("large", &large).await.unwrap();
    assert!(store.get("large").await.unwrap() == Some(large));
    let file = std::fs::OpenOptions::new().append(true).open(path.join("large")).unwrap();
    file.set_len((64 << 20) + 1).unwrap();
    rejected("a larger file", store.get("large").await);
}

/// A writer that is killed at any moment: whoever looks afterwards sees one object or the other, whole.
#[test]
fn a_kill_leaves_whole_objects() {
    let dir = kit::folder();
    if let Ok(path) = std::env::var("TIDEGATE_TEST_WRITER") {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        return runtime.block_on(async {
            let store = objects("directory", Path::new("."), json!({ "path": path }));
            for n in 0u64.. {
                store.put("a/b", &vec![n as u8; 300_000 + (n % 50) as usize]).await.unwrap();
            }
        });
    }
    let path = dir.path().join("objects");
    let mut seen = 0;
    for round in 0..20 {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["objects::a_kill_leaves_whole_objects", "--exact", "--nocapture"])
            .env("TIDEGATE_TEST_WRITER", &path)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        kit::wait_for("the first object", kit::LONG, || path.join("a/b").exists());
        std::thread::sleep(std::time::Duration::from_millis(20 + round * 7));
        child.kill().unwrap();
        child.wait().unwrap();
        let object = std::fs::read(path.join("a/b")).unwrap();
        assert!(object.iter().all(|byte| *byte == object[0]) && object.len() >= 300_000, "{round}");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let store = objects("directory", Path::new("."), json!({ "path": path }));
        assert_eq!(runtime.block_on(store.list("", None, 9)).unwrap(), ["a/b"]);
        seen += usize::from(std::fs::read_dir(path.join(".tidegate-partial")).unwrap().count() > 0);
    }
    assert!(seen > 0, "no kill was in the middle of a write");
}

#[cfg(feature = "s3")]
mod s3 {
    use super::*;
    use crate::{at_last, retried, servers::Server};
    use tidegate::fault::Fault;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn config(port: u16) -> serde_json::Value {
        json!({ "endpoint": format!("http://127.0.0.1:{port}"), "bucket": "readings", "access_key": "key",
                "secret_key": "canary", "timeout": "5s" })
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn s3() {
        let dir = kit::folder();
        let server = Server::s3(dir.path());
        let store = objects("s3", dir.path(), config(server.port));
        contract(&*store).await;
        // With a prefix, beside objects of others.
        for key in ["barn", "barn-7", "barn-7/x", "barn-8/x"] {
            store.put(key, b"theirs").await.unwrap();
        }
        let mut with = config(server.port);
        with["prefix"] = "barn-7/sub+".into();
        contract(&*objects("s3", dir.path(), with)).await;
        assert_eq!(store.list("", None, 9).await.unwrap(), ["barn", "barn-7", "barn-7/x", "barn-8/x"]);
        // The bucket before the host's name, which moto tells by the name.
        let mut host = config(server.port);
        host["endpoint"] = format!("http://localhost:{}", server.port).into();
        host["path_style"] = false.into();
        let hosted = objects("s3", dir.path(), host);
        match hosted.get("barn").await {
            Ok(object) => assert_eq!(object.as_deref(), Some(&b"theirs"[..])),
            // Where `readings.localhost` is no name of this machine.
            Err(fault) => assert!(fault.to_string().contains("readings@localhost"), "{fault}"),
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_server_that_goes_and_comes() {
        let dir = kit::folder();
        let mut server = Server::s3(dir.path());
        let mut short = config(server.port);
        short["timeout"] = "1s".into();
        let store = objects("s3", dir.path(), short);
        at_last("first", || store.put("a", b"1")).await;
        server.freeze(true);
        retried("silent", store.get("a")).await;
        retried("silent", store.put("a", b"2")).await;
        retried("silent", store.list("", None, 1)).await;
        server.freeze(false);
        assert!(at_last("awake", || store.get("a")).await.is_some());
        server.kill();
        retried("gone", store.get("a")).await;
        retried("gone", store.delete("a")).await;
        server.again();
        retried("no bucket yet", store.put("a", b"3")).await;
        server.make_bucket();
        assert_eq!(at_last("back", || store.get("a")).await, None);
        store.put("a", b"4").await.unwrap();
    }

    /// A server that gives one answer to all.
    async fn answers(status: &'static str, body: String) -> u16 {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
                while !request.windows(4).any(|w| w == b"\r\n\r\n") {
                    let n = stream.read(&mut buffer).await.unwrap();
                    request.extend_from_slice(&buffer[..n]);
                }
                let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
                stream.write_all(head.as_bytes()).await.ok();
                stream.write_all(body.as_bytes()).await.ok();
            }
        });
        port
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_answer_is_judged() {
        let code = |code: &str| format!("<Error><Code>{code}</Code><Message>canary</Message></Error>");
        for (status, body, want) in [
            ("500 Oops", code("InternalError"), "retry"),
            ("503 Slow", code("SlowDown"), "retry"),
            ("429 Many", String::new(), "retry"),
            ("403 No", code("AccessDenied"), "retry"),
            ("404 No", code("NoSuchBucket"), "retry"),
            ("404 No", code("NoSuchKey"), "ok"),
            ("400 No", code("ExpiredToken"), "retry"),
            ("400 No", code("InvalidArgument"), "reject"),
            ("400 No", "x".repeat(20 << 20), "reject"),
            ("301 Moved", code("PermanentRedirect"), "retry"),
            ("413 Large", code("EntityTooLarge"), "reject"),
            ("200 OK", "x".repeat((64 << 20) + 1), "reject"),
        ] {
            let port = answers(status, body).await;
            let mut config = config(port);
            config["timeout"] = "30s".into();
            let done = objects("s3", Path::new("."), config).get("a").await;
            let (got, told) = match &done {
                Ok(_) => ("ok", String::new()),
                Err(Fault::Retry(e)) => ("retry", e.to_string()),
                Err(Fault::Reject(e)) => ("reject", e.to_string()),
                Err(other) => ("other", other.to_string()),
            };
            assert_eq!(got, want, "{status}: {told}");
            assert!(!told.contains("canary") && told.len() < 400, "{told}");
        }
    }

    #[test]
    fn a_wrong_configuration_is_told() {
        for (field, value, want) in [
            ("endpoint", json!("localhost:9000"), "endpoint: expected"),
            ("endpoint", json!("http://user:canary@localhost"), "endpoint: expected"),
            ("endpoint", json!("http://localhost/path"), "endpoint: expected"),
            ("bucket", json!("../a"), "bucket: expected"),
            ("bucket", json!(""), "bucket: expected"),
            ("region", json!("eu/x"), "region: expected"),
            ("prefix", json!("../"), "prefix: expected"),
            ("prefix", json!("a//"), "prefix: expected"),
            ("secret_key", json!(""), "secret_key: expected both"),
            ("timeout", json!("1ms"), "timeout: expected 100ms to 10m"),
        ] {
            let mut config = config(1);
            config[field] = value;
            let told = build("s3", Path::new("."), config).err().unwrap_or_default();
            assert!(told.starts_with(want) && !told.contains("canary"), "{told}");
        }
    }
}
