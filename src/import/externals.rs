//! External systems: what stands in their connection strings.

use super::reading::{At, Reader, Words, told};
use std::collections::{BTreeMap, BTreeSet};

const TYPES: Words = Words {
    what: "the type of an external system",
    list: &[
        ("ExternalUnknown", 0),
        ("ExternalKVStore", 1),
        ("ExternalObjectStore", 2),
        ("ExternalPubSub", 3),
        ("ExternalHttp", 4),
        ("ExternalLocalFile", 5),
        ("ExternalSearchIndex", 6),
    ],
    prefixes: &["External"],
};
/// In this order a tee looked for its target.
const ORDER: &[&str] = &[
    "ExternalKVStore",
    "ExternalPubSub",
    "ExternalObjectStore",
    "ExternalHttp",
    "ExternalLocalFile",
    "ExternalSearchIndex",
];

pub(super) struct External {
    pub name: String,
    pub sort: &'static str,
    pub link: Link,
}

/// What a connection string says.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Link {
    MemoryKv,
    Dynamo {
        table: String,
    },
    MemoryObjects {
        instance: String,
    },
    S3 {
        endpoint: String,
        bucket: String,
    },
    /// The place holder `nil:nil`.
    Nothing,
    Topic(String),
    Http(String),
    Directory(String),
    Elastic {
        index: String,
        node: String,
    },
    /// It was already reported.
    Wrong,
}

/// All external systems; one name may stand for several of different types.
pub(super) struct Externals(pub Vec<External>);

impl Externals {
    pub fn read(reader: &mut Reader<'_, '_>, root: &At<'_>) -> Externals {
        let mut seen = BTreeSet::new();
        let mut all = Vec::new();
        for at in reader.list(root, "externalSystems") {
            if !reader.message(&at, &["externalType", "name", "connectionString"]) {
                continue;
            }
            let sort = reader.known_word(&at, "externalType", &TYPES);
            let name = reader.named(&at, "name");
            let link = reader.named(&at, "connectionString");
            let (Some(sort), Some((name, place))) = (sort, name) else { continue };
            if !seen.insert((sort, name.clone())) {
                reader.error(&place, format!("another {sort} is called {}", told(&name)));
            }
            let link = link.map_or(Link::Wrong, |(text, place)| {
                connection(sort, &text).unwrap_or_else(|message| {
                    reader.error(&place, message);
                    Link::Wrong
                })
            });
            all.push(External { name, sort, link });
        }
        Externals(all)
    }

    /// The one that a reference means, if it is of one of these types.
    pub fn find(&self, name: &str, sorts: &[&str]) -> Option<&External> {
        let order = ORDER.iter().filter(|sort| sorts.is_empty() || sorts.contains(sort));
        order.into_iter().find_map(|sort| self.0.iter().find(|e| e.sort == *sort && e.name == name))
    }

    /// The names of these types, for messages.
    pub fn names(&self, sorts: &[&str]) -> Vec<&str> {
        let fit = |e: &&External| sorts.is_empty() || sorts.contains(&e.sort);
        self.0.iter().filter(fit).map(|e| e.name.as_str()).collect()
    }
}

fn connection(sort: &str, text: &str) -> Result<Link, String> {
    let (kind, rest) = match (sort, text.split_once(':')) {
        ("ExternalPubSub", _) => return Ok(Link::Topic(text.to_owned())),
        ("ExternalHttp", _) => return Ok(Link::Http(text.to_owned())),
        ("ExternalLocalFile", _) => return Ok(Link::Directory(text.to_owned())),
        (_, Some(parts)) => parts,
        (_, None) => return Err(untyped(sort, text)),
    };
    match (sort, kind) {
        ("ExternalKVStore", "mem") => Ok(Link::MemoryKv),
        ("ExternalKVStore", "dynamo") => {
            let mut given = parts(text, rest, &["endpoint", "region", "tableName", "prefixLength"], &[])?;
            if given.get("prefixLength").and_then(|n| n.parse::<u32>().ok()).is_none_or(|n| n == 0) {
                return Err(format!("the connection string {}: `prefixLength` is a number of at least 1", told(text)));
            }
            Ok(Link::Dynamo { table: given.remove("tableName").unwrap_or_default() })
        }
        ("ExternalObjectStore", "mem") => Ok(Link::MemoryObjects { instance: rest.to_owned() }),
        ("ExternalObjectStore", "nil") => Ok(Link::Nothing),
        ("ExternalObjectStore", "s3") => {
            let mut given = parts(text, rest, &["endpoint", "bucketName"], &[])?;
            let mut take = |name: &str| given.remove(name).unwrap_or_default();
            Ok(Link::S3 { endpoint: take("endpoint"), bucket: take("bucketName") })
        }
        ("ExternalSearchIndex", "elastic") => {
            let more = ["bulk", "bulkThreads", "bulkThresholdBytes"];
            let mut given =
                parts(text, rest, &["index", "nodes", "authString"], &more).map_err(|e| hidden(&e, text))?;
            let mut take = |name: &str| given.remove(name).unwrap_or_default();
            Ok(Link::Elastic { index: take("index"), node: take("nodes") })
        }
        _ => Err(format!(
            "a connection string of the unknown type {}; expected {}",
            told(kind),
            forms(sort).join(" or ")
        )),
    }
}

/// What is wrong with a URL to post to.
pub(super) fn url(text: &str) -> Result<(), &'static str> {
    let Some(rest) = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")) else {
        return Err("expected a URL that starts with `https://` or `http://`");
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return Err("expected no user and password in the URL: take them out, and send them in `headers` of the tee");
    }
    if authority.is_empty() || text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err("not a URL");
    }
    Ok(())
}

/// The string may hold a password.
fn hidden(message: &str, text: &str) -> String {
    message.replace(&told(text), "`elastic:…`")
}

fn forms(sort: &str) -> &'static [&'static str] {
    match sort {
        "ExternalKVStore" => &["`mem:NAME`", "`dynamo:endpoint=URL,region=R,tableName=T,prefixLength=N`"],
        "ExternalObjectStore" => &["`mem:NAME`", "`s3:endpoint=HOST:PORT,bucketName=B`"],
        _ => &["`elastic:index=I,nodes=URL,authString=basic;USER;PASSWORD`"],
    }
}

fn untyped(sort: &str, text: &str) -> String {
    let (what, forms) = (format!("the connection string {} lacks its type", told(text)), forms(sort));
    if forms.iter().any(|form| form.starts_with("`mem:")) {
        let mended = told(&format!("mem:{text}"));
        return format!("{what}; write {mended} for one in memory, or {}", forms[1..].join(" or "));
    }
    format!("{what}; expected {}", forms.join(" or "))
}

/// The `name=value` of a connection string.
fn parts(text: &str, rest: &str, needed: &[&str], more: &[&str]) -> Result<BTreeMap<String, String>, String> {
    let wrong = |what: String| Err(format!("the connection string {}: {what}", told(text)));
    let mut given = BTreeMap::new();
    for part in rest.split(',') {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        if !needed.contains(&name) && !more.contains(&name) {
            return wrong(format!("unknown part {}", told(name)));
        }
        given.insert(name.to_owned(), value.to_owned());
    }
    match needed.iter().find(|name| given.get(**name).is_none_or(String::is_empty)) {
        Some(name) => wrong(format!("`{name}=…` is missing")),
        None => Ok(given),
    }
}
