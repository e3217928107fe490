//! Events that a process or the upstream does not take: set aside or dropped, and the rest goes on.

use crate::kit::{Gateway, LONG, folder, http, port, wait_for, wait_for_port};
use std::{collections::BTreeSet, path::Path};
use tidegate::store::{Dead, Ledger, Options, Store, Which};

/// What a stopped gateway's store says.
pub fn read(dir: &Path) -> (Vec<Dead>, Vec<Ledger>) {
    let store = Store::open(Options { path: Some(dir.join("tidegate.db")), ..Options::default() }).unwrap();
    let found = crate::kit::runtime()
        .block_on(async { (store.letters(&Which::default(), 1000).await.unwrap(), store.ledger()) });
    crate::kit::runtime().block_on(store.close());
    (found.0.into_iter().map(|letter| letter.dead).collect(), found.1)
}

struct Setup {
    dir: tempfile::TempDir,
    upstream: http::Upstream,
    gateway: Gateway,
    url: String,
}

/// A gateway whose pipeline compares `temp` with a number, so that text in it is refused.
fn setup(on_fail: &str, answer: impl Fn(&http::Post) -> u16 + Send + Sync + 'static) -> Setup {
    let (dir, listen, cloud) = (folder(), port(), port());
    let configuration = format!(
        r#"{{
  "topics": {{ "odd": {{}} }},
  "sources": {{ "web": {{ "type": "http", "listen": "127.0.0.1:{listen}" }} }},
  "pipelines": {{ "out": {{ "from": ["web"], "to": ["cloud"], {on_fail}
    "processes": [{{ "type": "continue", "when": "event.temp < 99" }}] }} }},
  "sinks": {{ "cloud": {{ "type": "http", "url": "http://127.0.0.1:{cloud}/cloud" }},
    "odd": {{ "type": "http", "url": "http://127.0.0.1:{cloud}/odd", "from": ["odd"] }} }} }}"#
    );
    let upstream = http::Upstream::start(cloud, answer);
    let gateway = Gateway::start(dir.path(), &configuration, &[]);
    wait_for_port(listen);
    Setup { dir, upstream, gateway, url: format!("http://127.0.0.1:{listen}/v1/events") }
}

fn batch(count: u64, odd: u64, make: impl Fn(u64) -> String) -> String {
    let events: Vec<String> =
        (0..count).map(|n| if n == odd { make(n) } else { format!("{{\"n\":{n},\"temp\":1}}") }).collect();
    format!("[{}]", events.join(","))
}

fn taken(posts: &[http::Post], path: &str) -> BTreeSet<u64> {
    let posts = posts.iter().filter(|p| p.path == path && p.status < 300);
    posts.flat_map(http::Post::events).map(|e| e["n"].as_u64().unwrap()).collect()
}

#[test]
fn an_event_that_a_process_rejects_goes_where_on_fail_says() {
    for (on_fail, letters, elsewhere) in [
        ("", 1, 0),
        (r#""on_fail": "dead","#, 1, 0),
        (r#""on_fail": "drop","#, 0, 0),
        (r#""on_fail": { "topic": "odd" },"#, 0, 1),
    ] {
        let Setup { dir, upstream, gateway, url } = setup(on_fail, |_| 200);
        let (status, answer) = http::post(&url, &batch(50, 17, |n| format!(r#"{{"n":{n},"temp":"hot"}}"#))).unwrap();
        assert_eq!(status, 202, "{answer}");
        let done =
            || taken(&upstream.posts(), "/cloud").len() == 49 && taken(&upstream.posts(), "/odd").len() == elsewhere;
        wait_for("the others to arrive", LONG, done);
        assert!(gateway.stop().success());
        assert!(!taken(&upstream.posts(), "/cloud").contains(&17), "{on_fail}");
        let (dead, ledger) = read(dir.path());
        assert_eq!(dead.len(), letters, "{on_fail}: {dead:?}");
        for letter in dead {
            assert!(letter.reason.starts_with("continue: "), "{}", letter.reason);
            assert!(String::from_utf8(letter.body).unwrap().contains("\"hot\""));
        }
        let row = ledger.iter().find(|r| r.consumer == "pipelines.out").unwrap();
        let counted = (row.accepted, row.delivered, row.dead, row.queued);
        assert_eq!(counted, (50, 49 + elsewhere as u64, 1 - elsewhere as u64, 0), "{on_fail}");
    }
}

#[test]
fn one_event_that_the_upstream_refuses_stands_alone_among_the_dead_letters() {
    let refuse = |post: &http::Post| if post.body.contains("poison") { 422 } else { 200 };
    let Setup { dir, upstream, gateway, url } = setup("", refuse);
    let (status, answer) =
        http::post(&url, &batch(100, 63, |n| format!(r#"{{"n":{n},"temp":2,"note":"poison"}}"#))).unwrap();
    assert_eq!(status, 202, "{answer}");
    wait_for("the others to arrive", LONG, || taken(&upstream.posts(), "/cloud").len() == 99);
    assert!(gateway.stop().success());
    let (posts, (dead, ledger)) = (upstream.posts(), read(dir.path()));
    assert!(!taken(&posts, "/cloud").contains(&63));
    assert_eq!(upstream.events().len(), 99, "none of the others twice");
    // Halved: 100 events are split in seven steps, two requests each.
    assert!(posts.len() <= 16, "{} requests", posts.len());
    assert_eq!(dead.len(), 1);
    assert!(dead[0].reason.contains("422") && String::from_utf8_lossy(&dead[0].body).contains("poison"), "{dead:?}");
    let row = ledger.iter().find(|r| r.consumer == "sinks.cloud").unwrap();
    assert_eq!((row.accepted, row.delivered, row.dead, row.queued), (100, 99, 1, 0));
}
