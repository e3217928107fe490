//! What a process uses, as the kernel counts it.

use std::time::Duration;

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

/// Time that a process has spent computing, in its own code and in the kernel's for it.
pub fn cpu(pid: u32) -> Duration {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = text.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11..13].iter().map(|n| n.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10) // a tick is 10 ms on every Linux that counts
}

/// The most memory that a process took so far, KiB.
pub fn peak(pid: u32) -> u64 {
    field(&format!("/proc/{pid}/status"), "VmHWM:")
}

/// Memory of a process, KiB.
pub fn resident(pid: u32) -> u64 {
    field(&format!("/proc/{pid}/status"), "VmRSS:")
}
