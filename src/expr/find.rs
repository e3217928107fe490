//! `event.find("a.b")` and `event.leaf("a.b")`: a dot may stand between names or belong to one.

use crate::event::{
    Body, Path,
    json::{Json, Kind},
};

/// More dots than that are no place that anybody means; it bounds the ways to read one.
const NAMES: usize = 64;

/// A place in the event, in every way that it can be read.
#[derive(Clone, Debug)]
pub(super) struct Find {
    pub path: Box<str>,
    /// The first name in each of its lengths, and what follows it; the shortest first.
    starts: Box<[(Path, Box<str>)]>,
    /// Whether lists and objects are passed over.
    leaf: bool,
}

impl Find {
    /// Fails if nothing can stand there.
    pub fn new(path: &str, leaf: bool) -> Result<Find, String> {
        let dots = path.match_indices('.').map(|(at, _)| at);
        if dots.clone().count() >= NAMES {
            return Err(format!("the place has more than {NAMES} names"));
        }
        let start =
            |at: usize| Some((Path::of([path.get(..at)?]).ok()?, path.get(at + 1..).unwrap_or_default().into()));
        let mut starts: Vec<_> = dots.filter_map(start).collect();
        starts.push((Path::of([path]).map_err(|e| e.to_string())?, "".into()));
        Ok(Find { path: path.into(), starts: starts.into(), leaf })
    }

    pub fn run<'e>(&self, event: &'e Body) -> Option<Json<'e>> {
        let last = self.starts.len() - 1;
        self.starts.iter().enumerate().find_map(|(i, (first, rest))| {
            let value = event.get(first)?;
            if i == last { self.fits(value).then_some(value) } else { self.below(value, rest) }
        })
    }

    /// Every value below is reached in one way at most, so this takes no longer than to read all of them, for each name.
    fn below<'e>(&self, value: Json<'e>, rest: &str) -> Option<Json<'e>> {
        let ends = rest.match_indices('.').map(|(at, _)| at).chain([rest.len()]);
        ends.into_iter().find_map(|end| {
            let name = &rest[..end];
            let value = match value.kind() {
                Kind::Object => value.member(name)?,
                Kind::Array => value.elements().nth(index(name)?)?,
                _ => return None,
            };
            match rest.get(end + 1..) {
                Some(rest) => self.below(value, rest),
                None => self.fits(value).then_some(value),
            }
        })
    }

    fn fits(&self, value: Json<'_>) -> bool {
        !(self.leaf && matches!(value.kind(), Kind::Object | Kind::Array))
    }
}

/// An index as it is written: without a sign and leading zeros.
fn index(name: &str) -> Option<usize> {
    let plain = name == "0" || (!name.starts_with('0') && name.bytes().all(|c| c.is_ascii_digit()));
    plain.then(|| name.parse().ok()).flatten()
}
