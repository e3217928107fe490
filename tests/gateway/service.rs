//! What systemd is told, and what SIGHUP does.

use crate::kit::{Gateway, LONG, folder, http, port, wait_for, wait_for_port};
use std::{
    os::unix::net::UnixDatagram,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

/// Signs of life are due every 200 ms.
const WATCHDOG_USEC: &str = "600000";

fn configuration(listen: u16, cloud: u16) -> String {
    format!(
        r#"{{ "sources": {{ "web": {{ "type": "http", "listen": "127.0.0.1:{listen}" }} }},
  "pipelines": {{ "p": {{ "from": ["web"], "to": ["cloud"], "processes": [{{ "type": "annotate", "set": {{ "a": 1 }} }}] }} }},
  "sinks": {{ "cloud": {{ "type": "http", "url": "http://127.0.0.1:{cloud}/" }} }} }}"#
    )
}

/// systemd's end of the socket.
struct Listener(UnixDatagram);

impl Listener {
    fn new(dir: &Path) -> (Listener, String) {
        let path = dir.join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        (Listener(socket), path.to_str().unwrap().to_owned())
    }

    /// Whether something with this text is told within the time.
    fn hears(&self, text: &str, within: Duration) -> bool {
        let (until, mut buffer) = (Instant::now() + within, [0; 4096]);
        while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            self.0.set_read_timeout(Some(left)).unwrap();
            if let Ok(n) = self.0.recv(&mut buffer)
                && String::from_utf8_lossy(&buffer[..n]).contains(text)
            {
                return true;
            }
        }
        false
    }

    /// Forgets what was told.
    fn forget(&self) {
        while self.hears("", Duration::from_millis(1)) {}
    }
}

#[test]
fn signs_of_life_stop_when_the_disk_does_and_not_when_the_upstream_does() {
    let (dir, listen, cloud) = (folder(), port(), port());
    let (systemd, socket) = Listener::new(dir.path());
    // Some flushes after the start they begin to take four seconds.
    let env = [("NOTIFY_SOCKET", socket.as_str()), ("WATCHDOG_USEC", WATCHDOG_USEC)];
    let fault = ["fdatasync", "delay_enter=4000000:when=20+"];
    let gateway = Gateway::start_with(dir.path(), &configuration(listen, cloud), &env, Some(fault));
    assert!(systemd.hears("READY=1", LONG));
    wait_for_port(listen);
    let url = format!("http://127.0.0.1:{listen}/v1/events");
    assert_eq!(http::post(&url, "{}").unwrap().0, 202);
    assert!(systemd.hears("down: sinks.cloud", LONG));
    for _ in 0..3 {
        assert!(systemd.hears("WATCHDOG=1", LONG));
    }
    wait_for("a flush that hangs", LONG, || {
        let url = url.clone();
        std::thread::spawn(move || http::post(&url, "{}"));
        systemd.forget();
        !systemd.hears("WATCHDOG=1", Duration::from_secs(2))
    });
    gateway.kill();
}

#[test]
fn sighup_takes_a_right_configuration_over_and_leaves_a_wrong_one() {
    let (dir, listen, other, cloud) = (folder(), port(), port(), port());
    let upstream = http::Upstream::start(cloud, |_| 200);
    let (systemd, socket) = Listener::new(dir.path());
    let env = [("NOTIFY_SOCKET", socket.as_str())];
    let mut gateway = Gateway::start_with(dir.path(), &configuration(listen, cloud), &env, None);
    assert!(systemd.hears("READY=1", LONG));
    let hangup = |text: &str| {
        std::fs::write(dir.path().join("tidegate.jsonc"), text).unwrap();
        assert!(Command::new("kill").args(["-HUP", &gateway.pid().to_string()]).status().unwrap().success());
    };
    let post = |port: u16, body: &str| http::post(&format!("http://127.0.0.1:{port}/v1/events"), body).unwrap().0;
    hangup("{ \"sinks\": 1 }");
    wait_for("the error", LONG, || gateway.log().contains("going on with the old one"));
    assert_eq!(post(listen, r#"{"n":1}"#), 202);
    hangup(&configuration(other, cloud));
    assert!(systemd.hears("RELOADING=1", LONG) && systemd.hears("READY=1", LONG));
    wait_for_port(other);
    assert_eq!(post(other, r#"{"n":2}"#), 202);
    wait_for("both events", LONG, || upstream.events().len() == 2);
    gateway.alive();
    assert!(gateway.stop().success());
    assert!(systemd.hears("STOPPING=1", LONG));
}
