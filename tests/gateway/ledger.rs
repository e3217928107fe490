//! The ledger over time: what happened in a span, what was lost in it and why, over restarts and kills.

use crate::{
    kit::{self, Gateway, LONG, folder, http, port, wait_for, wait_for_port},
    trace::ask,
};
use serde_json::{Value, json};
use std::{path::Path, time::Duration};

const COUNTS: [&str; 5] = ["accepted", "delivered", "dead", "expired", "evicted"];

fn rows(dir: &Path, arguments: &[&str]) -> (Vec<Value>, Vec<Value>) {
    let (answer, _) = ask(dir, &[&["ledger"], arguments].concat());
    let list = |name: &str| answer[name].as_array().cloned().unwrap_or_default();
    (list("ledger"), list("losses"))
}

/// Now, as the command line takes it.
fn now() -> String {
    let out = std::process::Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%S.%3NZ"]).output().unwrap();
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

#[test]
fn spans_add_up_to_the_totals_over_restarts_and_kills_and_losses_have_their_reasons() {
    let (dir, listen, cloud) = (folder(), port(), port());
    let _upstream =
        http::Upstream::start(cloud, |post: &http::Post| if post.body.contains("poison") { 422 } else { 200 });
    let configuration = format!(
        r#"{{
  "sources": {{ "web": {{ "type": "http", "listen": "127.0.0.1:{listen}" }} }},
  "pipelines": {{ "p": {{ "from": ["web"], "to": ["cloud"], "processes": [
      {{ "type": "annotate", "set": {{ "sum": {{ "expr": "event.n + 1" }} }}, "on_fail": "drop" }} ] }} }},
  "sinks": {{ "cloud": {{ "type": "http", "url": "http://127.0.0.1:{cloud}/" }} }} }}"#
    );
    let url = format!("http://127.0.0.1:{listen}/v1/events");
    let mut ends = vec![now()];
    for (round, kill) in [false, true, false, true, true].into_iter().enumerate() {
        let gateway = Gateway::start(dir.path(), &configuration, &[]);
        wait_for_port(listen);
        for n in 0..20 {
            let event = match n % 10 {
                3 => json!({ "n": n, "note": "poison" }),
                7 => json!({ "n": "no number" }),
                _ => json!({ "n": n }),
            };
            assert_eq!(http::post(&url, &event.to_string()).unwrap().0, 202);
        }
        wait_for("all to be through", LONG, || {
            let (ledger, _) = rows(dir.path(), &[]);
            let web: Vec<_> = ledger.iter().filter(|row| row["topic"] == "web").collect();
            web.iter().all(|row| row["accepted"] == 20 * (round + 1))
                && !web.is_empty()
                && ledger.iter().all(|row| row["queued"] == 0)
        });
        if kill {
            // What the sink acknowledged is on disk 200 ms later.
            std::thread::sleep(Duration::from_millis(400));
            gateway.kill();
        } else {
            assert!(gateway.stop().success());
        }
        std::thread::sleep(Duration::from_millis(20));
        ends.push(now());
    }
    let gateway = Gateway::start(dir.path(), &configuration, &[]);
    wait_for_port(listen);
    let (totals, _) = rows(dir.path(), &[]);
    let mut spans: Vec<(Vec<Value>, Vec<Value>)> =
        ends.windows(2).map(|ends| rows(dir.path(), &["--since", &ends[0], "--until", &ends[1]])).collect();
    spans.push(rows(dir.path(), &["--since", ends.last().unwrap()]));
    for total in &totals {
        let same = |row: &&Value| row["topic"] == total["topic"] && row["consumer"] == total["consumer"];
        for name in COUNTS {
            let sum: u64 = spans
                .iter()
                .flat_map(|(spent, _)| spent.iter().find(same))
                .map(|row| row[name].as_u64().unwrap())
                .sum();
            assert_eq!(sum, total[name].as_u64().unwrap(), "{name} of {total}: {spans:#?}");
        }
    }
    for row in spans.iter().flat_map(|(spent, _)| spent) {
        let n = |name: &str| row[name].as_i64().unwrap();
        let sum = ["delivered", "queued", "dead", "expired", "evicted", "offloaded"].map(n).iter().sum::<i64>();
        assert_eq!(n("accepted"), sum, "{row}");
    }
    // Two of each sort a round, in each span; and all of them in the last hour.
    let count = |losses: &[Value], consumer: &str, reason: &str| -> u64 {
        let ours = losses.iter().filter(|loss| loss["consumer"] == consumer && loss["what"] == "dead");
        let ours = ours.filter(|loss| loss["reason"].as_str().unwrap().contains(reason));
        ours.map(|loss| loss["count"].as_u64().unwrap()).sum()
    };
    for (round, (_, losses)) in spans.iter().enumerate().take(5) {
        let got = (count(losses, "sinks.cloud", "422"), count(losses, "pipelines.p", "`on_fail` is `drop`"));
        assert_eq!(got, (2, 2), "{round}: {losses:#?}");
    }
    let (_, losses) = rows(dir.path(), &["--since", "1h"]);
    assert_eq!((count(&losses, "sinks.cloud", "422"), count(&losses, "pipelines.p", "drop")), (10, 10), "{losses:#?}");
    let out = kit::tidegate(dir.path(), &["ledger", "--since", "1h", "-c", "tidegate.jsonc"], "");
    let text = String::from_utf8(out.stdout).unwrap();
    let line = text.lines().find(|line| line.contains("topic p, sinks.cloud: ")).unwrap_or_else(|| panic!("{text}"));
    assert!(line.contains(" dead: refused: ") && line.contains("422"), "{text}");
    let (answer, found) = (kit::tidegate(dir.path(), &["ledger", "--since", "x", "-c", "tidegate.jsonc"], ""), false);
    assert_eq!(answer.status.success(), found);
    assert!(String::from_utf8_lossy(&answer.stderr).contains("`since`: expected a time"), "{answer:?}");
    assert!(gateway.stop().success());
}
