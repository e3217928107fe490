"""The emulated board: a virtual ARM machine with GPIO lines, a serial port, a disk and two networks."""

import json
import lzma
import os
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from datetime import datetime
from pathlib import Path

MODULES = ["virtio_mmio", "virtio_blk", "virtio_net", "virtio_console", "crc32c_generic", "ext4", "gpio_pl061", "gpio_keys", "8250_pci"]
# PL061 of QEMU's machine `virt`; the register of the levels is read through a mask of the lines.
GPIO_LEVELS, GPIO_DIRECTIONS = 0x0903_0000 + (0xFF << 2), 0x0903_0400
# Seconds. A boot takes three of them; the machine may be shared.
BOOT, ANSWER = 90, 30


class Broken(Exception):
    """The rig or the board does not do what the test needs."""


def waiting(what, seconds, ready):
    """Waits until `ready` gives something true, and gives that back."""
    end = time.monotonic() + seconds
    while not (found := ready()):
        if time.monotonic() > end:
            raise Broken(f"{what}: not within {seconds} s")
        time.sleep(0.01)
    return found


def seconds(text):
    """A time of RFC 3339 as seconds since 1970."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def read_module(path):
    """A kernel module as the distribution packed it."""
    if path.suffix == ".xz":
        return lzma.decompress(path.read_bytes())
    if path.suffix == ".zst":
        return subprocess.run(["zstd", "-dcq", path], check=True, capture_output=True).stdout
    return path.read_bytes()


def modules(folder):
    """Names and contents of `MODULES`, each behind those that it needs. Who is not there is built into the kernel."""
    files = {path.name.split(".")[0].replace("-", "_"): path for path in folder.iterdir()}
    order = {}

    def add(name):
        if name in files and name not in order:
            content = read_module(files[name])
            needs = re.search(rb"\0depends=([^\0]*)\0", content)
            for other in needs[1].decode().split(",") if needs else []:
                add(other.replace("-", "_"))
            order[name] = content

    for name in MODULES:
        add(name)
    return order


def archive(files):
    """An initramfs: paths with their modes and contents, as a cpio archive of the form `newc`."""
    out = bytearray()
    for number, (name, (mode, content)) in enumerate([*files.items(), ("TRAILER!!!", (0, b""))]):
        fields = [number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0]
        out += b"070701" + b"".join(b"%08x" % field for field in fields) + name.encode() + b"\0"
        out += bytes(-len(out) % 4) + content
        out += bytes(-len(out) % 4)
    return bytes(out)


def initramfs(arm64, binary, init):
    files = {name: (0o40755, b"") for name in ["bin", "data", "dev", "modules", "proc", "sys", "tmp"]}
    order = modules(arm64 / "modules")
    for name, content in order.items():
        files[f"modules/{name}"] = (0o100644, content)
    files["modules/order"] = (0o100644, "".join(f"{name}\n" for name in order).encode())
    files["bin/busybox"] = (0o100755, (arm64 / "busybox").read_bytes())
    files["bin/tidegate"] = (0o100755, Path(binary).read_bytes())
    files["init"] = (0o100755, Path(init).read_bytes())
    return archive(files)


class Talk:
    """A socket of QEMU; lines in both directions."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(ANSWER)
        self.socket.connect(str(path))
        self.lines = self.socket.makefile("r", encoding="utf-8", errors="replace", newline="\n")

    def say(self, line):
        self.socket.sendall(line.encode() + b"\n")

    def hear(self):
        line = self.lines.readline()
        if not line:
            raise Broken("the machine has ended")
        return line.rstrip("\n")


class Machine:
    """The board under power. The disk is a file that outlives it; `discard` forgets what is written at the power cut."""

    def __init__(self, arm64, initrd, disk, log, plant_port, discard=False):
        self.folder = Path(tempfile.mkdtemp(prefix="board-"))
        # For each GPIO line the number of the last edge that was shown; 0 after its level at the beginning.
        self.shown, self.edges, self.testing = [], {}, threading.Lock()
        port = lambda name: f"socket,id={name},path={self.folder}/{name},server=on,wait=off"
        # QEMU writes through the host's page cache, which outlives its SIGKILL: the disk is one that keeps what it was given.
        # What the guest holds in its memory is gone; that is what fsync is about.
        drive = f"file={disk},format=raw,if=none,id=flash,cache=writeback,snapshot={'on' if discard else 'off'}"
        # fmt: off
        self.qemu = subprocess.Popen(
            ["qemu-system-aarch64", "-M", "virt", "-cpu", "cortex-a72", "-smp", "2", "-m", "256", "-accel", "tcg,thread=multi",
             "-nodefaults", "-display", "none", "-no-reboot",
             "-kernel", arm64 / "vmlinuz", "-initrd", initrd, "-append", "console=ttyAMA0 quiet panic=-1",
             "-chardev", f"file,id=console,path={log},append=on", "-serial", "chardev:console",
             "-drive", drive, "-device", "virtio-blk-device,drive=flash",
             "-netdev", "user,id=uplink,net=10.0.2.0/24",
             "-device", "virtio-net-device,netdev=uplink,mac=52:54:00:00:00:02",
             "-netdev", f"user,id=plant,net=10.0.3.0/24,hostfwd=tcp:127.0.0.1:{plant_port}-10.0.3.15:1883",
             "-device", "virtio-net-device,netdev=plant,mac=52:54:00:00:00:03",
             "-chardev", port("serial"), "-device", "pci-serial,chardev=serial",
             "-device", "virtio-serial-device",
             "-chardev", port("shell"), "-device", "virtserialport,chardev=shell,name=shell",
             "-chardev", port("shown"), "-device", "virtserialport,chardev=shown,name=shown",
             "-qmp", f"unix:{self.folder}/qmp,server=on,wait=off",
             "-qtest", f"unix:{self.folder}/qtest,server=on,wait=off", "-qtest-log", "/dev/null"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        # fmt: on
        try:
            self.connect()
        except BaseException:
            self.cut_power()
            raise

    def connect(self):
        talks = {}
        for name in ["qmp", "qtest", "serial", "shell", "shown"]:
            waiting(f"QEMU's socket `{name}`", ANSWER, lambda: self.qemu.poll() is not None or (self.folder / name).exists())
            if self.qemu.poll() is not None:
                raise Broken(f"QEMU did not start: {self.qemu.stderr.read().decode().strip()}")
            talks[name] = Talk(self.folder / name)
        self.qmp, self.qtest, self.serial, self.shell = (talks[name] for name in ["qmp", "qtest", "serial", "shell"])
        self.serial.socket.settimeout(None)
        talks["shown"].socket.settimeout(None)
        self.reader = threading.Thread(target=self.read_shown, args=(talks["shown"],), daemon=True)
        self.reader.start()
        self.qmp.hear()
        self.control("qmp_capabilities")
        parts = self.control("qom-list", path="/machine/unattached")
        self.gpio = next(f"/machine/unattached/{part['name']}" for part in parts if "pl061" in part["type"])

    def read_shown(self, talk):
        """What the gateway shows; the last line may be torn by the power cut."""
        try:
            for line in talk.lines:
                if line.endswith("}\n"):
                    event = json.loads(line)
                    self.shown.append(event)
                    if event["topic"] in ("contacts", "tank"):
                        self.edges[event["body"]["line"]] = event["body"].get("seq", 0)
        except OSError:
            pass

    def control(self, command, **arguments):
        self.qmp.say(json.dumps({"execute": command, "arguments": arguments}))
        while True:
            answer = json.loads(self.qmp.hear())
            if "error" in answer:
                raise Broken(f"QEMU: {command}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]

    def network(self, name, up):
        self.control("set_link", name=name, up=up)

    def test(self, command):
        """A command of QEMU's qtest protocol."""
        with self.testing:
            self.qtest.say(command)
            answer = self.qtest.hear()
        if not answer.startswith("OK"):
            raise Broken(f"QEMU: {command}: {answer}")
        return answer[2:].strip()

    def drive(self, line, level):
        """What is at an input line of the GPIO chip from now on."""
        self.test(f"set_irq_in {self.gpio} unnamed-gpio-in {line} {int(level)}")

    def output(self, line):
        """The level of an output line; `None` if it is an input."""
        direction, levels = (int(self.test(f"readl {register}"), 16) for register in [GPIO_DIRECTIONS, GPIO_LEVELS])
        return bool(levels >> line & 1) if direction >> line & 1 else None

    def run(self, command, seconds=ANSWER):
        """Runs a command line in the board, and gives its exit code and what it wrote."""
        self.shell.socket.settimeout(seconds)
        self.shell.say(f"{command}\ncode=$?; echo; echo END $code")
        lines = []
        try:
            while not (end := re.fullmatch(r"END (\d+)", line := self.shell.hear())):
                lines.append(line)
        except TimeoutError:
            raise Broken(f"`{command}`: no answer within {seconds} s, only {lines}") from None
        return int(end[1]), "\n".join(lines).strip("\n")

    def booted(self):
        self.run("true", BOOT)

    def cut_power(self):
        """At once, wherever it is."""
        self.qemu.kill()
        self.qemu.wait()
        if hasattr(self, "reader"):
            self.reader.join()
        shutil.rmtree(self.folder)
