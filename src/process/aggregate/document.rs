//! The document of all aggregates of a pipeline.

use super::super::groups::unreadable;
use crate::{
    event::json::{self, Json, Kind as Sort, write_string},
    fault::Fault,
};
use std::{borrow::Cow, collections::BTreeMap};

/// Objects in objects, with numbers at the ends.
pub(super) enum Document<'a> {
    Object(BTreeMap<Cow<'a, str>, Document<'a>>),
    Number(&'a [u8]),
}

impl Default for Document<'_> {
    fn default() -> Self {
        Document::Object(BTreeMap::new())
    }
}

impl<'a> Document<'a> {
    /// Adds what is remembered of a group: under the key `["FIELD:TYPE",["FIELD OF BY",…],["GROUP",…]]` a number or an
    /// object of numbers; for a histogram the key has the value counted as its fourth.
    ///
    /// What was at the same place before is replaced: two aggregates of one field, type and group, and a group that has
    /// the name of a leaf's member (`value`) beside that leaf.
    pub fn add(&mut self, key: &'a [u8], value: &'a [u8]) -> Result<(), Fault> {
        let wrong = || unreadable(key, "expected an aggregate");
        let mut parts = parts(key).ok_or_else(wrong)?;
        json::check(value).map_err(|e| unreadable(key, e))?;
        let value = Json::trusted(value);
        match value.kind() {
            Sort::Number => {
                if !parts.is_histogram {
                    parts.path.push("value".into());
                }
                self.put(parts.path, value.raw());
            }
            Sort::Object if !parts.is_histogram => {
                for member in value.members() {
                    if member.value.kind() != Sort::Number {
                        return Err(wrong());
                    }
                    let path = parts.path.iter().cloned().chain([member.name()]).collect();
                    self.put(path, member.value.raw());
                }
            }
            _ => return Err(wrong()),
        }
        Ok(())
    }

    fn put(&mut self, path: Vec<Cow<'a, str>>, number: &'a [u8]) {
        let mut place = self;
        for name in path {
            if let Document::Number(_) = place {
                *place = Document::default();
            }
            let Document::Object(members) = place else { return };
            place = members.entry(name).or_default();
        }
        *place = Document::Number(number);
    }

    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Document::Number(number) => out.extend_from_slice(number),
            Document::Object(members) => {
                out.push(b'{');
                for (i, (name, value)) in members.iter().enumerate() {
                    if i > 0 {
                        out.push(b',');
                    }
                    write_string(name, out);
                    out.push(b':');
                    value.write(out);
                }
                out.push(b'}');
            }
        }
    }
}

struct Parts<'a> {
    path: Vec<Cow<'a, str>>,
    is_histogram: bool,
}

/// Where in the document the value of a key stands.
fn parts(key: &[u8]) -> Option<Parts<'_>> {
    json::check(key).ok()?;
    let mut elements = Json::trusted(key).elements();
    let mut path = vec![elements.next()?.as_str()?];
    let (_by, groups) = (elements.next()?, elements.next()?);
    for group in groups.elements() {
        path.push(group.as_str()?);
    }
    if path.len() > super::super::groups::MAX_FIELDS + 1 {
        return None; // deeper than a body may be
    }
    let bucket = elements.next();
    if let Some(bucket) = bucket {
        path.extend(["buckets".into(), bucket.as_str()?]);
    }
    Some(Parts { path, is_histogram: bucket.is_some() })
}
