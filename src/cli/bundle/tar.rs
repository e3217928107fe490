//! The archive: files in the form `ustar` of POSIX, gzipped.

use flate2::{Compression, write::GzEncoder};
use std::io::{self, Write};

/// The archive's own unit.
const BLOCK: usize = 512;

/// An archive of texts by name. A name has at most 100 bytes.
pub(super) fn archive(out: impl Write, files: &[(String, String)], seconds: u64) -> io::Result<()> {
    let mut out = GzEncoder::new(out, Compression::default());
    for (name, text) in files {
        out.write_all(&header(name, text.len(), seconds))?;
        out.write_all(text.as_bytes())?;
        out.write_all(&vec![0; text.len().next_multiple_of(BLOCK) - text.len()])?;
    }
    out.write_all(&[0; 2 * BLOCK])?;
    out.finish()?.flush()
}

fn header(name: &str, size: usize, seconds: u64) -> [u8; BLOCK] {
    let mut header = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &name.as_bytes()[..name.len().min(100)]);
    put(100, b"0000600\0"); // mode
    put(108, b"0000000\0"); // owner
    put(116, b"0000000\0"); // group
    put(124, format!("{size:011o}\0").as_bytes());
    put(136, format!("{seconds:011o}\0").as_bytes());
    put(148, b"        0"); // the sum counts as blanks; then: a file
    put(257, b"ustar\x0000");
    let sum: u64 = header.iter().map(|byte| u64::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}
