//! A file for each event.

use sha2::{Digest, Sha256};
use std::{
    fmt::Write as _,
    fs::{self, File},
    io::{self, Write as _},
    path::Path,
};

/// File systems allow names of 255 bytes; there is the name of the process in that of a temporary file, too.
const LONGEST: usize = 120;

/// Writes `NAME.json` whole or not at all, over the one that was there. `Ok` means that it is on the disk. `by` tells those
/// apart that write to one directory.
pub(super) fn write(dir: &Path, name: &str, by: &str, body: &[u8]) -> io::Result<()> {
    let name = safe(name);
    let temporary = dir.join(format!(".{name}.{}", safe(by)));
    let written = File::create(&temporary).and_then(|mut file| {
        file.write_all(body)?;
        file.write_all(b"\n")?;
        file.sync_all()
    });
    let renamed = written.and_then(|()| fs::rename(&temporary, dir.join(format!("{name}.json"))));
    if renamed.is_err() {
        fs::remove_file(&temporary).ok();
    }
    renamed.and_then(|()| File::open(dir)?.sync_all())
}

/// A file name for any text, another for each: what might mean anything to a file system is written `%2f`, and of a long
/// one the end is replaced by a digest.
fn safe(text: &str) -> String {
    let mut out = String::new();
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'.' if at > 0 => out.push('.'),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => out.push(byte.into()),
            _ => out.extend([format!("%{byte:02x}")]),
        }
    }
    if out.is_empty() {
        return "%".into();
    }
    if out.len() > LONGEST {
        out.truncate(LONGEST - 33);
        out.push('%');
        for byte in Sha256::digest(text.as_bytes()).iter().take(16) {
            write!(out, "{byte:02x}").ok();
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_name_is_safe_and_its_own() {
        let long = "x".repeat(500);
        let other = format!("{}y", "x".repeat(499));
        let names = ["a-1.b_C", "", ".", "..", "../x", "/etc/passwd", "a b", "a%20b", "ä", "\0", "%", &long, &other];
        let made: BTreeSet<String> = names.iter().map(|name| safe(name)).collect();
        assert_eq!(made.len(), names.len(), "{made:?}");
        assert!(made.contains("a-1.b_C") && made.contains("%2e./x".replace('/', "%2f").as_str()), "{made:?}");
        assert!(made.iter().all(|name| name.len() <= LONGEST && !name.starts_with('.')), "{made:?}");
    }

    #[test]
    fn a_file_is_whole_or_not_there() {
        let dir = tempfile::tempdir().unwrap();
        for body in ["{\"a\":1}", "{}"] {
            write(dir.path(), "e/1", "p.tee", body.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(dir.path().join("e%2f1.json")).unwrap(), format!("{body}\n"));
        }
        fs::create_dir(dir.path().join("in-the-way.json")).unwrap();
        assert!(write(dir.path(), "in-the-way", "p.tee", b"{}").is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing is left over");
        assert_eq!(write(&dir.path().join("no"), "e", "p.tee", b"").unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
