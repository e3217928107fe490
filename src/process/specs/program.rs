//! Programs over the elements of a value.

use super::{super::child::Program, operation::elements, steps::within};
use crate::{
    budget::Span,
    event::{
        Body, Path,
        json::{self, Json, Kind as Sort},
    },
    fault::Fault,
};
use bytes::Bytes;
use std::sync::Arc;

/// Elements for which a program runs, one after another: one event shall not start children for hours.
const ELEMENTS: usize = 1000;
/// Children of one spec at once. The pipeline's `workers` are fewer.
const CHILDREN: usize = 64;

/// The program of a `run`.
pub(super) fn program(run: Vec<String>, timeout: Option<Span>) -> Result<Arc<Program>, String> {
    let mut run = run.into_iter();
    let path = run.next().unwrap_or_default();
    let program = Program::new(path, run.collect(), timeout.unwrap_or(Span::millis(10_000)), CHILDREN);
    program.check()?;
    Ok(Arc::new(program))
}

/// What a program does with a value.
pub(super) enum Work<'a> {
    Map(&'a Arc<Program>),
    Fold { program: &'a Arc<Program>, start: &'a serde_json::Value, right: bool },
}

impl Work<'_> {
    /// The result, as JSON.
    pub async fn run(&self, value: Json<'_>) -> Result<Vec<u8>, Fault> {
        if value.elements().nth(ELEMENTS).is_some() || value.members().nth(ELEMENTS).is_some() {
            return Err(Fault::reject(format!("more than {ELEMENTS} elements: a program would run for each")));
        }
        match self {
            Work::Map(program) => map(program, value).await,
            Work::Fold { program, start, right } => {
                let mut elements: Vec<_> = elements(value).map_err(Fault::reject)?.collect();
                if *right {
                    elements.reverse();
                }
                fold(program, start, elements).await
            }
        }
    }
}

async fn map(program: &Arc<Program>, value: Json<'_>) -> Result<Vec<u8>, Fault> {
    let mut out = Vec::new();
    match value.kind() {
        Sort::Array => {
            out.push(b'[');
            for (i, element) in value.elements().enumerate() {
                comma(i, &mut out)?;
                out.extend_from_slice(&one(program, element).await?);
            }
            out.push(b']');
        }
        Sort::Object => {
            out.push(b'{');
            for (i, member) in value.members().enumerate() {
                comma(i, &mut out)?;
                out.push(b'"');
                out.extend_from_slice(member.raw_name);
                out.extend_from_slice(b"\":");
                out.extend_from_slice(&one(program, member.value).await?);
            }
            out.push(b'}');
        }
        _ => out = one(program, value).await?,
    }
    Ok(out)
}

/// What stands before an element, if there is room for it.
fn comma(done: usize, out: &mut Vec<u8>) -> Result<(), Fault> {
    if done > 0 {
        out.push(b',');
    }
    within(out.len()).map_err(Fault::reject)
}

async fn one(program: &Arc<Program>, element: Json<'_>) -> Result<Vec<u8>, Fault> {
    match element.kind() {
        Sort::Object | Sort::Array => program.answer(element.raw()).await,
        Sort::String => {
            let out = program.run(element.raw()).await?;
            Ok(if json::check(&out) == Ok(Sort::Object) { out } else { b"null".to_vec() })
        }
        kind => Err(Fault::reject(format!("a program takes an object, a list or a string, not {kind}"))),
    }
}

async fn fold(program: &Arc<Program>, start: &serde_json::Value, elements: Vec<Json<'_>>) -> Result<Vec<u8>, Fault> {
    let path = Path::of(["internal:acc"]).map_err(Fault::reject)?;
    let mut acc = start.to_string().into_bytes();
    for element in elements {
        if element.kind() != Sort::Object {
            return Err(Fault::reject(format!("a program folds a list of objects, found {} in it", element.kind())));
        }
        let mut input = Body::trusted(Bytes::copy_from_slice(element.raw()));
        input.set(&path, &acc).map_err(Fault::reject)?;
        acc = program.answer(&input.to_bytes()).await?;
    }
    Ok(acc)
}
