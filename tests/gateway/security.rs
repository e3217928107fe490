//! What SECURITY.md promises, of the real program. TLS has a file of its own, `tls.rs`.

use crate::kit::{Gateway, LONG, folder, http, mqtt, port, wait_for, wait_for_port};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};
use tidegate::{cli, config, sources::mqtt_listen};

/// Writes a file that only we can read.
fn private(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
}

/// Runs a command of the program; gives the exit code, and what it said on both outputs.
fn said(dir: &Path, arguments: &[&str], env: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    let out = command.args(arguments).envs(env.iter().copied()).current_dir(dir).output().unwrap();
    let text = [out.stdout, out.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    (out.status.code(), text)
}

/// Where a process listens or, with UDP, waits: protocol, address and port.
fn listeners(pid: u32) -> Vec<(&'static str, IpAddr, u16)> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten();
    let links = descriptors.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok());
    let own: BTreeSet<String> =
        links.filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())).collect();
    let mut found = Vec::new();
    for (protocol, waits) in [("tcp", "0A"), ("tcp6", "0A"), ("udp", "07"), ("udp6", "07")] {
        let table = fs::read_to_string(format!("/proc/{pid}/net/{protocol}")).unwrap_or_default();
        for line in table.lines().skip(1) {
            let words: Vec<&str> = line.split_whitespace().collect();
            if words[3] == waits && own.contains(words[9]) {
                let (address, port) = words[1].split_once(':').unwrap();
                // Words of four bytes, each in the order of the machine.
                let word = |at: usize| u32::from_str_radix(&address[at..at + 8], 16).unwrap().to_ne_bytes();
                let address = match address.len() {
                    8 => Ipv4Addr::from(word(0)).into(),
                    _ => {
                        let bytes = [word(0), word(8), word(16), word(24)].concat();
                        IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).unwrap())).to_canonical()
                    }
                };
                found.push((protocol, address, u16::from_str_radix(port, 16).unwrap()));
            }
        }
    }
    found
}

/// The text with other ports, so that what else runs here is not in the way.
fn with_own_ports(text: &str) -> (String, BTreeSet<u16>) {
    let (mut out, mut ports) = (String::new(), BTreeSet::new());
    for line in text.lines() {
        let listens = line.split_once("\"listen\": \"").filter(|_| !line.trim_start().starts_with("//"));
        match listens.and_then(|(before, rest)| Some((before, rest.split_once('"')?))) {
            Some((before, (address, after))) => {
                let port = port();
                ports.insert(port);
                let host = address.rsplit_once(':').unwrap().0;
                out += &format!("{before}\"listen\": \"{host}:{port}\"{after}\n");
            }
            None => out += &format!("{line}\n"),
        }
    }
    (out, ports)
}

#[test]
fn what_listens_by_default_is_reached_from_this_machine_only() {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut seen = 0;
    for file in [files(&project.join("configs")), vec![project.join("packaging/tidegate.jsonc")]].concat() {
        let (dir, name) = (folder(), file.file_name().unwrap().to_str().unwrap().to_owned());
        fs::create_dir(dir.path().join("tidegate-data")).unwrap();
        private(&dir.path().join("broker"), "0123456789abcdef");
        let (text, ports) = with_own_ports(&fs::read_to_string(&file).unwrap());
        let text = text.replace("/var/lib/tidegate/", "");
        let secret = "0123456789abcdef";
        let credentials = dir.path().to_str().unwrap().to_owned();
        let env = [("HOOK_TOKEN", secret), ("UPSTREAM_TOKEN", secret), ("CREDENTIALS_DIRECTORY", &credentials)];
        let mut gateway = Gateway::start_with(dir.path(), &text, &env, None);
        let mut found = Vec::new();
        wait_for("it to run", LONG, || {
            found = listeners(gateway.pid());
            found.len() == ports.len() && gateway.log().contains("running") || gateway.has_ended()
        });
        assert_eq!(found.iter().map(|(_, _, port)| *port).collect::<BTreeSet<_>>(), ports, "{name}");
        // This one says so, and has a token; that it is found here shows that others would be.
        let open = name == "http-forwarder.jsonc";
        for (protocol, address, port) in &found {
            assert_eq!(address.is_loopback(), !open, "{name}: {protocol} {address}:{port}");
            assert!(protocol.starts_with("tcp"), "{name}: {protocol} {address}:{port}");
        }
        seen += found.len();
    }
    assert!(seen >= 5, "{seen}");
}

#[test]
fn a_listener_for_others_has_to_know_who_they_are() {
    let dir = folder();
    let web = |rest: &str| format!(r#"{{ "sources": {{ "s": {{ "type": "http", "listen": "ADDRESS:1"{rest} }} }} }}"#);
    let mqtt =
        |rest: &str| format!(r#"{{ "sources": {{ "s": {{ "type": "mqtt_listen", "listen": "ADDRESS:1"{rest} }} }} }}"#);
    let tls = r#", "tls": { "cert": "c.pem", "key": "k.pem" }"#;
    let certificates = r#", "tls": { "cert": "c.pem", "key": "k.pem", "client_ca": "ca.pem" }"#;
    let users =
        format!(r#", "users": [{{ "name": "ann", "password": {:?} }}]"#, mqtt_listen::hash_password("secret", 10));
    for (text, right) in [
        (web(""), false),
        (web(tls), false),
        (web(r#", "tokens": []"#), false),
        (web(r#", "tokens": ["0123456789abcde"]"#), false),
        (web(r#", "tokens": ["0123456789abcdef"]"#), true),
        (web(certificates), true),
        (web(r#", "open": true"#), true),
        (mqtt(""), false),
        (mqtt(tls), false),
        (mqtt(r#", "users": []"#), false),
        (mqtt(r#", "users": [{ "name": "ann", "password": "secret" }]"#), false),
        (mqtt(&users), true),
        (mqtt(certificates), true),
        (r#"{ "admin": { "listen": "ADDRESS:1" } }"#.into(), false),
    ] {
        for address in ["0.0.0.0", "[::]", "192.0.2.1", "[::ffff:192.0.2.1]", "[2001:db8::1]"] {
            fs::write(dir.path().join("t.jsonc"), text.replace("ADDRESS", address)).unwrap();
            let (code, text) = said(dir.path(), &["check", "t.jsonc"], &[]);
            assert_eq!(code, Some(if right { 0 } else { 78 }), "{address}: {text}");
        }
    }
    fs::write(dir.path().join("t.jsonc"), web("").replace("ADDRESS", "0.0.0.0")).unwrap();
    assert_eq!(said(dir.path(), &["run", "t.jsonc"], &[]).0, Some(78));
}

/// A request, and the status and body of the answer; 0 for none.
fn request(port: u16, method: &str, target: &str, header: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    write!(stream, "{method} {target} HTTP/1.1\r\nhost: x\r\n{header}connection: close\r\ncontent-length: 0\r\n\r\n")
        .unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok(); // what never ends is cut off by the time
    let answer = String::from_utf8_lossy(&answer).into_owned();
    (answer.get(9..12).and_then(|code| code.parse().ok()).unwrap_or(0), answer)
}

fn bearer(token: &str) -> String {
    format!("authorization: Bearer {token}\r\n")
}

/// CONNECT with MQTT 3.1.1, and the code of its answer.
fn connect(port: u16, client: &str, user: &str, password: &str) -> Option<u8> {
    let mut body = b"\0\x04MQTT\x04\xc2\0\0".to_vec();
    for text in [client, user, password] {
        body.extend_from_slice(&(text.len() as u16).to_be_bytes());
        body.extend_from_slice(text.as_bytes());
    }
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(&mqtt::packet(0x10, &body)).unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).ok().map(|()| answer[3])
}

/// The token beside a store, once it is there.
fn token(dir: &Path) -> String {
    let file = dir.join("tidegate.db-token");
    wait_for("the token", LONG, || fs::read_to_string(&file).is_ok_and(|text| text.ends_with('\n')));
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    fs::read_to_string(&file).unwrap().trim().to_owned()
}

#[test]
fn nothing_is_secret_by_default() {
    let (mut tokens, zeros) = (BTreeSet::new(), "0".repeat(64));
    for _ in 0..2 {
        let (dir, admin, web, devices) = (folder(), port(), port(), port());
        let users = mqtt_listen::hash_password("xyzzy", 10);
        let configuration = format!(
            r#"{{ "admin": {{ "listen": "127.0.0.1:{admin}" }}, "sources": {{
  "web": {{ "type": "http", "listen": "127.0.0.1:{web}", "tokens": ["xyzzy-xyzzy-xyzzy"] }},
  "devices": {{ "type": "mqtt_listen", "listen": "127.0.0.1:{devices}", "users": [{{ "name": "ann", "password": {users:?} }}] }} }} }}"#
        );
        let gateway = Gateway::start(dir.path(), &configuration, &[]);
        [admin, web, devices].into_iter().for_each(wait_for_port);
        let own = token(dir.path());
        assert!(own.len() == 64 && own.bytes().all(|b| b.is_ascii_hexdigit()), "{own}");
        for guess in ["", "admin", "password", "tidegate", "changeme", "secret", "token", "null", &zeros] {
            for (port, target) in [(admin, "/api/v1/status"), (web, "/v1/events")] {
                let (status, answer) = request(port, "POST", target, &bearer(guess));
                assert_eq!(status, 401, "{target} {guess}: {answer}");
            }
        }
        std::thread::scope(|scope| {
            for user in ["admin", "root", "tidegate", "ann", ""] {
                for guess in ["", "admin", "ann", "password"] {
                    scope.spawn(move || assert_ne!(connect(devices, "d", user, guess), Some(0), "{user} {guess}"));
                }
            }
        });
        // Who knows them is let in.
        assert_eq!(request(admin, "GET", "/api/v1/status", &bearer(&own)).0, 200);
        assert_eq!(connect(devices, "d", "ann", "xyzzy"), Some(0));
        assert!(gateway.stop().success());
        tokens.insert(own);
    }
    assert_eq!(tokens.len(), 2);
}

/// In every secret.
const NEEDLES: [&str; 2] = ["canary-", "5up3r53cr3t"];

/// A secret that nobody but who it is for should see.
fn secret(of: &str) -> String {
    format!("canary-{of}-5up3r53cr3t")
}

/// Fails if a text shows a piece of a secret.
fn clean(what: &str, text: &str) {
    let telling = text.lines().find(|line| NEEDLES.iter().any(|needle| line.contains(needle)));
    assert_eq!(telling, None, "{what} tells a secret");
}

/// An upstream that sends all it was sent back: 500 the first time, 422 for an event with `"n":2`, else 200.
fn echo(port: u16) -> Arc<Mutex<String>> {
    let (listener, heard) = (TcpListener::bind(("127.0.0.1", port)).unwrap(), Arc::<Mutex<String>>::default());
    let all = heard.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let (mut head, mut length) = (String::new(), 0);
            while !head.ends_with("\r\n\r\n") && stream.read_line(&mut head).is_ok_and(|n| n > 0) {
                let last = head.lines().last().unwrap_or_default().to_lowercase();
                length = last.strip_prefix("content-length: ").map_or(length, |n| n.parse().unwrap());
            }
            let mut body = vec![0; length];
            stream.read_exact(&mut body).ok();
            let body = String::from_utf8(body).unwrap();
            let first = std::mem::replace(&mut *all.lock().unwrap(), head.clone()).is_empty();
            let status = if first {
                "500 No"
            } else if body.contains("\"n\":2") {
                "422 No"
            } else {
                "200 OK"
            };
            let length = head.len();
            write!(
                stream.get_mut(),
                "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{head}"
            )
            .ok();
        }
    });
    heard
}

/// A configuration with a secret in every place that takes one, and its ports.
struct Planted {
    dir: tempfile::TempDir,
    text: String,
    admin: u16,
    web: u16,
    devices: u16,
    cloud: u16,
}

impl Planted {
    fn new() -> Planted {
        let (dir, admin, web, devices, cloud, closed) = (folder(), port(), port(), port(), port(), port());
        private(&dir.path().join("secret"), &format!("{}\n", secret("file")));
        fs::create_dir(dir.path().join("credentials")).unwrap();
        private(&dir.path().join("credentials/broker"), &secret("cred"));
        let hash = mqtt_listen::hash_password(&secret("right"), 10);
        let [literal, header, query, url] = ["literal", "header", "query", "url"].map(secret);
        let text = format!(
            r#"{{
  "admin": {{ "listen": "127.0.0.1:{admin}" }},
  "systems": {{ "cache": {{ "type": "redis", "url": "redis://me:{url}@127.0.0.1:{closed}", "timeout": "1s" }} }},
  "sources": {{
    "web": {{ "type": "http", "listen": "127.0.0.1:{web}", "tokens": ["{literal}"] }},
    "devices": {{ "type": "mqtt_listen", "listen": "127.0.0.1:{devices}", "users": [{{ "name": "me", "password": "{hash}" }}] }}
  }},
  "pipelines": {{
    "p": {{
      "from": ["web"],
      "to": ["cloud", "broker"],
      "processes": [
        {{ "type": "tee", "name": "keep", "when": "event.n == 0", "to": {{ "kv": "cache" }}, "retry": {{ "count": 1, "initial": "10ms" }} }},
        {{ "type": "spawn", "name": "say", "when": "event.n == 1", "program": "/bin/sh",
          "args": ["-c", "echo \"no $TOKEN\" >&2; exit 1"], "env": {{ "TOKEN": "${{file:secret}}" }} }}
      ]
    }}
  }},
  "sinks": {{
    "cloud": {{
      "type": "http",
      "url": "http://127.0.0.1:{cloud}/in?key={query}",
      "headers": {{ "Authorization": "Bearer ${{file:secret}}", "X-Env": "${{CANARY_ENV}}", "X-Literal": "{header}" }}
    }},
    "broker": {{
      "type": "mqtt",
      "url": "mqtt://127.0.0.1:{closed}",
      "username": "me",
      "password": "${{cred:broker}}",
      "topic": "t"
    }},
    "rest": {{ "type": "stdout", "from": ["devices"] }}
  }}
}}
"#
        );
        Planted { dir, text, admin, web, devices, cloud }
    }

    fn env(&self) -> [(&'static str, String); 3] {
        let credentials = self.dir.path().join("credentials").to_str().unwrap().to_owned();
        [("CANARY_ENV", secret("env")), ("CREDENTIALS_DIRECTORY", credentials), ("RUST_LOG", "trace".into())]
    }

    /// As `said`, and it must not tell a secret.
    fn run(&self, arguments: &[&str]) -> String {
        let env = self.env();
        let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let (code, text) = said(self.dir.path(), arguments, &env);
        assert_ne!(code, Some(2), "{text}");
        clean(&arguments.join(" "), &text);
        text
    }
}

/// What the API can be asked, by path: the methods. From the document, where there is one.
fn routes(port: u16) -> BTreeMap<String, BTreeSet<String>> {
    let (status, answer) = request(port, "GET", "/api/v1/openapi.json", "");
    let known = [
        ("GET", "/healthz"),
        ("GET", "/readyz"),
        ("GET", "/metrics"),
        ("GET", "/api/v1/status"),
        ("GET", "/api/v1/ledger"),
        ("GET", "/api/v1/dead"),
        ("POST", "/api/v1/dead/retry"),
        ("POST", "/api/v1/dead/purge"),
        ("POST", "/api/v1/consumers/{name}/pause"),
        ("POST", "/api/v1/consumers/{name}/resume"),
    ];
    let mut routes: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (method, path) in known {
        routes.entry(path.into()).or_default().insert(method.into());
    }
    if status == 200 {
        let document: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
        for (path, methods) in document["paths"].as_object().unwrap() {
            let methods = methods.as_object().unwrap().keys().map(|method| method.to_uppercase());
            routes.entry(path.clone()).or_default().extend(methods);
        }
    }
    routes
}

/// A path with something in the place of each name in braces.
fn filled(path: &str) -> String {
    let parts = path.split('/').map(|part| match part {
        "{name}" | "{consumer}" => "sinks.cloud",
        "{topic}" => "web",
        part if part.starts_with('{') => "1",
        part => part,
    });
    parts.collect::<Vec<_>>().join("/")
}

/// The files below a folder.
fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[test]
fn a_secret_shows_nowhere() {
    let planted = Planted::new();
    let Planted { dir, text, admin, web, devices, cloud } = &planted;
    let heard = echo(*cloud);
    let env = planted.env();
    let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let gateway = Gateway::start_with(dir.path(), text, &env, None);
    [*admin, *web, *devices].into_iter().for_each(wait_for_port);
    // All that clients bring, right and wrong.
    let events = |header: &str, target: &str, body: &str| {
        let mut stream = TcpStream::connect(("127.0.0.1", *web)).unwrap();
        let length = body.len();
        write!(
            stream,
            "POST {target} HTTP/1.1\r\nhost: x\r\n{header}connection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        clean("an answer", &answer);
        answer[9..12].to_owned()
    };
    let right = bearer(&secret("literal"));
    for (n, after) in [(0, ""), (1, ""), (2, ""), (3, "?x=y")] {
        assert_eq!(events(&right, &format!("/v1/events{after}"), &format!("{{\"n\":{n}}}")), "202");
    }
    assert_eq!(events(&bearer(&secret("wrong")), "/v1/events", "{}"), "401");
    assert_eq!(events("", &format!("/v1/events?access_token={}", secret("literal")), "{}"), "401");
    assert_eq!(connect(*devices, "d", "me", &secret("right")), Some(0));
    assert_ne!(connect(*devices, "d", "me", &secret("wrong")), Some(0));
    assert_ne!(connect(*devices, "d", &secret("user"), &secret("right")), Some(0));
    let dead = || -> Value {
        let text = planted.run(&["dead", "ls", "-c", "tidegate.jsonc", "--format", "json"]);
        text.find('{').map_or(Value::Null, |at| serde_json::from_str(&text[at..]).unwrap_or_default())
    };
    wait_for("three dead letters", LONG, || dead()["letters"].as_array().is_some_and(|letters| letters.len() == 3));
    assert!(Command::new("kill").args(["-USR1", &gateway.pid().to_string()]).status().unwrap().success());
    // What nobody may see was really used.
    let heard = heard.lock().unwrap().clone();
    for of in ["file", "env", "header", "query"] {
        assert!(heard.contains(&secret(of)), "{of}: {heard}");
    }
    let own = token(dir.path());
    for (path, methods) in routes(*admin) {
        for header in ["", &bearer(&own), &bearer(&secret("wrong"))] {
            for method in methods.iter().filter(|method| *method == "GET") {
                let (_, answer) = request(*admin, method, &filled(&path), header);
                clean(&path, &answer);
                assert!(!answer.contains(&own), "{path} tells the token: {answer}");
            }
        }
    }
    let (status, answer) = request(*admin, "GET", "/metrics", "");
    assert!(status == 200 && answer.contains("tidegate_dead_letters 3"), "{answer}");
    for command in [&["status"][..], &["ledger"], &["dead", "ls"], &["dead", "show", "1"], &["doctor"]] {
        let text = planted.run(&[command, &["-c", "tidegate.jsonc"]].concat());
        assert!(!text.contains(&own), "{text}");
    }
    for command in [&["check", "tidegate.jsonc"][..], &["schema"], &["kinds", "mqtt"], &["status"]] {
        planted.run(command);
    }
    planted.run(&["support-bundle", "-o", "b.tar.gz", "-c", "tidegate.jsonc"]);
    let mut bundle = Vec::new();
    flate2::read::GzDecoder::new(fs::File::open(dir.path().join("b.tar.gz")).unwrap())
        .read_to_end(&mut bundle)
        .unwrap();
    let bundle = String::from_utf8_lossy(&bundle);
    clean("the bundle", &bundle);
    assert!(bundle.contains("tidegate_dead_letters") && !bundle.contains(&own), "{bundle}");
    wait_for("the summary", LONG, || gateway.log().contains("down: sinks.broker") || gateway.log().contains("queued"));
    let log = gateway.log();
    assert!(gateway.stop().success());
    clean("the log", &log);
    assert!(!log.contains(&own), "{log}");
    assert!(log.contains("answered 500") && log.contains("was not let in"), "{log}");
    // Where it keeps what it read, if it does, only its user can see it.
    let given = ["tidegate.jsonc", "secret", "broker", "log"];
    for file in files(dir.path()) {
        let known = given.iter().any(|name| file.ends_with(name));
        let text = String::from_utf8_lossy(&fs::read(&file).unwrap_or_default()).into_owned();
        let open = fs::metadata(&file).unwrap().permissions().mode() & 0o077 != 0;
        assert!(known || !open || !NEEDLES.iter().any(|n| text.contains(n)), "{} is for others, too", file.display());
    }
}

/// The configuration, wrong in many ways.
fn mutants(text: &str) -> Vec<String> {
    let mut all = Vec::new();
    let quotes: Vec<usize> =
        text.match_indices('"').map(|(at, _)| at).filter(|at| text.as_bytes()[at - 1] != b'\\').collect();
    for (at, _) in text.match_indices(|c: char| "{}[],:".contains(c)) {
        all.push(format!("{}{}", &text[..at], &text[at + 1..]));
    }
    for pair in quotes.chunks(2) {
        let (before, word, after) = (&text[..pair[0]], &text[pair[0] + 1..pair[1]], &text[pair[1] + 1..]);
        all.push(format!("{before}{word}\"{after}"));
        all.push(format!("{before}{word}{after}"));
        all.push(format!("{before}\"{word}x\"{after}"));
        if word.contains(NEEDLES[0]) || word.contains("${") {
            // As it would be written by somebody who takes the field for another.
            for (open, close) in [("[\"", "\"]"), ("{ \"a\": \"", "\" }"), ("\"http://", "\""), ("\"a:", "@b\"")] {
                all.push(format!("{before}{open}{word}{close}{after}"));
            }
        } else if !after.trim_start().starts_with(':') {
            all.push(format!("{before}\"${{file:secret}}\"{after}"));
            all.push(format!("{before}\"a ${{file:secret}}.b\"{after}"));
        }
    }
    all
}

#[test]
fn a_wrong_configuration_does_not_tell_a_secret() {
    let planted = Planted::new();
    // The references to the environment, as files: a test cannot change its own environment.
    let outside = planted.dir.path().display();
    let text = planted.text.replace("${CANARY_ENV}", "${file:secret}").replace("${cred:broker}", "${file:secret}");
    let (mut wrong, mut last) = (0, String::new());
    let all = mutants(&text);
    for mutant in &all {
        let mutant = mutant.replace("${file:secret}", &format!("${{file:{outside}/secret}}"));
        let problems = match config::load(Path::new("t"), &mutant, &cli::catalogue()) {
            Ok((_, warnings)) => warnings,
            Err(errors) => errors,
        };
        for problem in &problems {
            clean(&mutant, &problem.to_string());
        }
        wrong += usize::from(!problems.is_empty());
        last = mutant;
    }
    assert!(wrong * 10 > all.len() * 8, "{wrong} of {} are wrong: {last}", all.len());
    // And of the program itself, where it reads the environment.
    for (from, to) in [("\"X-Env\"", "\"X Env\""), ("\"topic\": \"t\"", "\"topic\": \"#${CANARY_ENV}\""), ("]", "")] {
        fs::write(planted.dir.path().join("t.jsonc"), planted.text.replacen(from, to, 1)).unwrap();
        for command in ["check", "run", "status"] {
            let text = planted.run(&[command, if command == "status" { "-ct.jsonc" } else { "t.jsonc" }]);
            assert!(command == "status" || text.contains("t.jsonc:"), "{command}: {text}");
        }
    }
}

#[test]
fn nobody_changes_anything_without_the_token() {
    let (dir, admin, web, cloud, other) = (folder(), port(), port(), port(), folder());
    let _upstream = http::Upstream::start(cloud, |_| 422);
    let configuration = format!(
        r#"{{ "admin": {{ "listen": "127.0.0.1:{admin}" }},
  "sources": {{ "web": {{ "type": "http", "listen": "127.0.0.1:{web}" }} }},
  "sinks": {{ "cloud": {{ "type": "http", "url": "http://127.0.0.1:{cloud}/", "from": ["web"] }} }} }}"#
    );
    let one = format!(r#"{{ "sources": {{ "web": {{ "type": "http", "listen": "127.0.0.1:{}" }} }} }}"#, port());
    let elsewhere = Gateway::start(other.path(), &one, &[]);
    let foreign = token(other.path());
    assert!(elsewhere.stop().success());
    let gateway = Gateway::start(dir.path(), &configuration, &[]);
    [admin, web].into_iter().for_each(wait_for_port);
    assert_eq!(http::post(&format!("http://127.0.0.1:{web}/v1/events"), r#"{"n":1}"#).unwrap().0, 202);
    let own = token(dir.path());
    let now = || -> Value {
        let (status, answer) = request(admin, "GET", "/api/v1/status", &bearer(&own));
        assert_eq!(status, 200, "{answer}");
        serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
    };
    wait_for("a dead letter", LONG, || now()["store"]["dead_letters"] == 1);
    let routes = routes(admin);
    assert!(routes.values().flatten().any(|method| method != "GET"));
    let headers = [
        bearer(""),
        bearer(&own[1..]),
        bearer(&foreign),
        format!("authorization: Basic {own}\r\n"),
        format!("authorization: {own}\r\n"),
        format!("x-token: {own}\r\ncookie: token={own}\r\n"),
    ];
    let mut wrong = Vec::new();
    for (path, methods) in &routes {
        let tried = ["POST", "DELETE"].into_iter().chain(methods.iter().map(String::as_str));
        for method in tried.collect::<BTreeSet<_>>() {
            // What is open can only be asked; the API's description is no secret either.
            if method != "GET" || path.starts_with("/api/") && !path.ends_with("openapi.json") {
                wrong.push((method, format!("{}?all=true", filled(path)), ""));
            }
        }
        for method in ["POST", "PUT", "PATCH", "DELETE", "GET"] {
            // Nothing of it is on the port for data, whatever is brought.
            let (status, answer) = request(web, method, &filled(path), &bearer(&own));
            assert!([401, 404, 405].contains(&status), "{method} {path} on the port for data: {answer}");
        }
    }
    let target = "/api/v1/dead/purge?all=true";
    wrong.extend(headers.iter().map(|header| ("POST", target.to_owned(), header.as_str())));
    wrong.push(("POST", format!("{target}&token={own}&access_token={own}"), ""));
    assert!(wrong.len() > 20, "{}", wrong.len());
    // Whoever guesses on is answered late: so all at once, as many as there are connections for.
    let next = Mutex::new(wrong.into_iter());
    std::thread::scope(|scope| {
        for _ in 0..15 {
            scope.spawn(|| {
                while let Some((method, target, header)) = next.lock().ok().and_then(|mut next| next.next()) {
                    let (status, answer) = request(admin, method, &target, header);
                    assert_eq!(status, 401, "{method} {target} {header}: {answer}");
                }
            });
        }
    });
    let after = now();
    assert_eq!((&after["store"]["dead_letters"], after["paused"].as_array().unwrap().len()), (&1.into(), 0), "{after}");
    // With it, it is done.
    assert_eq!(request(admin, "POST", "/api/v1/dead/purge?all=true", &bearer(&own)).0, 200);
    assert_eq!(now()["store"]["dead_letters"], 0);
    assert!(gateway.stop().success());
}

#[test]
fn nobody_else_writes_a_line_of_the_log() {
    const FAKE: &str = "\r\nERROR [tidegate::store] FAKE \u{1b}[31m\u{9b}2J";
    let (dir, web, devices, cloud) = (folder(), port(), port(), port());
    let hash = mqtt_listen::hash_password("x", 10);
    let text = serde_json::to_string(FAKE).unwrap();
    let configuration = format!(
        r#"{{ "sources": {{
    "web": {{ "type": "http", "listen": "127.0.0.1:{web}", "id": "id", "key": "key" }},
    "devices": {{ "type": "mqtt_listen", "listen": "127.0.0.1:{devices}", "users": [{{ "name": "ann", "password": {hash:?} }}] }},
    "lines": {{ "type": "file", "path": "lines", "on_bad": "skip" }} }},
  "pipelines": {{ "p": {{ "from": ["web"], "to": ["cloud"], "processes": [
    {{ "type": "spawn", "program": "/bin/cat", "args": [{text}, "/nowhere"], "wait": false }} ] }} }},
  "sinks": {{ "cloud": {{ "type": "http", "url": "http://127.0.0.1:{cloud}/" }},
    "rest": {{ "type": "stdout", "from": ["lines", "devices"] }} }} }}"#
    );
    fs::write(dir.path().join("lines"), format!("{FAKE}\n")).unwrap();
    // Its answers quote what it was sent.
    let listener = TcpListener::bind(("127.0.0.1", cloud)).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            if stream.read(&mut [0; 4096]).is_ok_and(|n| n > 0) {
                let length = FAKE.len();
                write!(stream, "HTTP/1.1 500 No\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{FAKE}").ok();
            }
        }
    });
    let gateway = Gateway::start_with(dir.path(), &configuration, &[("RUST_LOG", "trace")], None);
    [web, devices].into_iter().for_each(wait_for_port);
    assert_ne!(connect(devices, FAKE, "ann", "wrong"), Some(0));
    let event = format!(r#"{{"id":{text},"key":{text},"n":1}}"#);
    assert_eq!(http::post(&format!("http://127.0.0.1:{web}/v1/events"), &event).unwrap().0, 202);
    wait_for("what all said", LONG, || {
        ["sinks.cloud: down", "pipelines.p", "lines: passed over"].iter().all(|what| gateway.log().contains(what))
    });
    let log = gateway.log();
    assert!(log.matches("FAKE").count() >= 2, "{log}");
    for line in log.lines() {
        assert!(!line.starts_with("ERROR [tidegate::store] FAKE"), "{log}");
        assert!(!line.chars().any(char::is_control), "{line:?}");
    }
    assert!(gateway.stop().success());
}

#[test]
fn a_child_gets_what_it_is_given_and_nothing_else() {
    let (dir, web) = (folder(), port());
    let script = dir.path().join("child");
    fs::write(
        &script,
        "#!/bin/sh\nfor a in \"$@\"; do echo \"$a\" >>args; done\nenv >env\nls -l /proc/$$/fd | cat >fds\ncat >input\nmv input done\n",
    )
    .unwrap();
    fs::set_permissions(&script, PermissionsExt::from_mode(0o700)).unwrap();
    let tricks =
        ["$(touch owned)", "`touch owned`", "; touch owned", "| touch owned", "&& touch owned", "> owned", "*"];
    let configuration = format!(
        r#"{{ "systems": {{ "kept": {{ "type": "sqlite", "path": "kept.db" }} }},
  "sources": {{ "web": {{ "type": "http", "listen": "127.0.0.1:{web}" }} }},
  "pipelines": {{ "p": {{ "from": ["web"], "to": ["out"], "processes": [
    {{ "type": "tee", "to": {{ "kv": "kept" }} }},
    {{ "type": "spawn", "program": {script:?}, "args": {tricks:?}, "env": {{ "GIVEN": "$(touch owned)" }} }} ] }} }},
  "sinks": {{ "out": {{ "type": "file", "path": "out.ndjson" }} }} }}"#
    );
    let env = [("CANARY_ENV", "canary"), ("LD_DEBUG_OUTPUT", "canary"), ("NOTIFY_SOCKET", "")];
    let gateway = Gateway::start_with(dir.path(), &configuration, &env, None);
    wait_for_port(web);
    let event = r#"{"n":"$(touch owned)","m":"; touch owned"}"#;
    assert_eq!(http::post(&format!("http://127.0.0.1:{web}/v1/events"), event).unwrap().0, 202);
    wait_for("the child", LONG, || dir.path().join("done").exists());
    let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
    assert_eq!(read("args").lines().collect::<Vec<_>>(), tricks);
    assert!(read("done").contains("$(touch owned)"));
    let shells_own = ["PWD", "OLDPWD", "SHLVL", "_"];
    let names: Vec<String> = read("env").lines().filter_map(|l| Some(l.split_once('=')?.0.to_owned())).collect();
    let names: BTreeSet<&str> = names.iter().map(String::as_str).filter(|name| !shells_own.contains(name)).collect();
    assert_eq!(names, ["GIVEN", "PATH"].into());
    let open: Vec<String> = read("fds").lines().filter_map(|l| Some(l.split_once(" -> ")?.1.to_owned())).collect();
    let strange =
        open.iter().filter(|to| !to.starts_with("pipe:") && !to.ends_with("/child") && !to.ends_with("/null"));
    assert_eq!(strange.collect::<Vec<_>>(), Vec::<&String>::new(), "{open:?}");
    assert!(open.len() >= 3, "{open:?}");
    assert!(gateway.stop().success());
    assert!(!dir.path().join("owned").exists());
}

#[test]
fn a_secret_that_others_can_read_or_write_is_told() {
    let dir = folder();
    let reference =
        r#"{ "sinks": { "a": { "type": "http", "url": "http://h/", "headers": { "X": "${file:secret}" } } } }"#;
    let key = r#"{ "sources": { "a": { "type": "http", "tls": { "cert": "c.pem", "key": "secret" } } } }"#;
    for (text, mode, code, want) in [
        (reference, 0o600, 0, ""),
        (reference, 0o640, 0, ""),
        (reference, 0o644, 78, "everyone can read this file; run `chmod 600 secret`"),
        (reference, 0o622, 78, "everyone can write this file; run `chmod 600 secret`"),
        (key, 0o600, 0, ""),
        (key, 0o644, 0, "warning: sources.a.tls.key: everyone can read this file; run `chmod 600 secret`"),
        (key, 0o602, 0, "warning: sources.a.tls.key: everyone can write this file"),
    ] {
        private(&dir.path().join("secret"), "0123456789abcdef");
        fs::set_permissions(dir.path().join("secret"), PermissionsExt::from_mode(mode)).unwrap();
        fs::write(dir.path().join("t.jsonc"), text).unwrap();
        let (got, text) = said(dir.path(), &["check", "t.jsonc"], &[]);
        assert_eq!(got, Some(code), "{mode:o}: {text}");
        assert!(text.contains(want) && text.contains("everyone can") != want.is_empty(), "{mode:o}: {text}");
    }
}
