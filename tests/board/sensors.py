"""What the gateway hears: a device that speaks MQTT, a device at the serial port, and contacts at two GPIO lines."""

import hashlib
import base64
import json
import select
import socket
import threading
import time

USER, PASSWORD = "counter", "tide"
LINES = {"door": 0, "bell": 1}
# An edge that the gateway does not show within this many seconds did not arrive.
LOST_EDGE = 20


def named(boot):
    """The lines with the names that they have in one boot, so that what comes late is not taken for this one's."""
    return {f"{name} {boot}": offset for name, offset in LINES.items()}


def password_hash():
    """As `tidegate passwd` makes it, with few rounds: the board is slow, and nothing is secret here."""
    salt = b"tidegate-salt-12"
    hashed = hashlib.pbkdf2_hmac("sha512", PASSWORD.encode(), salt, 101)
    return f"$7$101${base64.b64encode(salt).decode()}${base64.b64encode(hashed).decode()}"


class Sensor:
    """A thread that lasts until it is stopped or the board is without power. Its error, if it has one, is kept."""

    def __init__(self, *args):
        self.stopping, self.error = threading.Event(), None
        self.thread = threading.Thread(target=self.guarded, args=args, daemon=True)
        self.thread.start()

    def guarded(self, *args):
        try:
            self.work(*args)
        except OSError:
            pass  # the power cut
        except Exception as error:
            self.error = error

    def stop(self):
        self.stopping.set()
        self.thread.join(30)


class Outbox:
    """Numbered messages of the MQTT device, which outlives the power cuts: what is not acknowledged is sent again, in order."""

    def __init__(self):
        self.sent, self.waiting, self.acknowledged = 0, {}, set()

    def new(self):
        self.sent += 1
        self.waiting[self.sent] = json.dumps({"id": f"count-{self.sent}", "n": self.sent, "fill": "x" * 80}).encode()
        return self.sent


class Counter(Sensor):
    """Publishes with quality of service 1: PUBACK is the gateway's word that it has the message on its disk."""

    WINDOW, PAUSE = 32, 0.004

    def text(self, value):
        return len(value).to_bytes(2, "big") + value.encode()

    def packet(self, kind, body):
        length, left = b"", len(body)
        while left > 127:
            length, left = length + bytes([left & 127 | 128]), left >> 7
        return bytes([kind]) + length + bytes([left]) + body

    def connect(self, port):
        """The port is there before the gateway is: QEMU opens it."""
        body = self.text("MQTT") + b"\x04\xc2" + (60).to_bytes(2, "big")
        body += self.text("counter") + self.text(USER) + self.text(PASSWORD)
        while not self.stopping.is_set():
            try:
                link = socket.create_connection(("127.0.0.1", port), 5)
                link.sendall(self.packet(0x10, body))
                answer = link.recv(4, socket.MSG_WAITALL)
                if answer[:1] == b"\x20" and answer[3:] == b"\x00":
                    return link
                link.close()
                if len(answer) == 4:
                    raise ValueError(f"the gateway refuses the MQTT device: code {answer[3]}")
            except OSError:
                pass
            time.sleep(0.05)
        return None

    def work(self, port, outbox):
        link, got = self.connect(port), b""
        if not link:
            return
        with link:
            again, flying = sorted(outbox.waiting), set()
            while outbox.waiting or not self.stopping.is_set():
                if len(flying) < self.WINDOW and (again or not self.stopping.is_set()):
                    number = again.pop(0) if again else outbox.new()
                    body = self.text("plant/counter") + (number % 65535 + 1).to_bytes(2, "big") + outbox.waiting[number]
                    link.sendall(self.packet(0x32, body))
                    flying.add(number)
                if select.select([link], [], [], self.PAUSE)[0]:
                    new = link.recv(4096)
                    if not new:
                        return
                    got += new
                while len(got) >= 4:
                    if got[:2] != b"\x40\x02":
                        raise ValueError(f"expected PUBACK, not {got[:4].hex()}")
                    packet, got = int.from_bytes(got[2:4], "big"), got[4:]
                    number = next(n for n in flying if n % 65535 + 1 == packet)
                    flying.remove(number)
                    del outbox.waiting[number]
                    outbox.acknowledged.add(number)


class Meter(Sensor):
    """Sends numbered lines to the serial port."""

    PAUSE = 0.008

    def work(self, machine, boot):
        number = 0
        while not self.stopping.is_set():
            number += 1
            machine.serial.socket.sendall(b"boot %03d line %06d %s\n" % (boot, number, b"." * 20))
            time.sleep(self.PAUSE)


class Contacts(Sensor):
    """Opens and closes contacts. Each waits until its last edge is shown: a contact may be fast, but an edge that comes before
    the kernel has looked at the one before is none that it can tell."""

    PAUSE = 0.005

    def work(self, machine, boot):
        lines = named(boot)
        driven, since = dict.fromkeys(lines, 0), time.monotonic()
        while machine.qemu.poll() is None:
            idle = [line for line in lines if machine.edges.get(line, 0) >= driven[line]]
            if self.stopping.is_set() and len(idle) == len(lines):
                return
            for line in idle if not self.stopping.is_set() else []:
                driven[line] += 1
                machine.drive(lines[line], driven[line] % 2)
                since = time.monotonic()
            if time.monotonic() - since > LOST_EDGE:
                raise ValueError(f"edges {driven} were made, only {machine.edges} are shown after {LOST_EDGE} s")
            time.sleep(self.PAUSE)
