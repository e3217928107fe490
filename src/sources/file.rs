//! Events in a file, read once from its beginning to its end.

use super::documents::{Documents, Format, OnBad, Place, line_field};
use crate::{
    fault::Fault,
    kind::{Intake, Kind, ParamsError, Source},
    store::Put,
};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{io::SeekFrom, os::unix::fs::MetadataExt, path::PathBuf};
use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncSeekExt},
};

/// A file is known again by its inode and its beginning, of which at most so many bytes count.
const HEAD: usize = 4096;

pub const KIND: Kind<dyn Source> = Kind {
    name: "file",
    about: "JSON documents or lines in a file, once from its beginning to its end",
    example: r#"{ "type": "file", "path": "readings.ndjson", "format": "json", "on_bad": "skip" }"#,
    schema: Config::json_schema,
    build: |params| {
        let config: Config = params.decode()?;
        if config.path.as_os_str().is_empty() {
            return Err(ParamsError::at("path", "expected the path of a file"));
        }
        Ok(Box::new(config))
    },
};

/// Reads a file to its end. After a restart it goes on behind what was committed, also when the file has grown since;
/// a file that was replaced by another is read from its beginning.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The file, relative to the directory in which the gateway was started.
    #[schemars(with = "String")]
    path: PathBuf,
    /// What the file is made of: `"json"` or `"lines"`.
    #[serde(default)]
    format: Format,
    /// With `lines`, the field that takes the line.
    #[serde(default = "line_field")]
    field: String,
    /// What happens at a piece of the file that is no event: `"stop"` or `"skip"`. Mended in place, the file is read on
    /// where it stopped.
    #[serde(default)]
    on_bad: OnBad,
}

/// What the store knows of a file: how far it was read, and what tells that it is still the same.
#[derive(Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Memory {
    /// The device is left out: that number changes between boots.
    inode: u64,
    /// CRC-32 of the beginning, at most up to the place.
    head: u32,
    place: Place,
}

impl Memory {
    fn of(inode: u64, head: &[u8], place: Place) -> Self {
        let length = usize::try_from(place.offset).unwrap_or(HEAD).min(head.len());
        Memory { inode, head: crc32fast::hash(&head[..length]), place }
    }
}

#[async_trait]
impl Source for Config {
    async fn run(&mut self, intake: &Intake) -> Result<(), Fault> {
        let name = self.path.display().to_string();
        let failed = |e: std::io::Error| Fault::retry(format!("cannot read `{name}`: {e}"));
        let mut file = File::open(&self.path).await.map_err(failed)?;
        let metadata = file.metadata().await.map_err(failed)?;
        let mut head = Vec::with_capacity(HEAD);
        (&mut file).take(HEAD as u64).read_to_end(&mut head).await.map_err(failed)?;

        let (owner, key) = (super::owner(intake.topic()), name.clone().into_bytes());
        let remembered = intake.store().state(&owner, &key, 1).await.map_err(super::refused)?;
        let remembered: Option<Memory> = match remembered.first() {
            Some((found, value)) if *found == key => serde_json::from_slice(value).ok(),
            _ => None,
        };
        let inode = metadata.ino();
        let same = |m: &Memory| m.place.offset <= metadata.len() && *m == Memory::of(inode, &head, m.place);
        let place = remembered.filter(same).map_or_else(Place::default, |m| m.place);
        if remembered.is_some() && place.offset == 0 {
            log::info!("sources.{}: `{name}` is not the file that was read before: from its beginning", intake.topic());
        }

        file.seek(SeekFrom::Start(place.offset)).await.map_err(failed)?;
        let mut documents = Documents::new(name.clone(), self.format, self.field.clone(), self.on_bad, place);
        let remember = |place: &Place| {
            let memory = Memory::of(inode, &head, *place);
            vec![Put { owner: owner.clone(), key: key.clone(), value: serde_json::to_vec(&memory).ok() }]
        };
        documents.pump(&mut file, intake, &remember).await
    }

    fn bounded(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{bodies, build, intake_of, open};
    use super::*;

    #[tokio::test]
    async fn what_was_committed_is_not_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let (db, input) = (dir.path().join("t.db"), dir.path().join("in.ndjson"));
        let config = serde_json::json!({ "path": input }).to_string();
        let mut all = Vec::new();
        // Each step writes the file, by renaming where it is to be another one, and runs the source in a new store handle.
        for (text, renamed, want) in [
            ("{\"n\":1}\n{\"n\":2}\n{\"n\":", false, vec!["{\"n\":1}", "{\"n\":2}"]),
            ("{\"n\":1}\n{\"n\":2}\n{\"n\":3}\n", false, vec!["{\"n\":3}"]),
            ("{\"n\":1}\n{\"n\":2}\n{\"n\":3}\n", false, vec![]),
            (
                "{\"n\":1}\n{\"n\":2}\n{\"n\":3}\n{\"n\":4}\n",
                true,
                vec!["{\"n\":1}", "{\"n\":2}", "{\"n\":3}", "{\"n\":4}"],
            ),
            ("{\"n\":5}\n", false, vec!["{\"n\":5}"]),
            ("{\"n\":6}\n{\"n\":7}\n", false, vec!["{\"n\":6}", "{\"n\":7}"]),
        ] {
            let to = if renamed { dir.path().join("new") } else { input.clone() };
            std::fs::write(&to, text).unwrap();
            std::fs::rename(&to, &input).unwrap();
            let store = open(Some(&db)).await;
            let ended = build(&KIND, &config).unwrap().run(&intake_of(&store, 1000)).await;
            assert_eq!(ended.is_err(), text.ends_with(':'), "{text}");
            all.extend(want);
            assert_eq!(bodies(&store).await, all, "{text}");
            store.close().await;
        }
    }

    #[tokio::test]
    async fn a_long_file_is_read_whole_and_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let input = dir.path().join("in.ndjson");
        let want: Vec<_> = (0..20_000).map(|n| format!("{{\"n\":{n},\"pad\":\"{}\"}}", "x".repeat(n % 50))).collect();
        std::fs::write(&input, want.join("\n")).unwrap();
        let store = open(None).await;
        let config = serde_json::json!({ "path": input }).to_string();
        build(&KIND, &config).unwrap().run(&intake_of(&store, 1000)).await.unwrap();
        assert!(bodies(&store).await == want);
    }

    #[tokio::test]
    async fn a_missing_file_is_waited_for() {
        let mut source = build(&KIND, r#"{ "path": "no/such/file" }"#).unwrap();
        let fault = source.run(&intake_of(&open(None).await, 1000)).await.unwrap_err();
        assert!(matches!(fault, Fault::Retry(_)));
        assert_eq!(fault.to_string(), "cannot read `no/such/file`: No such file or directory (os error 2)");
        assert_eq!(build(&KIND, r#"{ "path": "" }"#).err().unwrap(), "path: expected the path of a file");
    }
}
