#!/usr/bin/env python3
"""Tries a gateway with what surrounds it on a board: `tests/trial.py SECONDS COMMAND…`, where COMMAND is the binary, with
its emulator before it.

A serial port (a pty) and an MQTT client send for so many seconds; a broker takes what the gateway passes on. All that went
in must have come out, once, in its order; then SIGTERM must end the gateway with exit code 0. Needs mosquitto and
mosquitto-clients.
"""

import json
import os
import pathlib
import pty
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import tty

EVERY = 0.02  # s between two events of one source
READY = 60  # s for the emulated gateway to listen
DRAIN = 60  # s for what was sent to come out
STOP = 20  # s from SIGTERM to the end

SEARCH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"  # Debian puts mosquitto there


def program(name):
    found = shutil.which(name, path=SEARCH)
    if not found:
        sys.exit(f"tests/trial.py: missing: {name} (Debian: apt-get install mosquitto mosquitto-clients)")
    return found


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait(what, seconds, done, *watched):
    until = time.monotonic() + seconds
    while not done():
        for child in watched:
            if child.poll() is not None:
                sys.exit(f"tests/trial.py: {child.args[0]} ended with {child.returncode} before {what}")
        if time.monotonic() > until:
            sys.exit(f"tests/trial.py: not {what} within {seconds} s")
        time.sleep(0.05)


def listens(port):
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


def knows_terminals(command, port):
    """Some emulators (qemu-user 7.2) lack the kernel's newer calls for terminals, and say so as no kernel does."""
    watch = [*command, "serial", "watch", port]
    try:
        done = subprocess.run(watch, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=5)
    except subprocess.TimeoutExpired:
        return True
    return "os error 38" not in done.stderr


def trial(seconds, command, folder, children):
    upstream, devices = free_port(), free_port()
    master, slave = pty.openpty()
    tty.setraw(slave)
    sources = {"devices": {"type": "mqtt_listen", "listen": f"127.0.0.1:{devices}"}}
    if knows_terminals(command, os.ttyname(slave)):
        sources["port"] = {"type": "serial", "path": os.ttyname(slave), "baud": 115200, "framing": "json"}
    else:
        print("-- SKIPPED: this emulator has no serial port; the emulated board has one (tests/board)")

    (folder / "broker.conf").write_text(
        f"listener {upstream} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\nlog_type error\n"
    )
    broker = subprocess.Popen([program("mosquitto"), "-c", folder / "broker.conf"])
    children.append(broker)
    wait("listening", 10, lambda: listens(upstream), broker)
    # A session that lasts, so that nothing is missed before the second command is connected.
    subscribe = [program("mosquitto_sub"), "-p", str(upstream), "-q", "1", "-c", "-i", "upstream", "-t", "up/#"]
    subprocess.run([*subscribe, "-E"], check=True, timeout=10)
    came = folder / "came"
    with came.open("w") as file:
        children.append(subprocess.Popen([*subscribe, "-v"], stdout=file))

    config = {
        "store": {"path": str(folder / "trial.db")},
        "sources": sources,
        "sinks": {
            "up": {
                "type": "mqtt",
                "url": f"mqtt://127.0.0.1:{upstream}",
                "from": list(sources),
                "topic": "up/{topic}",
                "unwrap": True,
            }
        },
    }
    (folder / "trial.jsonc").write_text(json.dumps(config))
    gateway = subprocess.Popen([*command, "run", folder / "trial.jsonc"])
    children.append(gateway)
    wait("listening", READY, lambda: listens(devices), gateway)
    publisher = subprocess.Popen(
        [program("mosquitto_pub"), "-p", str(devices), "-q", "1", "-l", "-t", "a"], stdin=subprocess.PIPE
    )
    children.append(publisher)

    sent, until = 0, time.monotonic() + seconds
    while time.monotonic() < until:
        line = b'{"n": %d}\n' % sent
        if "port" in sources:
            os.write(master, line)
        publisher.stdin.write(line)
        publisher.stdin.flush()
        sent += 1
        time.sleep(EVERY)
    publisher.stdin.close()

    lines = lambda: came.read_text().splitlines()
    due = len(sources) * sent
    wait(f"all of {due} events out", DRAIN, lambda: len(lines()) >= due, gateway, broker)
    gateway.send_signal(signal.SIGTERM)
    code = gateway.wait(STOP)
    if code != 0:
        sys.exit(f"tests/trial.py: SIGTERM ended it with {code}")

    got = {f"up/{source}": [] for source in sources}
    for line in lines():
        topic, body = line.split(" ", 1)
        got[topic].append(json.loads(body)["n"])
    for topic, numbers in got.items():
        if numbers != list(range(sent)):
            sys.exit(f"tests/trial.py: {topic}: {sent} sent, {len(numbers)} came, {len(set(numbers))} different, first {numbers[:5]}")
    print(f"-- run: {seconds:g} s, {sent} events from each of {', '.join(sources)}, all out once; SIGTERM: exit code 0")


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    children = []
    # Whoever ends this does not leave the others behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("tests/trial.py: ended"))
    with tempfile.TemporaryDirectory() as folder:
        try:
            trial(float(sys.argv[1]), sys.argv[2:], pathlib.Path(folder), children)
        finally:
            for child in reversed(children):
                child.kill()
                child.wait()


main()
