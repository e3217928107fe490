//! Somebody else fills the disk, or we do: on real small file systems, with nothing free at all, the gateway neither ends nor
//! lies, delivers what it holds, and takes events in again when there is room.
//!
//! Each cell runs in a mount namespace of its own (`unshare -m`), which takes root; without it the cells are skipped.

use crate::{
    account::Arrivals,
    kit::{Gateway, LONG, folder, wait_for, wait_for_port},
    rig::Rig,
};
use std::{
    env,
    fs::{self, File, OpenOptions},
    io::Write,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

const DISKS: [&str; 3] = ["tmpfs", "ext4-1024", "ext4-4096"];
/// Set where a cell runs: inside of the namespace.
const INSIDE: &str = "TIDEGATE_CELL";
/// Events before the disk is full.
const FIRST: u64 = 6_000;

/// Runs a test of this file again in a namespace of its own, once a file system; inside gives the disk's folder.
fn cells(test: &str, cell: impl Fn(&str, &Path)) {
    if let Ok(disk) = env::var(INSIDE) {
        let dir = folder();
        let at = mount(&disk, dir.path());
        cell(&disk, &at);
        return run("umount", &["-l", at.to_str().unwrap()]);
    }
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: small file systems need root (and CI has it)");
    }
    for disk in DISKS {
        let exe = env::current_exe().unwrap();
        let ended = Command::new("unshare")
            .args(["-m", "--propagation", "private", exe.to_str().unwrap(), "--exact", test, "--nocapture"])
            .env(INSIDE, disk)
            .output()
            .expect("unshare");
        let told = String::from_utf8_lossy(&ended.stdout).into_owned() + &String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.success(), "{test} on {disk}:\n{told}");
    }
}

fn run(program: &str, arguments: &[&str]) {
    let ended = Command::new(program).args(arguments).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(ended.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&ended.stderr));
}

/// A file system of 48 MiB.
fn mount(disk: &str, dir: &Path) -> PathBuf {
    let (at, image) = (dir.join("disk"), dir.join("image"));
    fs::create_dir(&at).unwrap();
    let at_text = at.to_str().unwrap();
    match disk.split_once('-') {
        Some(("ext4", block)) => {
            File::create(&image).unwrap().set_len(48 << 20).unwrap();
            run("mkfs.ext4", &["-q", "-m", "0", "-b", block, image.to_str().unwrap()]);
            run("mount", &["-o", "loop", image.to_str().unwrap(), at_text]);
        }
        _ => run("mount", &["-t", "tmpfs", "-o", "size=48m", "none", at_text]),
    }
    at
}

/// Takes every block that is free.
fn fill(at: &Path) {
    let mut file = OpenOptions::new().create(true).append(true).open(at.join("filler")).unwrap();
    for size in [1 << 20, 64 << 10, 1024, 1] {
        while file.write_all(&vec![0x55; size]).is_ok() {}
    }
    file.sync_all().ok();
}

fn free(at: &Path) -> u64 {
    let stat = rustix::fs::statvfs(at).unwrap();
    stat.f_bfree * stat.f_frsize
}

/// Somebody who takes every block that becomes free, as long as the value lives.
fn greedy<R>(at: &Path, during: impl FnOnce() -> R) -> R {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                fill(at);
                thread::sleep(Duration::from_millis(20));
            }
        });
        let done = during();
        stop.store(true, Ordering::Relaxed);
        done
    })
}

fn store(at: &Path, disk: &str) -> String {
    format!(r#""store": {{ "path": "{}/tidegate.db", "disk": {{ {disk} }} }}"#, at.display())
}

/// With the disk full: what was acknowledged is delivered; with room again: events are taken in again.
fn drains_and_recovers(rig: &Rig, at: &Path, acknowledged: u64, gateway: &mut Gateway) {
    let (by_http, by_mqtt) = (Arrivals::default(), Arrivals::default());
    let (_cloud, _bridge) = (rig.cloud(&by_http), rig.bridge(&by_mqtt));
    let most = acknowledged as usize;
    greedy(at, || {
        wait_for("all that was acknowledged", LONG, || {
            gateway.alive();
            by_http.distinct() >= most && by_mqtt.distinct() >= most
        });
    });
    println!("free while it drained: {} bytes", free(at));
    fs::remove_file(at.join("filler")).unwrap();
    let mut sent = acknowledged;
    wait_for("events to be taken in again", LONG, || {
        (sent, _) = rig.post_until_refused("post", sent, acknowledged + 500);
        sent == acknowledged + 500
    });
    let all = sent as usize;
    wait_for("the rest", LONG, || by_http.distinct() >= all && by_mqtt.distinct() >= all);
    by_http.check(&[("post", sent)]);
    by_mqtt.check(&[("post", sent)]);
}

#[test]
fn a_foreign_file_takes_every_block() {
    cells("full::a_foreign_file_takes_every_block", |disk, at| {
        let (dir, rig) = (folder(), Rig::new());
        if disk == "ext4-4096" {
            symlink(at.join("log"), dir.path().join("log")).unwrap(); // also the log can be on that disk
        }
        let mut gateway = rig.start_with(dir.path(), &store(at, ""));
        let (first, _) = rig.post_until_refused("post", 0, FIRST);
        assert_eq!(first, FIRST);
        fill(at);
        let (sent, refused) = rig.post_until_refused("post", first, 1_000_000);
        assert!(refused);
        println!("{disk}: {} more were taken in with nothing free", sent - first);
        drains_and_recovers(&rig, at, sent, &mut gateway);
        assert!(gateway.stop().success());
    });
}

#[test]
fn our_own_cap_is_reached_and_then_the_disk_is_full() {
    cells("full::our_own_cap_is_reached_and_then_the_disk_is_full", |disk, at| {
        let (dir, rig) = (folder(), Rig::new());
        let mut gateway = rig.start_with(dir.path(), &store(at, r#""high": "1MiB""#));
        let (sent, refused) = rig.post_until_refused("post", 0, 1_000_000);
        assert!(refused && sent > 1_000, "{sent}");
        println!("{disk}: {sent} events below the cap");
        fill(at);
        thread::sleep(Duration::from_secs(2));
        drains_and_recovers(&rig, at, sent, &mut gateway);
        assert!(gateway.stop().success());
    });
}

#[test]
fn what_it_took_up_itself_is_room_again_once_it_is_delivered() {
    cells("full::what_it_took_up_itself_is_room_again_once_it_is_delivered", |disk, at| {
        if disk != "tmpfs" {
            return; // one will do
        }
        let (dir, rig) = (folder(), Rig::new());
        fs::write(at.join("others"), vec![0x55; 14 << 20]).unwrap();
        let mut gateway = rig.start_with(dir.path(), &store(at, r#""free": "15MiB""#));
        let (sent, refused) = rig.post_until_refused("post", 0, 1_000_000);
        assert!(refused && sent > 1_000, "{sent}");
        let (by_http, by_mqtt) = (Arrivals::default(), Arrivals::default());
        let (_cloud, _bridge) = (rig.cloud(&by_http), rig.bridge(&by_mqtt));
        let mut more = sent;
        // The file is as large as it was, and nothing else has gone from the disk.
        wait_for("events to be taken in again", LONG, || {
            gateway.alive();
            (more, _) = rig.post_until_refused("post", more, sent + 500);
            more == sent + 500
        });
        wait_for("all of them", LONG, || by_http.distinct() >= more as usize && by_mqtt.distinct() >= more as usize);
        by_http.check(&[("post", more)]);
        by_mqtt.check(&[("post", more)]);
        assert!(gateway.stop().success());
    });
}

#[test]
fn the_disk_is_full_when_the_gateway_starts() {
    cells("full::the_disk_is_full_when_the_gateway_starts", |_, at| {
        for kill in [false, true] {
            let (dir, rig) = (folder(), Rig::new());
            let gateway = rig.start_with(dir.path(), &store(at, ""));
            let (first, _) = rig.post_until_refused("post", 0, FIRST);
            if kill {
                gateway.kill();
            } else {
                assert!(gateway.stop().success());
            }
            fill(at);
            let mut gateway = rig.start_with(dir.path(), &store(at, ""));
            let (sent, _) = rig.post_until_refused("post", first, 1_000_000);
            // Ended and started again on the full disk, it is as before.
            gateway.kill();
            fill(at);
            gateway = rig.start_with(dir.path(), &store(at, ""));
            drains_and_recovers(&rig, at, sent, &mut gateway);
            assert!(gateway.stop().success());
            for entry in fs::read_dir(at).unwrap().filter_map(Result::ok).filter(|e| e.path().is_file()) {
                fs::remove_file(entry.path()).unwrap();
            }
        }
    });
}

#[test]
fn there_is_no_room_even_for_a_database() {
    cells("full::there_is_no_room_even_for_a_database", |_, at| {
        let (dir, rig) = (folder(), Rig::new());
        fill(at);
        let mut gateway = Gateway::start(dir.path(), &rig.configuration_with(&store(at, "")), &[]);
        thread::sleep(Duration::from_secs(3));
        gateway.alive();
        fs::remove_file(at.join("filler")).unwrap();
        wait_for_port(rig.http);
        assert_eq!(rig.post_until_refused("post", 0, 100), (100, false));
        assert!(gateway.stop().success());
        // Told to stop while it waits, it ends.
        for entry in fs::read_dir(at).unwrap().filter_map(Result::ok).filter(|e| e.path().is_file()) {
            fs::remove_file(entry.path()).unwrap();
        }
        fill(at);
        let mut gateway = Gateway::start(dir.path(), &rig.configuration_with(&store(at, "")), &[]);
        thread::sleep(Duration::from_secs(2));
        gateway.alive();
        assert!(gateway.stop().success());
    });
}

#[test]
fn a_file_system_that_becomes_read_only_is_still_read() {
    cells("full::a_file_system_that_becomes_read_only_is_still_read", |disk, at| {
        if disk == "tmpfs" {
            return; // it cannot be made so while a file is open
        }
        let (dir, rig) = (folder(), Rig::new());
        let configuration = format!(
            r#"{{ {}, "sources": {{ "web": {{ "type": "http", "listen": "127.0.0.1:{}", "id": "id" }} }},
  "sinks": {{ "cloud": {{ "type": "http", "from": ["web"], "url": "http://127.0.0.1:{}/", "envelope": true }} }} }}"#,
            store(at, ""),
            rig.http,
            rig.cloud
        );
        let mut gateway = Gateway::start(dir.path(), &configuration, &[]);
        wait_for_port(rig.http);
        let (first, _) = rig.post_until_refused("post", 0, FIRST);
        run("mount", &["-o", "remount,abort", at.to_str().unwrap()]);
        let (sent, refused) = rig.post_until_refused("post", first, 1_000_000);
        assert!(refused);
        println!("{} more were acknowledged", sent - first);
        let arrivals = Arrivals::default();
        let _cloud = rig.cloud(&arrivals);
        wait_for("all that was acknowledged", LONG, || arrivals.distinct() >= sent as usize);
        arrivals.check(&[("post", sent)]);
        assert!(rig.post_until_refused("post", sent, sent + 1).1);
        thread::sleep(Duration::from_secs(2));
        gateway.alive();
        let told = gateway.log().lines().filter(|line| line.contains("store")).count();
        assert!(told < 20, "{told} lines in the log:\n{}", gateway.log());
        gateway.kill();
    });
}
