//! The targets of tests/fuzz with bytes that are changed at random, without coverage: what needs no nightly compiler.

use crate::size;
use std::time::{Duration, Instant};

#[path = "../fuzz/src/lib.rs"]
mod targets;

fn mutate(random: &mut fastrand::Rng, bytes: &mut Vec<u8>, others: &[&[u8]]) {
    for _ in 0..random.usize(1..6) {
        let at = random.usize(0..=bytes.len());
        match random.u8(0..9) {
            0 if at < bytes.len() => bytes[at] = random.u8(..),
            1 if at < bytes.len() => bytes[at] ^= 1 << random.u8(0..8),
            2 => bytes.truncate(at),
            3 => bytes.insert(at, random.u8(..)),
            4 if at < bytes.len() => drop(bytes.remove(at)),
            // What has a meaning to somebody.
            5 => bytes.insert(at, *random.choice(b"{}[]\":,\\\0\xff\x7f\x80\xc0\xdb$*().<&|?-e9".iter()).unwrap()),
            6 => {
                let from = random.usize(0..=at);
                let part = bytes[from..at.min(from + 64)].to_vec();
                bytes.splice(at..at, part);
            }
            7 => {
                let other = random.choice(others.iter()).unwrap();
                let from = random.usize(0..=other.len());
                bytes.splice(at.., other[from..].iter().copied());
            }
            _ if at < bytes.len() => {
                let digits = random.choice(["0", "-1", "1e999", "9223372036854775808", "\u{1f600}"]).unwrap();
                bytes.splice(at..at + 1, digits.bytes());
            }
            _ => {}
        }
        bytes.truncate(64 << 10);
    }
}

/// Feeds a target until the time is over; gives how often.
fn feed(target: fn(&[u8]), seeds: &[&[u8]], time: Duration) -> u64 {
    let (mut random, mut times, begun) = (fastrand::Rng::with_seed(41), 0, Instant::now());
    while begun.elapsed() < time {
        let mut bytes = random.choice(seeds.iter()).unwrap().to_vec();
        for _ in 0..random.usize(0..20) {
            let once = Instant::now();
            let fed = std::panic::catch_unwind(|| target(&bytes));
            assert!(fed.is_ok(), "with {:?}", bytes.escape_ascii().to_string());
            assert!(once.elapsed() < Duration::from_secs(2), "slow: {:?}", bytes.escape_ascii().to_string());
            times += 1;
            mutate(&mut random, &mut bytes, seeds);
        }
    }
    times
}

#[test]
fn bytes_that_nobody_meant_harm_nobody() {
    for (name, target, seeds) in targets::TARGETS {
        let times = feed(target, seeds, Duration::from_secs(size(3, 600)));
        println!("{name}: {times} times");
        assert!(times > 50, "{name}: {times}");
    }
}

/// The control: a target that does not like one byte is found out.
#[test]
fn a_target_that_panics_is_noticed() {
    let fussy = |bytes: &[u8]| assert!(!bytes.starts_with(b"ab{"));
    let fed = std::panic::catch_unwind(|| feed(fussy, &[b"abcd"], Duration::from_secs(5)));
    assert!(fed.is_err());
}
