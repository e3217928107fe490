//! What an operator sees and does: on a gateway that runs, over its admin listener, and on the store of one that does not.

use crate::kit::{self, Gateway, LONG, folder, http, port, wait_for, wait_for_port};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// Stands in the configuration as a secret, and nowhere else.
const CANARY: &str = "canary-4711-secret";

fn configuration(listen: u16, cloud: u16, admin: &str) -> String {
    format!(
        r#"{{
  "gateway": {{ "id": "barn" }}, "admin": {{ "listen": "{admin}" }},
  "sources": {{ "web": {{ "type": "http", "listen": "127.0.0.1:{listen}", "tokens": ["{CANARY}"] }} }},
  "sinks": {{
    "cloud": {{ "type": "http", "url": "http://127.0.0.1:{cloud}/cloud", "from": ["web"], "headers": {{ "x-key": "{CANARY}" }} }},
    "other": {{ "type": "http", "url": "http://127.0.0.1:{cloud}/other", "from": ["web"] }} }} }}"#
    )
}

/// Runs `tidegate` on the configuration in a folder; gives what it printed, as JSON.
fn ask(dir: &Path, arguments: &[&str]) -> Value {
    let arguments: Vec<&str> = arguments.iter().chain(&["-c", "tidegate.jsonc", "--format", "json"]).copied().collect();
    let out = kit::tidegate(dir, &arguments, "");
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(out.status.success(), "{arguments:?}: {text} {}", String::from_utf8_lossy(&out.stderr));
    assert!(!text.contains(CANARY), "{text}");
    serde_json::from_str(&text).unwrap()
}

/// A request, as bytes, and the status and body of the answer.
fn request(mut stream: impl Read + Write, method: &str, path: &str, token: &str) -> (u16, String) {
    let token = if token.is_empty() { String::new() } else { format!("authorization: Bearer {token}\r\n") };
    write!(stream, "{method} {path} HTTP/1.1\r\nhost: x\r\n{token}connection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), body.to_owned())
}

fn post(url: &str, n: u64, note: &str) {
    let out = std::process::Command::new("curl")
        .args([
            "-sf",
            "-H",
            &format!("authorization: Bearer {CANARY}"),
            "-d",
            &format!(r#"{{"n":{n},"note":"{note}"}}"#),
            url,
        ])
        .output()
        .unwrap();
    assert!(out.status.success(), "{out:?}");
}

fn taken(posts: &[http::Post], path: &str) -> Vec<u64> {
    let posts = posts.iter().filter(|p| p.path == path && p.status < 300);
    posts.flat_map(http::Post::events).map(|e| e["n"].as_u64().unwrap()).collect()
}

#[test]
fn dead_letters_are_listed_and_retried_at_the_sink_that_refused_them_whether_the_gateway_runs_or_not() {
    let (dir, listen, cloud) = (folder(), port(), port());
    let refuses = Arc::new(AtomicBool::new(true));
    let says_no = refuses.clone();
    let upstream = http::Upstream::start(cloud, move |post: &http::Post| {
        let no = post.path == "/cloud" && post.body.contains("poison") && says_no.load(Ordering::Relaxed);
        if no { 422 } else { 200 }
    });
    let text = configuration(listen, cloud, "unix");
    let gateway = Gateway::start(dir.path(), &text, &[]);
    wait_for_port(listen);
    let url = format!("http://127.0.0.1:{listen}/v1/events");
    for n in 0..9 {
        post(&url, n, if n % 3 == 0 { "poison" } else { "well" });
    }
    let letters =
        |query: &[&str]| ask(dir.path(), &[&["dead", "ls"], query].concat())["letters"].as_array().unwrap().len();
    wait_for("three dead letters", LONG, || letters(&[]) == 3);
    assert_eq!((letters(&["--consumer", "sinks.cloud"]), letters(&["--consumer", "sinks.other"])), (3, 0));
    assert_eq!((letters(&["--topic", "web"]), letters(&["--limit", "2"])), (3, 2));
    let first = &ask(dir.path(), &["dead", "ls"])["letters"][2];
    assert_eq!((&first["event"]["body"]["n"], first["consumer"].as_str()), (&0.into(), Some("sinks.cloud")), "{first}");
    assert!(first["reason"].as_str().unwrap().contains("422"), "{first}");
    let id = first["id"].to_string();

    // As long as it is refused, it comes back as another letter.
    assert_eq!(ask(dir.path(), &["dead", "retry", &id])["retried"], 1);
    wait_for("it to be refused again", LONG, || letters(&[]) == 3);
    assert!(ask(dir.path(), &["dead", "ls"])["letters"][0]["id"].as_u64().unwrap() > id.parse().unwrap());
    refuses.store(false, Ordering::Relaxed);
    let id = ask(dir.path(), &["dead", "ls"])["letters"][0]["id"].to_string();
    assert_eq!(ask(dir.path(), &["dead", "retry", &id])["retried"], 1);
    wait_for("the first to arrive", LONG, || taken(&upstream.posts(), "/cloud").contains(&0));
    let status = ask(dir.path(), &["status"]);
    assert_eq!((status["running"].as_bool(), status["taken"].as_u64()), (Some(true), Some(9)), "{status}");
    assert_eq!(status["store"]["dead_letters"], 2);

    // One that is paused gets nothing; the other goes on.
    assert_eq!(ask(dir.path(), &["pause", "sinks.cloud"])["paused"], true);
    post(&url, 9, "well");
    wait_for("it to reach the other", LONG, || taken(&upstream.posts(), "/other").contains(&9));
    assert_eq!(ask(dir.path(), &["status"])["paused"][0], "sinks.cloud");
    assert!(!taken(&upstream.posts(), "/cloud").contains(&9));

    // It is killed; what is retried now is delivered when it runs again.
    gateway.kill();
    assert_eq!(ask(dir.path(), &["status"])["running"], false);
    assert_eq!((letters(&[]), &ask(dir.path(), &["dead", "purge", "9999"])["purged"]), (2, &0.into()));
    assert_eq!(ask(dir.path(), &["dead", "retry", "--all"])["retried"], 2);
    let gateway = Gateway::start(dir.path(), &text, &[]);
    wait_for_port(listen);
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(!taken(&upstream.posts(), "/cloud").contains(&9), "it is still paused");
    assert_eq!(ask(dir.path(), &["resume", "sinks.cloud"])["paused"], false);
    wait_for("the others to arrive", LONG, || {
        taken(&upstream.posts(), "/cloud").into_iter().collect::<BTreeSet<_>>() == (0..10).collect()
    });
    wait_for("nothing to be queued", LONG, || {
        let ledger = ask(dir.path(), &["ledger"]);
        ledger["ledger"].as_array().unwrap().iter().all(|row| row["queued"] == 0)
    });
    for row in ask(dir.path(), &["ledger"])["ledger"].as_array().unwrap() {
        let n = |name: &str| row[name].as_u64().unwrap();
        let sum: u64 = ["delivered", "queued", "dead", "expired", "evicted", "offloaded"].map(n).iter().sum();
        assert_eq!(n("accepted"), sum, "{row}");
    }
    assert!(gateway.stop().success());
    let other = taken(&upstream.posts(), "/other");
    assert_eq!(other.iter().collect::<BTreeSet<_>>().len(), 10);
    assert!(other.len() <= 20, "a kill repeats, a retry at another sink does not: {other:?}");
    // Each poisoned event has one id, however often it was sent.
    let posts = upstream.posts();
    let text: BTreeSet<String> =
        posts.iter().filter(|p| p.path == "/cloud").flat_map(http::Post::events).map(|e| e.to_string()).collect();
    assert_eq!(text.len(), 10, "{text:?}");
}

#[test]
fn the_admin_listener_is_for_the_gateways_user_and_the_api_for_who_has_the_token() {
    let (dir, listen, admin) = (folder(), port(), port());
    let gateway = Gateway::start(dir.path(), &configuration(listen, port(), "unix"), &[]);
    wait_for_port(listen);
    let mode = |name: &str| fs::metadata(dir.path().join(name)).map(|is| is.permissions().mode() & 0o777).ok();
    wait_for("the socket", LONG, || {
        mode("tidegate.db-admin") == Some(0o600) && mode("tidegate.db-token") == Some(0o600)
    });
    let token = || fs::read_to_string(dir.path().join("tidegate.db-token")).unwrap().trim().to_owned();
    wait_for("the token", LONG, || !token().is_empty());
    let token = token();
    let socket = || UnixStream::connect(dir.path().join("tidegate.db-admin")).unwrap();
    let check = |ask: &dyn Fn(&str, &str, &str) -> (u16, String)| {
        for (method, path, known, status) in [
            ("GET", "/healthz", false, 200),
            ("GET", "/readyz", false, 200),
            ("GET", "/metrics", false, 200),
            ("GET", "/api/v1/status", false, 401),
            ("GET", "/api/v1/ledger", false, 401),
            ("GET", "/api/v1/dead", false, 401),
            ("POST", "/api/v1/dead/retry?all=true", false, 401),
            ("POST", "/api/v1/dead/purge?all=true", false, 401),
            ("POST", "/healthz", false, 401),
            ("GET", "/", false, 401),
            ("GET", "/api/v1/status", true, 200),
            ("GET", "/api/v1/dead?limit=x", true, 400),
            ("POST", "/api/v1/dead/purge", true, 400),
            ("POST", "/api/v1/dead/purge?all=true", true, 200),
            ("DELETE", "/api/v1/dead", true, 405),
            ("GET", "/api/v1/nothing", true, 404),
        ] {
            let (got, body) = ask(method, path, if known { &token } else { "" });
            assert_eq!(got, status, "{method} {path}: {body}");
            assert!(!body.contains(CANARY) && !body.contains(&token), "{body}");
        }
        assert_eq!(ask("GET", "/api/v1/status", &token[1..]).0, 401);
        let (_, metrics) = ask("GET", "/metrics", "");
        for line in [
            "tidegate_events_queued{topic=\"web\",consumer=\"sinks.cloud\"} 1",
            "tidegate_events_accepted_total{topic=\"web\",consumer=\"sinks.other\"} 1",
            "tidegate_dead_letters 0",
            "tidegate_store_full 0",
        ] {
            assert!(metrics.lines().any(|known| known == line), "{line} is not in {metrics}");
        }
    };
    post(&format!("http://127.0.0.1:{listen}/v1/events"), 1, "");
    check(&|method, path, token| request(socket(), method, path, token));
    // Nothing of it is on the data port.
    for (path, token) in [("/metrics", &*token), ("/healthz", ""), ("/api/v1/status", CANARY)] {
        let (status, _) = request(TcpStream::connect(("127.0.0.1", listen)).unwrap(), "GET", path, token);
        assert!([401, 404, 405].contains(&status), "{path}: {status}");
    }
    gateway.kill();

    let gateway = Gateway::start(dir.path(), &configuration(listen, port(), &format!("127.0.0.1:{admin}")), &[]);
    wait_for_port(admin);
    wait_for_port(listen);
    // Who holds connections and says nothing does not keep an operator out for long.
    let _idle: Vec<TcpStream> = (0..20).map(|_| TcpStream::connect(("127.0.0.1", admin)).unwrap()).collect();
    check(&|method, path, token| request(TcpStream::connect(("127.0.0.1", admin)).unwrap(), method, path, token));
    assert_eq!(ask(dir.path(), &["status"])["running"], true);
    assert!(!gateway.log().contains(CANARY));
    assert!(gateway.stop().success());

    let gateway = Gateway::start(dir.path(), &configuration(listen, port(), "off"), &[]);
    wait_for_port(listen);
    let out = kit::tidegate(dir.path(), &["status", "-c", "tidegate.jsonc"], "");
    assert!(String::from_utf8_lossy(&out.stderr).contains("does not listen for operators"), "{out:?}");
    assert_eq!(out.status.code(), Some(1));
    assert!(gateway.stop().success());
}
