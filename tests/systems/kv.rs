//! What every key-value store does.

use crate::{build, kit, rejected};
use serde_json::json;
use std::{path::Path, sync::Arc, time::Duration};
use tidegate::systems::{
    System,
    kv::{Kv, MAX_LIST},
};
use tokio::time::sleep;

fn kv(kind: &str, dir: &Path, config: serde_json::Value) -> Arc<dyn Kv> {
    match build(kind, dir, config).unwrap() {
        System::Kv(kv) => kv,
        other => panic!("{kind} is {}", other.sort()),
    }
}

async fn contract(kv: Arc<dyn Kv>) {
    values(&*kv).await;
    lists(&*kv).await;
    time(&*kv).await;
    limits(&*kv).await;
    swaps(&kv).await;
}

async fn values(kv: &dyn Kv) {
    assert_eq!(kv.get("none").await.unwrap(), None);
    assert!(!kv.delete("none").await.unwrap());
    let all: Vec<u8> = (0..=255).collect();
    let large = vec![b'x'; 1 << 20];
    for (key, value) in [("a", &b""[..]), ("a b/c:*?[d]\\\n", b"1"), ("ü💧\0", &all), ("large", &large), ("a", b"2")]
    {
        kv.put(key, value, None).await.unwrap();
        assert!(kv.get(key).await.unwrap().as_deref() == Some(value), "{key}");
    }
    assert_eq!(kv.get("A").await.unwrap(), None);
    for key in ["a", "a b/c:*?[d]\\\n", "ü💧\0", "large"] {
        assert!(kv.delete(key).await.unwrap(), "{key}");
        assert!(!kv.delete(key).await.unwrap(), "{key}");
        assert_eq!(kv.get(key).await.unwrap(), None, "{key}");
    }
}

async fn lists(kv: &dyn Kv) {
    let keys = ["l*", "l*1", "l*2", "l-", "l/a", "l/b", "l0", "la", "lä", "l💧", "m"];
    for key in keys.iter().rev() {
        kv.put(key, b"", None).await.unwrap();
    }
    for (prefix, after, limit, want) in [
        ("", None, 100, &keys[..]),
        ("l", None, 100, &keys[..10]),
        ("l*", None, 100, &keys[..3]),
        ("l/", Some("l/a"), 100, &keys[5..6]),
        ("l/", Some("a"), 100, &keys[4..6]),
        ("l/", Some("z"), 100, &[]),
        ("l", Some("l0"), 2, &keys[7..9]),
        ("l", Some("l00"), 1, &keys[7..8]),
        ("l", None, 0, &[]),
        ("x", None, 1, &[]),
    ] {
        assert_eq!(kv.list(prefix, after, limit).await.unwrap(), want, "{prefix} {after:?} {limit}");
    }
    let (mut paged, mut after) = (Vec::new(), None);
    loop {
        let page = kv.list("l", after.as_deref(), 3).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.clone());
        paged.extend(page);
    }
    assert_eq!(paged, keys[..10]);
    for key in keys {
        kv.delete(key).await.unwrap();
    }
    for n in 0..MAX_LIST + 5 {
        kv.put(&format!("n{n:05}"), b"", Some(Duration::from_secs(60))).await.unwrap();
    }
    let page = kv.list("n", None, usize::MAX).await.unwrap();
    assert_eq!((page.len(), page[MAX_LIST - 1].as_str()), (MAX_LIST, "n00999"));
    assert_eq!(kv.list("n", Some("n00999"), usize::MAX).await.unwrap().len(), 5);
    for n in 0..MAX_LIST + 5 {
        kv.delete(&format!("n{n:05}")).await.unwrap();
    }
}

async fn time(kv: &dyn Kv) {
    let short = Some(Duration::from_millis(400));
    for (key, ttl) in [("t1", short), ("t2", short), ("t3", Some(Duration::from_secs(60))), ("t4", None), ("t5", short)]
    {
        kv.put(key, b"1", ttl).await.unwrap();
    }
    // What is set anew has the new time.
    kv.put("t2", b"2", None).await.unwrap();
    assert!(kv.compare_and_swap("t5", Some(b"1"), b"2").await.unwrap());
    kv.put("t6", b"1", None).await.unwrap();
    kv.put("t6", b"1", short).await.unwrap();
    assert_eq!(kv.list("t", None, 10).await.unwrap().len(), 6);
    sleep(Duration::from_millis(450)).await;
    assert_eq!(kv.list("t", None, 10).await.unwrap(), ["t2", "t3", "t4", "t5"]);
    assert_eq!(kv.get("t1").await.unwrap(), None);
    assert!(!kv.compare_and_swap("t1", Some(b"1"), b"2").await.unwrap());
    assert!(kv.compare_and_swap("t1", None, b"3").await.unwrap());
    assert!(!kv.delete("t6").await.unwrap(), "its time was over");
    sleep(Duration::from_millis(10)).await;
    assert_eq!(kv.get("t1").await.unwrap().as_deref(), Some(&b"3"[..]));
    for key in ["t1", "t2", "t3", "t4", "t5"] {
        assert!(kv.delete(key).await.unwrap(), "{key}");
    }
}

async fn limits(kv: &dyn Kv) {
    let (long, longest, large) = ("k".repeat(513), "k".repeat(512), vec![0; (1 << 20) + 1]);
    kv.put(&longest, b"1", Some(Duration::from_secs(9))).await.unwrap();
    assert_eq!(kv.list("kk", None, 2).await.unwrap(), [longest.as_str()]);
    assert!(kv.delete(&longest).await.unwrap());
    for key in ["", &long] {
        rejected("get", kv.get(key).await);
        rejected("put", kv.put(key, b"", None).await);
        rejected("swap", kv.compare_and_swap(key, None, b"").await);
        rejected("delete", kv.delete(key).await);
    }
    rejected("value", kv.put("a", &large, None).await);
    rejected("new", kv.compare_and_swap("a", None, &large).await);
    rejected("old", kv.compare_and_swap("a", Some(&large), b"").await);
    rejected("prefix", kv.list(&long, None, 1).await);
    rejected("after", kv.list("", Some(&long), 1).await);
    for ttl in [Duration::ZERO, Duration::from_micros(999), Duration::from_secs(4000 * 86_400), Duration::MAX] {
        rejected("ttl", kv.put("a", b"", Some(ttl)).await);
    }
    kv.put("a", b"", Some(Duration::from_secs(3650 * 86_400))).await.unwrap();
    assert!(kv.delete("a").await.unwrap());
}

/// 8 tasks that each add 1 to a counter 50 times, and one of 20 that makes a key.
async fn swaps(kv: &Arc<dyn Kv>) {
    assert!(!kv.compare_and_swap("n", Some(b"0"), b"1").await.unwrap());
    assert!(!kv.compare_and_swap("n", Some(b""), b"1").await.unwrap(), "no value is not an empty one");
    assert!(kv.compare_and_swap("n", None, b"").await.unwrap());
    assert!(!kv.compare_and_swap("n", None, b"1").await.unwrap(), "an empty value is one");
    assert!(kv.compare_and_swap("n", Some(b""), b"0").await.unwrap());
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let kv = kv.clone();
        tasks.spawn(async move {
            let mut lost = 0;
            for _ in 0..50 {
                loop {
                    let old = kv.get("n").await.unwrap().unwrap();
                    let n: u32 = std::str::from_utf8(&old).unwrap().parse().unwrap();
                    if kv.compare_and_swap("n", Some(&old), (n + 1).to_string().as_bytes()).await.unwrap() {
                        break;
                    }
                    lost += 1;
                }
            }
            lost
        });
    }
    tasks.join_all().await;
    assert_eq!(kv.get("n").await.unwrap().as_deref(), Some(&b"400"[..]));
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..20 {
        let kv = kv.clone();
        tasks.spawn(async move { kv.compare_and_swap("once", None, &[n]).await.unwrap() });
    }
    assert_eq!(tasks.join_all().await.into_iter().filter(|won| *won).count(), 1);
    assert!(kv.delete("n").await.unwrap() && kv.delete("once").await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory() {
    contract(kv("memory_kv", Path::new("."), json!({}))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite() {
    let dir = kit::folder();
    contract(kv("sqlite", dir.path(), json!({}))).await;
    assert!(dir.path().join("shared.kv.db").exists());
}

#[cfg(feature = "redis")]
mod redis {
    use super::*;
    use crate::{at_last, retried, servers::Server};

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn redis() {
        let dir = kit::folder();
        let server = Server::redis(dir.path());
        let url = format!("redis://127.0.0.1:{}", server.port);
        contract(kv("redis", dir.path(), json!({ "url": url }))).await;
        // With a prefix that looks like a pattern, beside keys of others.
        let other = kv("redis", dir.path(), json!({ "url": url }));
        for key in ["p1:mine", "p*", "q"] {
            other.put(key, b"theirs", None).await.unwrap();
        }
        contract(kv("redis", dir.path(), json!({ "url": format!("{url}/0"), "prefix": "p*:" }))).await;
        assert_eq!(other.list("", None, 10).await.unwrap(), ["p*", "p1:mine", "q"]);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_server_that_goes_and_comes() {
        let dir = kit::folder();
        let mut server = Server::redis(dir.path());
        let url = format!("redis://127.0.0.1:{}", server.port);
        let kv = kv("redis", dir.path(), json!({ "url": url, "timeout": "1s" }));
        kv.put("a", b"1", None).await.unwrap();
        server.kill();
        for what in ["at first", "still"] {
            retried(what, kv.get("a")).await;
            retried(what, kv.put("a", b"1", None)).await;
        }
        server.again();
        assert_eq!(at_last("back", || kv.get("a")).await, None);
        kv.put("a", b"2", None).await.unwrap();
        server.freeze(true);
        retried("silent", kv.get("a")).await;
        retried("silent", kv.compare_and_swap("b", None, b"1")).await;
        server.freeze(false);
        // What was asked before does not answer what is asked now.
        assert_eq!(at_last("awake", || kv.get("a")).await.as_deref(), Some(&b"2"[..]));
        assert_eq!(kv.list("", None, 3).await.unwrap()[0], "a");
    }

    #[tokio::test]
    async fn what_others_made_there_is_refused() {
        let dir = kit::folder();
        let server = Server::redis(dir.path());
        let long = "x".repeat(2_000_000);
        server.ask(&format!("SADD set 1\r\nSET long {}\r\nCONFIG SET requirepass canary\r\nQUIT\r\n", &long[..60_000]));
        let url = format!("redis://:canary@127.0.0.1:{}", server.port);
        let kv = kv("redis", dir.path(), json!({ "url": url }));
        rejected("a set", kv.get("set").await);
        rejected("a set", kv.compare_and_swap("set", Some(b""), b"").await);
        assert_eq!(kv.get("long").await.unwrap().unwrap().len(), 60_000);
        let wrong = json!({ "url": url.replace("canary", "wrong-one") });
        let fault = super::kv("redis", dir.path(), wrong).get("a").await.unwrap_err();
        assert!(
            matches!(fault, tidegate::fault::Fault::Retry(_)) && !fault.to_string().contains("wrong-one"),
            "{fault}"
        );
    }
}
