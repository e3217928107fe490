//! Signs that a link is back, for who waits for it: something else that was down came up, or the machine's network changed.

use super::links::Links;
use std::{collections::BTreeSet, fs, path::Path, time::Duration};
use tokio::time::{self, Instant};

/// How often the machine's network is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// No two attempts because of a sign are closer together: a link that comes and goes is not hammered.
const APART: Duration = Duration::from_secs(5);

#[derive(Default)]
pub(super) struct Kick {
    last: Option<Instant>,
}

impl Kick {
    /// Until there is a sign that an attempt is worth it.
    pub async fn wait(&mut self, links: &Links) {
        let mut returns = links.returns();
        if let Some(last) = self.last {
            time::sleep_until(last + APART).await;
        }
        let mut before = network(Path::new("/"));
        loop {
            tokio::select! {
                changed = returns.changed() => if changed.is_ok() { break },
                () = time::sleep(LOOK) => {}
            }
            let now = network(Path::new("/"));
            if !now.is_subset(&before) {
                break;
            }
            before = now;
        }
        self.last = Some(Instant::now());
    }
}

/// The default routes, and the interfaces that are up.
fn network(root: &Path) -> BTreeSet<String> {
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
    let (v4, v6) = (read("proc/net/route"), read("proc/net/ipv6_route"));
    // Interface, destination, gateway, …; destination, its prefix, …, the interface last.
    let v4 = v4.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().take(3).collect();
        (fields.get(1) == Some(&"00000000")).then(|| fields.join(" "))
    });
    let v6 = v6.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let default = fields.first()?.bytes().all(|b| b == b'0') && fields.get(1) == Some(&"00");
        let name = fields.last().filter(|name| default && **name != "lo")?;
        Some(format!("{name} {}", fields.get(4)?))
    });
    let interfaces = fs::read_dir(root.join("sys/class/net")).into_iter().flatten().flatten().filter_map(|entry| {
        let state = fs::read_to_string(entry.path().join("operstate")).ok()?;
        (state.trim() == "up").then(|| entry.file_name().to_string_lossy().into_owned())
    });
    v4.chain(v6).chain(interfaces).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_network_is_its_routes_and_carriers() {
        let root = tempfile::tempdir().unwrap();
        assert!(network(root.path()).is_empty());
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("proc/net/route", "Iface\tDestination\tGateway\neth0\t00000000\t0101A8C0\t0003\neth0\t0001A8C0\t0\t1\n");
        let zeros = "0".repeat(32);
        write(
            "proc/net/ipv6_route",
            &format!("{zeros} 00 {zeros} 00 fe80 1 1 0 3 wlan0\n{zeros} 00 {zeros} 00 {zeros} f 1 0 2 lo\n"),
        );
        write("sys/class/net/eth0/operstate", "up\n");
        write("sys/class/net/wwan0/operstate", "down\n");
        let got: Vec<_> = network(root.path()).into_iter().collect();
        assert_eq!(got, ["eth0", "eth0 00000000 0101A8C0", "wlan0 fe80"]);
    }

    #[tokio::test(start_paused = true)]
    async fn something_that_comes_up_is_a_sign_and_no_more_often_than_allowed() {
        let (links, mut kick, begun) = (Links::default(), Kick::default(), Instant::now());
        let come_and_go = async {
            for n in 0..100 {
                links.up("sinks.b"); // was not down: no sign
                time::sleep(Duration::from_millis(250)).await;
                links.down("sinks.b", &n.to_string());
                time::sleep(Duration::from_millis(250)).await;
                links.up("sinks.b");
            }
        };
        let signs = async {
            kick.wait(&links).await;
            assert_eq!(begun.elapsed(), Duration::from_millis(500));
            let mut signs = 1;
            while time::timeout(Duration::from_secs(60), kick.wait(&links)).await.is_ok() {
                signs += 1;
            }
            signs
        };
        let (signs, ()) = tokio::join!(signs, come_and_go);
        assert!((8..=11).contains(&signs), "{signs} in 50 s");
    }
}
