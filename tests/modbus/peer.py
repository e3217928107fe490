"""Modbus units of pymodbus, for tests/modbus: units 1 and 3 answer; 2 does while told so.

peer.py tcp PORT, or peer.py rtu: over two ptys with a wire between them, whose far end is printed. Commands on standard input: `on 2`
and `off 2`; `clean`, `noise` (garbage before each answer) and `echo` (what is sent is heard as well) on the wire.
"""

import asyncio
import os
import random
import sys
import threading
import tty

from pymodbus.framer import FramerType
from pymodbus.server import ModbusSerialServer, ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

silent = {2}
wire = "clean"


def device(number):
    registers = [100 * number + n for n in range(100)]
    bits = [n % 3 == 0 for n in range(64)]
    return SimDevice(
        number,
        simdata=(
            [SimData(0, values=bits, datatype=DataType.BITS)],
            [SimData(0, values=[not b for b in bits], datatype=DataType.BITS)],
            [SimData(0, values=registers, datatype=DataType.REGISTERS)],
            [SimData(0, values=[10000 + r for r in registers], datatype=DataType.REGISTERS)],
        ),
    )


def packets(place):
    """Leaves out the answers of silent units; the unit's number stands at `place` of a frame."""

    def packet(sending, data):
        return b"" if sending and data[place : place + 1] and data[place] in silent else data

    return packet


def pump(source, target, far):
    """Carries bytes from one pty to the other."""
    while True:
        data = os.read(source, 4096)
        if far and wire == "echo":
            os.write(source, data)
        if not far and wire == "noise":
            os.write(target, bytes(random.randrange(256) for _ in range(random.randrange(40))))
        os.write(target, data)


def ptys():
    """Two ports with a wire between them: the gateway's and the units'."""
    pairs = [os.openpty() for _ in range(2)]
    for _, end in pairs:
        tty.setraw(end)
    (a, _), (b, _) = pairs
    for ends in [(a, b, True), (b, a, False)]:
        threading.Thread(target=pump, args=ends, daemon=True).start()
    return [os.ttyname(end) for _, end in pairs]


def commands():
    global wire
    for line in sys.stdin:
        word, *rest = line.split()
        if word == "on":
            silent.discard(int(rest[0]))
        elif word == "off":
            silent.add(int(rest[0]))
        else:
            wire = word
        print("done", flush=True)
    os._exit(0)


async def main():
    devices = [device(number) for number in (1, 2, 3)]
    if sys.argv[1] == "tcp":
        server = ModbusTcpServer(devices, address=("127.0.0.1", int(sys.argv[2])), trace_packet=packets(6))
        name = "ready"
    else:
        name, own = ptys()
        server = ModbusSerialServer(
            devices, framer=FramerType.RTU, port=own, baudrate=19200, ignore_missing_devices=True, trace_packet=packets(0)
        )
    task = asyncio.create_task(server.serve_forever())
    await asyncio.sleep(0.5)
    threading.Thread(target=commands, daemon=True).start()
    print(name, flush=True)
    await task


asyncio.run(main())
