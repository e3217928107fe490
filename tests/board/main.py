#!/usr/bin/env python3
"""The gateway on an emulated ARM board: sensors in, upstream down, power cuts, upstream up, and all of it there.

tests/board/main.py [--cuts N] [--seed N] [BINARY] needs qemu-system-aarch64, mosquitto and mkfs.ext4. With --control it forgets what
was written to the disk at the one power cut, and passes only if it notices.
"""

import argparse
import json
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter as Counted
from pathlib import Path

import probes
from check import check, time_faults, unseen
from machine import Broken, Machine, initramfs, waiting
from sensors import USER, Contacts, Counter, Meter, Outbox, named, password_hash

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CHIP = "9030000.pl061"
# Seconds for the whole run, and for what has to come in the end.
LIMIT, DRAIN = 480, 90
# How the uplink is at a power cut: there, away, or just back, so that what was kept is on its way.
CUTS = ["up", "down", "drain", "down", "up", "drain", "drain", "up", "down", "drain"]


def configuration(broker, boot):
    lines = {name: f"{CHIP}:{offset}" for name, offset in named(boot).items()}
    user = {"name": USER, "password": password_hash()}
    everything = ["counter", "contacts", "meter", "tank"]
    return {
        "gateway": {"id": "board"},
        "store": {"path": "/data/tidegate.db", "disk": {"high": "32MiB"}},
        "sources": {
            "counter": {"type": "mqtt_listen", "listen": "10.0.3.15:1883", "users": [user], "id": "id"},
            "contacts": {"type": "gpio", "lines": lines},
            "meter": {"type": "serial", "path": "/dev/ttyS0", "framing": "lines", "skip_first": True},
            "tank": {
                "type": "gpio",
                "lines": {f"tank {boot}": f"{CHIP}:{probes.TANK}"},
                "poll": "50ms",
                "report": {"when": "change"},
                "active_low": True,
            },
        },
        "sinks": {
            "cloud": {
                "type": "mqtt",
                "url": f"mqtt://10.0.2.2:{broker}",
                "from": everything,
                "topic": "{topic}",
                "envelope": True,
                "keepalive": "2s",
            },
            # What a sink has is on the disk: what the board shows must not be lost.
            "shown": {"type": "stdout", "from": everything, "envelope": True},
            "lamp": {"type": "gpio", "line": f"{CHIP}:{probes.LAMP}", "from": ["tank"]},
        },
    }


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Upstream:
    """A broker on this machine, and a subscriber with a lasting session that writes down what arrives."""

    def __init__(self, folder):
        self.port, self.path, self.events, self.processes = free_port(), folder / "upstream.ndjson", [], []
        config = folder / "mosquitto.conf"
        config.write_text(f"listener {self.port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\n")
        mosquitto = shutil.which("mosquitto", path="/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin")
        with (folder / "mosquitto.log").open("w") as log:
            self.processes.append(subprocess.Popen([mosquitto, "-c", config], stdout=log, stderr=log))
        subscribe = ["mosquitto_sub", "-h", "127.0.0.1", "-p", str(self.port), "-i", "upstream", "-c", "-q", "1", "-t", "#"]
        joined = lambda: subprocess.run([*subscribe, "-E"], stderr=subprocess.DEVNULL, timeout=20).returncode == 0
        waiting("the broker", 20, joined)
        with self.path.open("w") as out:
            self.processes.append(subprocess.Popen(subscribe, stdout=out))
        self.file = self.path.open("rb")

    def read(self):
        """All events so far."""
        while (line := self.file.readline()).endswith(b"\n"):
            self.events.append(json.loads(line))
        self.file.seek(-len(line), 1)  # not all of it is there yet
        return self.events

    def stop(self):
        for process in self.processes:
            process.kill()
            process.wait()


class Rig:
    def __init__(self, binary, seed):
        self.running = []
        self.folder = ROOT / "target/board/run"
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.console, self.disk = self.folder / "console.log", self.folder / "flash.img"
        self.random, self.begun, self.machine = random.Random(seed), time.time(), None
        self.outbox, self.shown, self.boots = Outbox(), [], 0
        self.plant, self.arm64 = free_port(), ROOT / "target/board/arm64"
        with self.disk.open("wb") as disk:
            disk.truncate(64 << 20)
        # All of it now: the kernel would do it in the background of the first boots.
        options = "lazy_itable_init=0,lazy_journal_init=0"
        subprocess.run(["mkfs.ext4", "-q", "-b", "4096", "-E", options, self.disk], check=True)
        self.upstream = Upstream(self.folder)
        self.initrd = self.folder / "initrd"
        self.initrd.write_bytes(initramfs(self.arm64, binary, HERE / "init"))

    def boot(self, uplink, discard=False):
        self.machine = Machine(self.arm64, self.initrd, self.disk, self.console, self.plant, discard)
        self.machine.network("uplink", uplink)
        self.machine.booted()
        return self.machine

    def gateway(self):
        """Starts it, and waits until it holds its lines."""
        config = json.dumps(configuration(self.upstream.port, self.boots), indent=2)
        self.machine.run(f"cat >/tidegate.jsonc <<'END'\n{config}\nEND")
        self.machine.run("tidegate run /tidegate.jsonc </dev/null >/dev/shown 2>/dev/console &")
        lines = {*named(self.boots), f"tank {self.boots}"}
        waiting("the gateway's first events", 30, lambda: lines <= set(self.machine.edges))

    def sensors(self):
        self.running = [Counter(self.plant, self.outbox), Meter(self.machine, self.boots), Contacts(self.machine, self.boots)]

    def power_cut(self):
        """The power first, then the sensors: they do not expect it."""
        machine, self.machine = self.machine, None
        machine.cut_power()
        self.shown += machine.shown
        self.boots += 1
        self.end_sensors()

    def end_sensors(self):
        for sensor in self.running:
            sensor.stop()
        wrong = [f"{type(s).__name__}: {s.error or 'hangs'}" for s in self.running if s.error or s.thread.is_alive()]
        self.running = []
        if wrong:
            raise Broken("; ".join(wrong))

    def cut(self, uplink, discard=False):
        """One boot that ends with a power cut at a random moment while events flow."""
        machine = self.boot(uplink != "drain", discard)
        self.gateway()
        self.sensors()
        time.sleep(self.random.uniform(0.5, 2))
        if uplink == "down":
            machine.network("uplink", False)
            time.sleep(self.random.uniform(0.5, 2))
        elif uplink == "drain":
            before = len(self.upstream.read())
            machine.network("uplink", True)
            waiting("what was kept", 60, lambda: len(self.upstream.read()) > before)
            time.sleep(self.random.uniform(0, 0.4))
        acknowledged = len(self.outbox.acknowledged)
        waiting("acknowledged messages", 30, lambda: len(self.outbox.acknowledged) > acknowledged)
        self.power_cut()

    def drained(self):
        """The last boot: the uplink is there, the sensors come to rest, and all arrives."""
        self.boot(True)
        self.gateway()
        self.sensors()
        time.sleep(1)
        self.end_sensors()
        return self.faults_at_rest()

    def faults_at_rest(self):
        """What is wrong when nothing more arrives."""
        end, last = time.monotonic() + DRAIN, None
        while True:
            count = len(self.upstream.read())
            faults = self.faults()
            if not faults or (time.monotonic() > end and count == last) or time.monotonic() > end + DRAIN:
                return faults
            last = count
            time.sleep(1)

    def known(self):
        shown = self.shown + (self.machine.shown if self.machine else [])
        return self.upstream.read(), shown, self.outbox.acknowledged

    def faults(self):
        return check(*self.known())

    def disk_faults(self):
        """The file system of the last power cut, as a boot finds it: the journal is enough to mend it."""
        mended = subprocess.run(["e2fsck", "-p", self.disk], capture_output=True, text=True)
        left = subprocess.run(["e2fsck", "-fn", self.disk], capture_output=True, text=True)
        bad = mended.returncode > 1 or left.returncode != 0
        return [f"disk: e2fsck: {mended.stdout}{left.stdout}{left.stderr}"] if bad else []

    def close(self):
        if self.machine:
            self.machine.cut_power()
        self.upstream.stop()


def main_test(rig, cuts):
    probes.commands(rig.boot(True), CHIP)
    rig.gateway()
    probes.lamp(rig)
    rig.power_cut()
    print(f"-- the board's lines do what `tidegate gpio` and the gateway say: {time.time() - rig.begun:.0f} s", flush=True)
    for number in range(cuts):
        uplink, begun = CUTS[number % len(CUTS)], time.monotonic()
        rig.cut(uplink)
        acknowledged, arrived = len(rig.outbox.acknowledged), len(rig.upstream.read())
        print(f"-- power cut {number + 1}, uplink {uplink}: {acknowledged} messages acknowledged, {len(rig.shown)} events shown,"
              f" {arrived} arrived, repeats included; {time.monotonic() - begun:.0f} s", flush=True)  # fmt: skip
    faults = rig.drained()
    known = rig.known()
    rig.power_cut()
    faults += time_faults(rig.upstream.events, rig.begun, time.time()) + rig.disk_faults()
    if not faults:
        faults = [f"the check did not see: {what}" for what in unseen(*known)]
    events, shown, acknowledged = known
    ids, count = {event["id"] for event in events}, Counted({event["id"]: event["topic"] for event in shown}.values())
    print(f"-- {len(acknowledged)} messages acknowledged, {count['contacts']} edges and levels and {count['meter']} lines shown;"
          f" {len(ids)} events arrived, and {len(events) - len(ids)} repeats", flush=True)  # fmt: skip
    return faults


def control(rig):
    """A disk that forgets: the loss must be seen."""
    rig.cut("down", discard=True)
    acknowledged = len(rig.outbox.acknowledged)
    rig.boot(True)
    rig.gateway()
    time.sleep(5)  # much longer than what arrives takes
    lost = [fault for fault in rig.faults() if fault.startswith("lost")]
    print(f"-- control: {acknowledged} messages were acknowledged by a board whose disk forgets; {len(lost)} losses are seen", flush=True)
    messages = sum("was acknowledged" in fault for fault in lost)
    others = sum("was on the disk" in fault for fault in lost)
    return [] if messages and others else [f"the rig saw {messages} messages and {others} other events lost, expected some of both"]


def ended(signum, _):
    raise Broken(f"not done after {LIMIT} s" if signum == signal.SIGALRM else "told to end")


def main():
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--control", action="store_true")
    asked.add_argument("--cuts", type=int, default=len(CUTS))
    asked.add_argument("--seed", type=int, default=time.time_ns() % 100_000)
    asked.add_argument("binary", nargs="?", default=ROOT / "target/aarch64-unknown-linux-musl/release/tidegate")
    asked = asked.parse_args()
    for signum in [signal.SIGALRM, signal.SIGTERM]:
        signal.signal(signum, ended)
    subprocess.run([HERE / "fetch"], check=True, timeout=900)
    signal.alarm(LIMIT)
    print(f"-- seed {asked.seed}", flush=True)
    rig, begun = Rig(asked.binary, asked.seed), time.monotonic()
    try:
        faults = control(rig) if asked.control else main_test(rig, asked.cuts)
    except (Broken, OSError) as error:
        faults = [str(error)]
    finally:
        signal.alarm(0)
        rig.close()
    for fault in faults[:20]:
        print(f"tests/board: {fault}", file=sys.stderr)
    if faults:
        print(f"tests/board: {len(faults)} faults with seed {asked.seed}; the end of {rig.console}:", file=sys.stderr)
        print("\n".join(rig.console.read_text(errors="replace").splitlines()[-40:]), file=sys.stderr)
        return 1
    print(f"-- passed in {time.monotonic() - begun:.0f} s")
    return 0


sys.exit(main())
