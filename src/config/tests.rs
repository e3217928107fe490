//! Wrong configurations and what is said about them, with toy kinds.

use super::*;
use crate::kind::{Kind, ParamsError};
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeMap;

/// What the toy components keep of their configuration.
pub(crate) trait Toy {
    fn told(&self) -> String;
}
impl Toy for String {
    fn told(&self) -> String {
        self.clone()
    }
}

/// Takes requests.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Hook {
    /// Address and port.
    listen: String,
    #[schemars(range(min = 1, max = 64))]
    #[serde(default)]
    connections: Option<u16>,
    #[serde(default)]
    tls: Option<Tls>,
    #[serde(default)]
    paths: Vec<Route>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
struct Tls {
    cert: String,
    #[serde(default)]
    client: Client,
}

#[derive(Deserialize, JsonSchema, serde::Serialize, Default)]
#[serde(rename_all = "snake_case")]
enum Client {
    /// Nobody is asked.
    #[default]
    Ignored,
    Required,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
struct Route {
    #[schemars(regex(pattern = "^/"), description = "A path that begins with a slash.")]
    path: String,
    #[serde(default)]
    wait: Option<crate::budget::Span>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
struct Cloud {
    url: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    ratio: Option<f64>,
    #[serde(default)]
    mode: Option<Mode>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(tag = "as", rename_all = "lowercase", deny_unknown_fields)]
#[allow(dead_code)]
enum Mode {
    Lines { end: String },
    Array { indent: u8 },
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Annotate {
    set: serde_json::Map<String, serde_json::Value>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Nothing {}

const HOOK: Kind<dyn Toy> = Kind {
    name: "http",
    about: "events posted over HTTP",
    example: r#"{ "type": "http", "listen": "127.0.0.1:8080" }"#,
    schema: Hook::json_schema,
    build: |params| {
        let hook: Hook = params.decode()?;
        if !hook.listen.contains(':') {
            return Err(ParamsError::at("listen", format!("`{}` has no port", hook.listen)));
        }
        let tls = hook.tls.map(|t| t.cert).unwrap_or_default();
        let paths = hook.paths.len();
        Ok(Box::new(format!("{} {} {:?} {tls} {paths}", params.name, hook.listen, hook.connections)))
    },
};
const TIMER: Kind<dyn Toy> = Kind {
    name: "timer",
    about: "an event every so often",
    example: r#"{ "type": "timer" }"#,
    schema: Nothing::json_schema,
    build: |params| params.decode::<Nothing>().map(|_| Box::new(params.name) as Box<dyn Toy>),
};
const ANNOTATE: Kind<dyn Toy> = Kind {
    name: "annotate",
    about: "adds fields",
    example: r#"{ "type": "annotate", "set": { "site": "barn" } }"#,
    schema: Annotate::json_schema,
    build: |params| Ok(Box::new(format!("{} {}", params.name, params.decode::<Annotate>()?.set.len()))),
};
const CLOUD: Kind<dyn Toy> = Kind {
    name: "http",
    about: "events to a server",
    example: r#"{ "type": "http", "url": "https://example.org" }"#,
    schema: Cloud::json_schema,
    build: |params| {
        let cloud: Cloud = params.decode()?;
        match cloud.url.split_once("://") {
            Some(_) => Ok(Box::new(format!("{} {} {:?}", cloud.url, cloud.headers.len(), cloud.ratio))),
            None => Err(ParamsError::at("url", format!("`{}` is not a URL", cloud.url))),
        }
    },
};

pub(crate) const TOYS: Catalogue<'static, dyn Toy, dyn Toy, dyn Toy> = Catalogue {
    sources: &[HOOK, TIMER],
    processes: &[ANNOTATE],
    sinks: &[CLOUD],
    systems: crate::kind::systems::KINDS,
};

fn outside(reference: &str) -> Result<String, String> {
    interpolate::resolve(reference, &|name| match name {
        "SECRET" => Some("canary-7d1f3b".into()),
        "URL" => Some("https://example.org/canary-7d1f3b".into()),
        "NUMBER" => Some("12x".into()),
        "PIPE" => Some("canary-pipe".into()),
        _ => None,
    })
}

fn errors(text: &str) -> Vec<String> {
    match load_with(Path::new("f"), text, &TOYS, &outside) {
        Ok(_) => vec!["ok".into()],
        Err(problems) => problems.iter().map(Problem::to_string).collect(),
    }
}

const VALID: &str = r#"{
  "$schema": "tidegate.schema.json", // for the editor
  "gateway": { "id": "barn-7" },
  "store": { "path": "data/x.db", "disk": { "high": "256MiB", "low": "192MiB" }, "dedupe": { "window": "10m", "ids": 9 } },
  "topics": { "hook": { "keep": { "age": "7d", "bytes": "1MiB" } }, "alarms": {} },
  "sources": {
    "hook": {
      "type": "http", "listen": "127.0.0.1:8080", "id": "meta.id", "priority": 7, "connections": 3,
      "tls": { "cert": "${SECRET}", "client": "required" }, "paths": [ { "path": "/a", "wait": "5s" }, ],
    },
    "tick": { "type": "timer", "max_event": 1000 },
  },
  "pipelines": {
    "climate": {
      "from": ["hook"],
      "processes": [ { "type": "annotate", "set": { "site": ["barn", 1, null, { "x": true }] } },
        { "type": "annotate", "set": {}, "when": "true", "on_fail": "continue" }, { "type": "annotate", "name": "third", "set": {} } ],
      "to": ["cloud"], "on_fail": { "topic": "bad" }, "retry": { "count": 2 }, "start": "newest",
    },
    "both": { "from": ["climate", "tick"], "to": ["cloud"] },
  },
  "sinks": {
    "cloud": {
      "type": "http", "url": "https://example.org/${SECRET}", "headers": { "authorization": "Bearer ${SECRET}", "x.y": "$${z}" },
      "from": ["bad", "both"], "batch": { "max": 10, "bytes": "64KiB", "wait": "1s" }, "ratio": 0.5, "retry": { "max": "5s" },
      "mode": { "as": "lines", "end": "\n" },
    },
  },
}"#;

#[test]
fn a_valid_configuration_becomes_a_plan() {
    let (plan, warnings) = load_with(Path::new("f"), VALID, &TOYS, &outside).unwrap();
    assert_eq!(warnings, []);
    assert_eq!(plan.settings.gateway.id, "barn-7");
    assert_eq!(plan.settings.store.disk.low().0, 192 << 20);
    assert_eq!(plan.settings.topics["hook"].keep.age.map(|a| a.to_string()).as_deref(), Some("7d"));
    let hook = &plan.sources[0];
    assert_eq!((hook.name.as_str(), hook.kind, hook.common.priority), ("hook", "http", 7));
    assert_eq!(hook.common.id.as_deref(), Some("meta.id"));
    assert_eq!(hook.source.told(), "hook 127.0.0.1:8080 Some(3) canary-7d1f3b 1");
    assert_eq!(plan.sources[1].common.max_event.0, 1000);
    let climate = &plan.pipelines[0];
    let told = climate.processes.iter().map(|p| {
        let when = p.when.as_ref().map(|w| w.as_str());
        format!("{} {} {:?} {:?} {:?}", p.kind, p.process.told(), when, p.on_fail, p.retry.count)
    });
    assert_eq!(
        told.collect::<Vec<_>>(),
        [
            r#"annotate annotate 1 None Topic("bad") Some(2)"#,
            r#"annotate annotate#2 0 Some("true") Continue Some(2)"#,
            r#"annotate third 0 None Topic("bad") Some(2)"#,
        ]
    );
    assert_eq!(climate.settings.start, Start::Newest);
    assert_eq!(climate.writes, ["bad", "bad"]);
    let cloud = &plan.sinks[0];
    assert_eq!(cloud.from, ["bad", "both", "climate"]);
    assert_eq!((cloud.common.batch.max, cloud.common.retry.max.to_string().as_str()), (10, "5s"));
    assert_eq!(cloud.sink.told(), "https://example.org/canary-7d1f3b 2 Some(0.5)");
    assert!(!format!("{plan:?}").contains("canary"));
}

#[test]
fn what_is_not_given_has_a_default() {
    let text =
        r#"{"sources": {"a": {"type": "timer"}}, "sinks": {"s": {"type": "http", "url": "x://", "from": ["a"]}}}"#;
    let (plan, _) = load_with(Path::new("f"), text, &TOYS, &outside).unwrap();
    assert!(!plan.settings.gateway.id.is_empty());
    let store = &plan.settings.store;
    assert_eq!((store.path.as_str(), store.disk.high.to_string().as_str()), ("tidegate.db", "1GiB"));
    assert_eq!((store.disk.low().0 * 10).div_ceil(store.disk.high.0), 8);
    assert_eq!(plan.sources[0].common.priority, 4);
    let common = &plan.sinks[0].common;
    assert_eq!(
        (common.batch.max, common.start, common.retry.initial.to_string().as_str()),
        (1000, Start::Oldest, "100ms")
    );
}

/// Rows of a text and the errors it gets, one a line.
fn check(rows: &[(&str, &[&str])]) {
    for (text, want) in rows {
        assert_eq!(&errors(text), want, "{text}");
    }
}

#[test]
fn syntax_errors_name_the_place() {
    check(&[
        ("", &["the file is empty, expected an object (f:1:1)"]),
        ("// nothing\n", &["the file is empty, expected an object (f:2:1)"]),
        ("[]", &["expected an object, found a list (f:1:1)"]),
        ("{", &["an object without its closing `}` (f:1:1)"]),
        ("{\"sinks\": [}", &["unexpected `}` (f:1:12)"]),
        ("{\"sinks\": [", &["a list without its closing `]` (f:1:11)"]),
        ("{\"sinks\" {}}", &["expected `:` after the name of the field (f:1:10)"]),
        ("{\"sinks\": }", &["unexpected `}` (f:1:11)"]),
        ("{\"sinks\": {} \"topics\": {}}", &["expected `,` before the next value (f:1:13)"]),
        ("{\"sinks\": {},, }", &["unexpected `,` (f:1:14)"]),
        ("{sinks: {}}", &["names of fields stand in quotes: `\"sinks\"` (f:1:2)"]),
        ("{'sinks': {}}", &["text stands in double quotes (f:1:2)"]),
        ("{} x", &["expected the end of the file, found `x` (f:1:4)"]),
        ("{\"sinks\": yes}", &["unexpected `yes` (f:1:11)"]),
        ("/* never ends", &["a comment without its closing `*/` (f:1:1)"]),
        ("{\"a\": \"b\n}", &["text without its closing `\"` on the same line (f:1:7)"]),
        ("{\"a\": \"\\", &["unterminated string literal (f:1:7)"]),
        ("{\"a\": \"\\x\"}", &["invalid escape (f:1:8)"]),
        (
            "{\"a\": \"\\ud800\"}",
            &[
                "invalid unicode escape sequence. 'd800 (unpaired high surrogate)' is not a valid utf8 character (f:1:8)",
            ],
        ),
        ("{\"a\": 0x1F}", &["`0x1F` is not a number as JSON writes it (f:1:7)"]),
        (
            "{\"a\": 1e999}",
            &[
                "unknown field `a`, expected `gateway`, `store`, `admin`, `topics`, `sources`, `pipelines`, `sinks` or `systems` (f:1:2)",
                "a: `1e999` is not a number that can be held (f:1:7)",
            ],
        ),
        (
            "{\"topics\": {\"é\u{1f30a}\": \"\u{1}\"}}",
            &[
                "topics: expected a name of 1 to 64 letters, digits, `_`, `.` and `-`, found `é\u{1f30a}` (f:1:13)",
                "topics.é\u{1f30a}: text with a control character, write it as an escape (f:1:19)",
            ],
        ),
        // Comments, CRLF, a byte order mark and letters of several bytes before the place.
        (
            "\u{feff}{ // ü\r\n /* \n */ \"topics\": { \"ok\": {}, /* ü🌊 */ \"b\": 1 }\r\n}",
            &["topics.b: expected an object, found a number (f:3:41)"],
        ),
    ]);
}

#[test]
fn fields_are_checked_where_they_stand() {
    check(&[
        ("{\"store\": {\"pat\": \"x\"}}", &["store: unknown field `pat`, did you mean `path`? (f:1:12)"]),
        (
            "{\"store\": {\"disk\": {\"size\": 1}}}",
            &[
                "store.disk: unknown field `size`, expected `high`, `low`, `soft`, `critical`, `events`, `free`, `when_full` or `offload` (f:1:21)",
            ],
        ),
        (
            "{\"admin\": {\"listen\": \"nowhere\"}}",
            &[
                "admin.listen: expected `unix`, `off`, or an address and a port, like `127.0.0.1:9797` instead of `nowhere` (f:1:22)",
            ],
        ),
        (
            "{\"admin\": {\"listen\": \"0.0.0.0:9797\"}}",
            &[
                "admin.listen: other machines reach this address: set `admin.tls` too, or listen on `unix` or `127.0.0.1` and come through SSH (f:1:22)",
            ],
        ),
        ("{\"store\": {\"path\": \"\"}}", &["store.path: expected text, found an empty one (f:1:20)"]),
        ("{\"store\": {}, \"store\": {}}", &["store: the field is given twice (f:1:15)"]),
        (
            "{\"store\": {\"disk\": {\"high\": \"many\"}}}",
            &["store.disk.high: expected something like \"64KiB\", found `many` (f:1:29)"],
        ),
        (
            "{\"store\": {\"disk\": {\"high\": \"1.2.3MiB\"}}}",
            &["store.disk.high: `1.2.3MiB` is not a size; write it like \"64KiB\" or \"1MB\" (f:1:29)"],
        ),
        (
            "{\"store\": {\"disk\": {\"high\": []}}}",
            &["store.disk.high: expected text or a whole number, found a list (f:1:29)"],
        ),
        (
            "{\"store\": {\"disk\": {\"high\": 1.5}}}",
            &["store.disk.high: expected text or a whole number, found `1.5` (f:1:29)"],
        ),
        (
            "{\"store\": {\"disk\": {\"high\": \"1MiB\",\n \"low\": \"2MiB\"}}}",
            &["store.disk.low: expected at most `high`, which is 1MiB (f:2:9)"],
        ),
        (
            "{\"store\": {\"disk\": {\"high\": \"1MiB\", \"low\": \"1KiB\",\n \"soft\": \"2MiB\", \"critical\": \"1KiB\",\n \"events\": {\"high\": 10, \"low\": 20},\n \"when_full\": \"offload\"}},\n \"topics\": {\"a\": {\"when_full\": \"offload\"}}}",
            &[
                "store.disk.soft: expected at most `high`, which is 1MiB (f:2:10)",
                "store.disk.critical: expected at least `high`, which is 1MiB (f:2:30)",
                "store.disk.events.low: expected at most `high`, which is 10 (f:3:32)",
                "store.disk.when_full: `offload` needs to know where: `store.disk.offload` (f:4:15)",
                "topics.a.when_full: `offload` needs to know where: `store.disk.offload` (f:5:32)",
            ],
        ),
        (
            "{\"store\": {\"disk\": {\"when_full\": \"offload\", \"offload\": {\"to\": \"stick\"}}}}",
            &["store.disk.offload.to: there is no system `stick`: `systems` is empty (f:1:63)"],
        ),
        (
            "{\"store\": {\"dedupe\": {\"ids\": -1}}}",
            &["store.dedupe.ids: expected 0 to 10000000, found `-1` (f:1:30)"],
        ),
        (
            "{\"gateway\": {\"id\": \"a b\"}}",
            &["gateway.id: expected a name of 1 to 64 letters, digits, `_`, `.` and `-`, found `a b` (f:1:20)"],
        ),
        ("{\"sources\": null}", &["sources: expected an object, found null (f:1:13)"]),
        (
            "{\"topics\": {\"t\": {\"keep\": {\"age\": true}}}}",
            &["topics.t.keep.age: expected text, found `true` (f:1:35)"],
        ),
    ]);
}

/// A source `hook` and a sink that reads it, with these fields.
fn hook(fields: &str) -> String {
    format!(
        "{{\"sources\": {{\"hook\": {{{fields}}}}},\n\"sinks\": {{\"s\": {{\"type\": \"http\", \"url\": \"x://\", \"from\": [\"hook\"]}}}}}}"
    )
}

fn cloud(fields: &str) -> String {
    format!(
        "{{\"sources\": {{\"t\": {{\"type\": \"timer\"}}}},\n\"sinks\": {{\"cloud\": {{{fields}, \"from\": [\"t\"]}}}}}}"
    )
}

#[test]
fn components_are_checked_against_their_kind() {
    let listen = "\"type\": \"http\", \"listen\": \"a:1\"";
    for (fields, want) in [
        ("\"listen\": \"x\"".to_owned(), &["sources.hook: missing field `type` (f:1:22)"][..]),
        (
            "\"type\": \"htp\"".into(),
            &["sources.hook.type: unknown kind `htp`, did you mean `http`? expected `http` or `timer` (f:1:31)"],
        ),
        ("\"type\": \"coap\"".into(), &["sources.hook.type: unknown kind `coap`, expected `http` or `timer` (f:1:31)"]),
        ("\"type\": 3".into(), &["sources.hook.type: expected `http` or `timer`, found a number (f:1:31)"]),
        ("\"type\": \"http\"".into(), &["sources.hook: missing field `listen` (f:1:22)"]),
        (
            "\"type\": \"http\", \"lisen\": 1".into(),
            &["sources.hook: unknown field `lisen`, did you mean `listen`? (f:1:39)"],
        ),
        (
            "\"type\": \"http\", \"listen\": 8080".into(),
            &["sources.hook.listen: expected text, found a number (f:1:49)"],
        ),
        ("\"type\": \"http\", \"listen\": \"here\"".into(), &["sources.hook.listen: `here` has no port (f:1:49)"]),
        (
            format!("\"type\": \"http\", \"listen\": \"a\\n{}\"", "b".repeat(2_000)),
            &[&format!("sources.hook.listen: `a {}… (f:1:49)", "b".repeat(797))],
        ),
        (
            "\"type\": \"timer\", \"listen\": \"x\"".into(),
            &[
                "sources.hook: unknown field `listen`, expected `id`, `time`, `key`, `ttl`, `priority` or `max_event` (f:1:40)",
            ],
        ),
        (format!("{listen}, \"priority\": 8"), &["sources.hook.priority: expected 0 to 7, found `8` (f:1:68)"]),
        (
            format!("{listen}, \"priority\": \"4\""),
            &["sources.hook.priority: expected a whole number, found text (f:1:68)"],
        ),
        (
            format!("{listen}, \"priority\": 4.0"),
            &["sources.hook.priority: expected a whole number, found `4.0` (f:1:68)"],
        ),
        (format!("{listen}, \"connections\": 0"), &["sources.hook.connections: expected 1 to 64, found `0` (f:1:71)"]),
        (format!("{listen}, \"connections\": null"), &["ok"]),
        (format!("{listen}, \"tls\": {{}}"), &["sources.hook.tls: missing field `cert` (f:1:63)"]),
        (format!("{listen}, \"tls\": 1"), &["sources.hook.tls: expected an object, found a number (f:1:63)"]),
        (
            format!("{listen}, \"tls\": {{\"cert\": 1, \"client\": \"requird\"}}"),
            &[
                "sources.hook.tls.cert: expected text, found a number (f:1:72)",
                "sources.hook.tls.client: unknown value `requird`, did you mean `required`? expected `required` or `ignored` (f:1:85)",
            ],
        ),
        (
            format!(
                "{listen}, \"paths\": [{{\"path\": \"/\"}}, {{\"path\": \"x\"}}, {{\"wait\": \"1.1.1s\", \"path\": \"/\"}}]"
            ),
            &[
                "sources.hook.paths[1].path: expected another text (A path that begins with a slash), found `x` (f:1:90)",
            ],
        ),
        (
            format!("{listen}, \"paths\": [{{\"path\": \"/\"}}, {{\"wait\": \"1.1.1s\", \"path\": \"/\"}}]"),
            &[
                "sources.hook.paths[1].wait: `1.1.1s` is not a duration; write it like \"250ms\", \"5s\", \"10m\", \"6h\" or \"7d\" (f:1:90)",
            ],
        ),
    ] {
        assert_eq!(errors(&hook(&fields)), want, "{fields}");
    }
    let url = "\"type\": \"http\", \"url\": \"x://\"";
    for (fields, want) in [
        (
            "\"type\": \"http\", \"ulr\": \"x\"".to_owned(),
            &["sinks.cloud: unknown field `ulr`, did you mean `url`? (f:2:37)"][..],
        ),
        (format!("{url}, \"ratio\": 1"), &["ok"]),
        (format!("{url}, \"ratio\": []"), &["sinks.cloud.ratio: expected a number, found a list (f:2:61)"]),
        (
            format!("{url}, \"headers\": {{\"a\": 1}}"),
            &["sinks.cloud.headers.a: expected text, found a number (f:2:69)"],
        ),
        (
            format!("{url}, \"batch\": {{\"max\": 0}}"),
            &["sinks.cloud.batch.max: expected 1 to 10000, found `0` (f:2:69)"],
        ),
        (
            format!("{url}, \"start\": \"newset\""),
            &[
                "sinks.cloud.start: unknown value `newset`, did you mean `newest`? expected `oldest` or `newest` (f:2:61)",
            ],
        ),
        (
            format!("{url}, \"start\": 3"),
            &["sinks.cloud.start: expected `oldest` or `newest`, found a number (f:2:61)"],
        ),
        (
            format!("{url}, \"retry\": {{\"initial\": \"2s\"}}"),
            &["sinks.cloud.retry.initial: expected at most `max`, which is 800ms (f:2:73)"],
        ),
        (
            format!("{url}, \"mode\": {{\"as\": \"array\", \"indnt\": 1}}"),
            &["sinks.cloud.mode: unknown field `indnt`, did you mean `indent`? (f:2:76)"],
        ),
        (
            format!("{url}, \"mode\": {{\"as\": \"arry\"}}"),
            &["sinks.cloud.mode.as: unknown value `arry`, did you mean `array`? expected `lines` or `array` (f:2:67)"],
        ),
        (format!("{url}, \"mode\": {{}}"), &["sinks.cloud.mode: missing field `as` (f:2:60)"]),
        (format!("{url}, \"mode\": 1"), &["sinks.cloud.mode: expected an object, found a number (f:2:60)"]),
    ] {
        assert_eq!(errors(&cloud(&fields)), want, "{fields}");
    }
}

/// Source `t`, sinks `x` and `y`, and these pipelines.
fn pipelines(pipelines: &str) -> String {
    format!(
        "{{\"sources\": {{\"t\": {{\"type\": \"timer\"}}}}, \"sinks\": {{\"x\": {{\"type\": \"http\", \"url\": \"x://\"}}}},\n\"pipelines\": {{{pipelines}}}}}"
    )
}

#[test]
fn names_lead_somewhere() {
    for (text, want) in [
        (r#""p": {"from": ["t"], "to": ["x"]}"#, &["ok"][..]),
        (r#""p": {"to": ["x"]}"#, &["pipelines.p: missing field `from` (f:2:20)"]),
        (r#""p": {"from": []}"#, &["pipelines.p.from: expected at least 1 in the list, found none (f:2:29)"]),
        (r#""p": {"from": "t"}"#, &["pipelines.p.from: expected a list, found text (f:2:29)"]),
        (
            r#""p": {"from": ["u"]}"#,
            &["pipelines.p.from[0]: there is no source or pipeline `u`, did you mean `t`? (f:2:30)"],
        ),
        (
            r#""p": {"from": ["other"]}"#,
            &["pipelines.p.from[0]: there is no source or pipeline `other`, expected `t` or `p` (f:2:30)"],
        ),
        (r#""p": {"from": ["t", "t"]}"#, &["pipelines.p.from[1]: `t` stands here twice (f:2:35)"]),
        (
            r#""p": {"from": ["t"], "to": ["t", "p"]}"#,
            &[
                "pipelines.p.to[0]: there is no sink `t`, did you mean `x`? (f:2:43)",
                "pipelines.p.to[1]: there is no sink `p`, did you mean `x`? (f:2:48)",
            ],
        ),
        (
            r#""t": {"from": ["t"]}"#,
            &[
                "pipelines.t: a source has this name too; both name the topic that they write (f:2:15)",
                "pipelines.t: reads its own output: t → t (f:2:29)",
            ],
        ),
        (r#""p": {"from": ["t", "p"]}"#, &["pipelines.p: reads its own output: p → p (f:2:29)"]),
        (
            r#""a": {"from": ["c", "t"]}, "b": {"from": ["a"]}, "c": {"from": ["b"]}, "d": {"from": ["c"]}"#,
            &["pipelines.a: reads its own output: a → b → c → a (f:2:29)"],
        ),
        (
            r#""a": {"from": ["b"]}, "b": {"from": ["a"]}, "c": {"from": ["d", "a"]}, "d": {"from": ["c"]}"#,
            &[
                "pipelines.a: reads its own output: a → b → a (f:2:29)",
                "pipelines.c: reads its own output: c → d → c (f:2:73)",
            ],
        ),
        (
            r#""a": {"from": ["t", "bad"], "on_fail": {"topic": "bad"}}"#,
            &["pipelines.a: reads its own output: a → a (f:2:29)"],
        ),
        (
            r#""a b": {"from": ["t"]}"#,
            &["pipelines: expected a name of 1 to 64 letters, digits, `_`, `.` and `-`, found `a b` (f:2:15)"],
        ),
        (
            r#""p": {"from": ["t"], "on_fail": "dea"}"#,
            &[
                "pipelines.p.on_fail: unknown value `dea`, did you mean `dead`? expected `dead`, `drop` or `continue` (f:2:47)",
            ],
        ),
        (
            r#""p": {"from": ["t"], "on_fail": {"topc": "x"}}"#,
            &["pipelines.p.on_fail: unknown field `topc`, did you mean `topic`? (f:2:48)"],
        ),
        (
            r#""p": {"from": ["t"], "on_fail": {"topic": "a/b"}}"#,
            &[
                "pipelines.p.on_fail.topic: expected a name of 1 to 64 letters, digits, `_`, `.` and `-`, found `a/b` (f:2:57)",
            ],
        ),
        (r#""p": {"from": ["gateway"]}"#, &["ok"]),
        (
            r#""gateway": {"from": ["t"]}"#,
            &["pipelines.gateway: the topic `gateway` is the gateway's own: take another name (f:2:15)"],
        ),
        (
            r#""p": {"from": ["t"], "on_fail": 1}"#,
            &["pipelines.p.on_fail: expected `dead`, `drop`, `continue` or an object, found a number (f:2:47)"],
        ),
        (
            r#""p": {"from": ["t"], "processes": [{"type": "annotate", "set": {}}, {"type": "annotate", "name": "annotate", "set": {}}]}"#,
            &["pipelines.p.processes[1].name: another process of the pipeline is called `annotate` (f:2:112)"],
        ),
        (
            r#""p": {"from": ["t"], "processes": [{"type": "annotate", "set": {}}, {"type": "anotate"}, {"set": {}}, 3]}"#,
            &[
                "pipelines.p.processes[1].type: unknown kind `anotate`, did you mean `annotate`? expected `annotate` (f:2:92)",
                "pipelines.p.processes[2]: missing field `type` (f:2:104)",
                "pipelines.p.processes[3]: expected an object, found a number (f:2:117)",
            ],
        ),
    ] {
        assert_eq!(errors(&pipelines(text)), want, "{text}");
    }
    // A broken section says only that it is broken.
    check(&[(
        r#"{"sources": 1, "sinks": 2, "pipelines": {"p": {"from": ["a"], "to": ["b"]}}}"#,
        &["sources: expected an object, found a number (f:1:13)", "sinks: expected an object, found a number (f:1:25)"],
    )]);
}

#[test]
fn errors_of_all_stages_come_at_once() {
    check(&[(
        r#"{
  "sinks": { "cloud": { "type": "http", "url": "nowhere" } },  // found by the constructor
  "sources": {
    "a": { "type": "htpp" },
    "b": { "type": "timer", "priority": 9, "priority": 1, "x": "${UNSET}" },
    "c": { "type": "http", "listen": "no port" }
  },
  "pipelines": { "p": { "from": ["a", "bb"], "to": ["clod"] } },
  "store": { "disk": { "high": "1 fortnight" } }
}"#,
        &[
            "sinks.cloud.url: `nowhere` is not a URL (f:2:48)",
            "sources.a.type: unknown kind `htpp`, did you mean `http`? expected `http` or `timer` (f:4:20)",
            "sources.b.priority: expected 0 to 7, found `9` (f:5:41)",
            "sources.b.priority: the field is given twice (f:5:44)",
            "sources.b: unknown field `x`, expected `id`, `time`, `key`, `ttl` or `max_event` (f:5:59)",
            "sources.b.x: the environment variable `UNSET` is not set (f:5:64)",
            "sources.c.listen: `no port` has no port (f:6:38)",
            "pipelines.p.from[1]: there is no source or pipeline `bb`, did you mean `b`? (f:8:39)",
            "pipelines.p.to[0]: there is no sink `clod`, did you mean `cloud`? (f:8:53)",
            "store.disk.high: expected something like \"64KiB\", found `1 fortnight` (f:9:32)",
        ],
    )]);
}

#[test]
fn a_wrong_part_hides_nothing_in_the_others() {
    check(&[(
        r#"{"extra": 1, "sinks": {"a": {"type": "http", "url": "no"}, "b": {"type": "http"}, "c d": {"type": "http", "url": "no"}}}"#,
        &[
            "unknown field `extra`, expected `gateway`, `store`, `admin`, `topics`, `sources`, `pipelines` or `systems` (f:1:2)",
            "sinks.a.url: `no` is not a URL (f:1:53)",
            "sinks.b: missing field `url` (f:1:65)",
            "sinks: expected a name of 1 to 64 letters, digits, `_`, `.` and `-`, found `c d` (f:1:83)",
            "sinks.c d.url: `no` is not a URL (f:1:114)",
        ],
    )]);
}

#[test]
fn the_schema_is_whole_and_documented() {
    fn walk(root: &serde_json::Value, at: &serde_json::Value, path: &str, flaws: &mut Vec<String>) {
        if let Some(target) = at["$ref"].as_str()
            && root.pointer(target.trim_start_matches('#')).is_none()
        {
            flaws.push(format!("{path}: {target} leads nowhere"));
        }
        match at {
            serde_json::Value::Object(fields) => {
                fields.iter().for_each(|(k, v)| walk(root, v, &format!("{path}/{k}"), flaws))
            }
            serde_json::Value::Array(items) => items.iter().for_each(|v| walk(root, v, path, flaws)),
            _ => {}
        }
    }
    let schema = schema(&TOYS);
    let mut flaws = Vec::new();
    walk(&schema, &schema, "", &mut flaws);
    for own in [
        "StoreSettings",
        "DiskSettings",
        "EventMarks",
        "OffloadSettings",
        "DedupeSettings",
        "TopicSettings",
        "Keep",
        "Batch",
        "Retry",
        "Attempts",
        "pipeline",
    ] {
        let properties = schema["$defs"][own]["properties"].as_object().unwrap();
        flaws.extend(
            properties.iter().filter(|(_, p)| p["description"].is_null()).map(|(name, _)| format!("{own}.{name}")),
        );
    }
    assert_eq!(flaws, Vec::<String>::new());
    assert_eq!(schema["$defs"]["sink"]["properties"]["type"]["enum"], serde_json::json!(["http"]));
    assert_eq!(schema["$defs"]["Batch"]["properties"]["max"]["default"], 1000);
    assert_eq!(schema["properties"]["gateway"]["default"], serde_json::json!({}));
}

#[test]
fn warnings_do_not_stop_the_gateway() {
    let text = r#"{ "sources": { "a": { "type": "timer" }, "b": { "type": "timer" } },
        "pipelines": { "p": { "from": ["a"] } }, "sinks": { "s": { "type": "http", "url": "x://" } },
        "topics": { "kept": {} } }"#;
    let (_, warnings) = load_with(Path::new("f"), text, &TOYS, &outside).unwrap();
    let told: Vec<String> = warnings.iter().map(Problem::to_string).collect();
    assert_eq!(
        told,
        [
            "sources.b: no pipeline or sink has this source in its `from`; its events go nowhere (f:1:42)",
            "pipelines.p: it has no `to`, and nothing has this pipeline in its `from`; its output goes nowhere (f:2:24)",
            "sinks.s: it has no `from`, and no pipeline has this sink in its `to`; nothing is delivered (f:2:61)",
        ]
    );
    let failing =
        r#"{ "from": ["a"], "on_fail": { "topic": "lost" } }, "q": { "from": ["a"], "on_fail": { "topic": "kept" } }"#;
    let text = text.replace(r#"{ "from": ["a"] }"#, failing);
    let (_, warnings) = load_with(Path::new("f"), &text, &TOYS, &outside).unwrap();
    let told: Vec<String> = warnings.iter().map(Problem::to_string).collect();
    assert_eq!(
        told[1..4],
        [
            "pipelines.p: it has no `to`, and nothing has this pipeline in its `from`; its output goes nowhere (f:2:24)",
            "pipelines.p: events go to the topic `lost`, and nothing has it in its `from`; put it into `topics` if they are to wait there (f:2:68)",
            "pipelines.q: it has no `to`, and nothing has this pipeline in its `from`; its output goes nowhere (f:2:80)",
        ]
    );
}

#[test]
fn limits_hold() {
    let deep = format!("{{\"topics\": {}1{}}}", "[".repeat(63), "]".repeat(63));
    let path = format!("topics{}", "[0]".repeat(63));
    assert!(errors(&deep).contains(&format!("{path}: nested deeper than 64 levels (f:1:75)")), "{:?}", errors(&deep));
    let deeper = "[".repeat(100_000);
    assert!(errors(&deeper)[0].starts_with("nested deeper than 64 levels"), "{:?}", errors(&deeper));
    let large = format!("{{}}{}", " ".repeat(4 << 20));
    assert_eq!(errors(&large), ["the file is larger than 4MiB (f:1:1)"]);
    let many: Vec<String> = (0..5_000).map(|i| format!("\"x{i}\": 1")).collect();
    let many = errors(&format!("{{{}}}", many.join(",")));
    assert_eq!((many.len(), many[100].as_str()), (101, "4900 more errors are not shown (f:1:883)"));
    let chain: Vec<String> = (1..20_000).map(|i| format!("\"p{i}\": {{\"from\": [\"p{}\"]}}", i - 1)).collect();
    let chain = format!("{{\"pipelines\": {{\"p0\": {{\"from\": [\"p19999\"]}}, {}}}}}", chain.join(","));
    assert_eq!(errors(&chain).len(), 1);
}

#[test]
fn what_comes_from_outside_is_never_shown() {
    for text in [
        r#"{"store": {"disk": {"high": "${SECRET}"}}}"#.to_owned(),
        r#"{"store": {"disk": {"high": "${SECRET}", "low": "x${SECRET}"}}}"#.into(),
        r#"{"gateway": {"id": "a b ${SECRET}"}}"#.into(),
        r#"{"store": "${SECRET}"}"#.into(),
        hook(r#""type": "${SECRET}""#),
        hook(r#""type": "http", "listen": "${SECRET}""#),
        hook(r#""type": "http", "listen": "a ${SECRET} b""#),
        hook(r#""type": "http", "listen": "a:1", "priority": "${SECRET}""#),
        hook(r#""type": "http", "listen": "a:1", "paths": [{"path": "${SECRET}"}]"#),
        hook(r#""type": "http", "listen": "a:1", "tls": {"cert": "", "client": "${SECRET}"}"#),
        cloud(r#""type": "http", "url": "${SECRET}""#),
        cloud(r#""type": "http", "url": "${URL}", "mode": "${SECRET}""#),
        cloud(r#""type": "http", "url": "${URL}", "mode": {"as": "${SECRET}"}"#),
        cloud(r#""type": "http", "url": "${URL}", "start": "${SECRET}""#),
        cloud(r#""type": "http", "url": "${URL}", "batch": {"wait": "${SECRET}"}"#),
        pipelines(
            r#""p": {"from": ["${PIPE}", "t", "${PIPE}"], "to": ["${SECRET}"], "on_fail": {"topic": "/${SECRET}"}}"#,
        ),
    ] {
        let told = errors(&text).join("\n");
        assert!(told != "ok" && !told.contains("canary") && told.contains("f:"), "{told}");
    }
    check(&[
        (
            r#"{"store": {"dedupe": {"window": "${NUMBER}"}}}"#,
            &["store.dedupe.window: expected something like \"5s\", found `${NUMBER}` (f:1:33)"],
        ),
        (
            r#"{"store": {"dedupe": {"window": "1.${NUMBER:-x}1s"}}}"#,
            &["store.dedupe.window: expected something like \"5s\", found `1.${NUMBER:-x}1s` (f:1:33)"],
        ),
        (
            r#"{"store": {"path": "${file:/nowhere/secret}"}}"#,
            &["store.path: `${file:/nowhere/secret}`: no such file or directory (os error 2) (f:1:20)"],
        ),
    ]);
    let told = errors(&cloud(r#""type": "http", "url": "//${SECRET}""#));
    assert_eq!(told, ["sinks.cloud.url: `//${SECRET}` is not a URL (f:2:44)"]);
}

/// 20,000 times one to eight changes at random places, the same ones in every run.
#[test]
fn no_mutation_panics() {
    let mut random = fastrand::Rng::with_seed(7);
    let pieces = [
        "\"",
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "null",
        "${",
        "}",
        "\\",
        "//",
        "/*",
        "1e9",
        "-",
        "\u{1f30a}",
        "\n",
        "$",
        "é",
    ];
    let letters: Vec<char> = VALID.chars().collect();
    let (mut good, mut semantic) = (0, 0);
    for _ in 0..3_000 {
        let mut text = letters.clone();
        for _ in 0..random.usize(1..=8) {
            let at = random.usize(0..text.len());
            let end = (at + random.usize(0..6)).min(text.len());
            match random.u8(0..4) {
                0 => drop(text.drain(at..end)),
                1 => drop(text.splice(at..end, random.choice(pieces).unwrap_or_default().chars())),
                2 => text.swap(at, end.min(letters.len() / 2)),
                _ => text.insert(at, random.char('!'..'~')),
            }
        }
        let text: String = text.into_iter().collect();
        let told = errors(&text);
        good += usize::from(told == ["ok"]);
        semantic += usize::from(told.iter().any(|t| t.starts_with("sinks.")));
        assert!(!told.iter().any(|t| t.contains("canary-7d1f3b") || t.contains('\n')), "{told:?}");
    }
    assert!(good > 50 && semantic > 50, "{good} {semantic}");
}

#[test]
fn a_file_is_read_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.jsonc");
    let told = |path: &Path| read(path).map_err(|p| p.to_string().replace(&path.display().to_string(), "f"));
    std::fs::write(&path, b"{\n \"\xc3\xa9\xff\"}").unwrap();
    assert_eq!(told(&path), Err("not UTF-8 (f:2:4)".into()));
    std::fs::write(&path, b"{}").unwrap();
    assert_eq!(told(&path).as_deref(), Ok("{}"));
    assert!(told(&folder.path().join("b")).unwrap_err().starts_with("cannot be read: no such file"));
}

#[test]
fn a_catalogue_is_held_to_its_rules() {
    const TWICE: Kind<dyn Toy> = Kind { about: "", example: r#"{ "type": "http" }"#, ..TIMER };
    const CLASH: Kind<dyn Toy> = Kind { name: "clash", schema: SourceCommon::json_schema, ..TIMER };
    const CREDENTIAL: Kind<dyn Toy> = Kind { example: r#"{ "type": "http", "listen": "${file:/x}:1" }"#, ..HOOK };
    let told = flaws(&Catalogue { sources: &[CREDENTIAL, TIMER, TWICE, CLASH], ..TOYS });
    for want in [
        "source `http`: the field `connections` has no doc comment",
        "source `timer`: the name is taken twice",
        "source `timer`: `about` is not one line without a full stop",
        "source `timer`: its example: sources.example: missing field `listen`",
        "source `clash`: every source has a field `priority` already",
        "source `clash`: its example: type: it is another kind",
        "sink `http`: the field `url` has no doc comment",
    ] {
        assert!(told.iter().any(|t| t == want), "{want}: {told:#?}");
    }
    assert!(!told.iter().any(|t| t.starts_with("source `http`: its example")), "{told:#?}");
}
