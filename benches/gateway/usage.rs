//! What a process uses, as the kernel counts it.

fn field(file: &str, name: &str) -> u64 {
    let text = std::fs::read_to_string(file).unwrap();
    let line = text.lines().find_map(|l| l.strip_prefix(name)).unwrap();
    line.trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap()
}

/// Bytes that this process caused to be written to the disk so far. What the file system writes for its own ends (the
/// journal) is not in it.
pub fn written() -> u64 {
    field("/proc/self/io", "write_bytes:") - field("/proc/self/io", "cancelled_write_bytes:")
}
