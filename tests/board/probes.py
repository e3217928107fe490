"""What a person would try first: `tidegate board` and `tidegate gpio`, against lines that are real for the kernel."""

import re
import time

from machine import Broken, seconds, waiting

# Lines of the chip: the gateway's polled input and its output, one for the commands, and the kernel's own.
TANK, LAMP, SPARE, POWER_KEY = 2, 6, 5, 3


def expect(what, found, *patterns):
    for pattern in patterns:
        if not re.search(pattern, found, re.MULTILINE):
            raise Broken(f"{what}: expected /{pattern}/ in:\n{found}")


def commands(board, chip):
    """`board`, and `gpio list`, `watch` and `set`."""
    code, text = board.run("tidegate board")
    expect(f"tidegate board ({code})", text, r"^unknown board: ", r"^model: linux,dummy-virt$", r"^  /dev/gpiochip0 +ready$")

    code, text = board.run("tidegate gpio list")
    expect(f"tidegate gpio list ({code})", text, rf"^gpiochip0 \({chip}\), 8 lines$",
           rf"^  gpiochip0:{POWER_KEY} +input .*used by GPIO Key Poweroff$", r"^  gpiochip0:0 +input$")  # fmt: skip

    code, text = board.run(f"tidegate gpio set {chip}:{POWER_KEY} 1 --for 1ms 2>&1")
    expect(f"a line that is taken ({code})", text, "`GPIO Key Poweroff` has it")
    code, text = board.run(f"tidegate gpio watch {chip}:8 2>&1")
    expect(f"a line too many ({code})", text, "8")

    watch(board, chip)
    hold(board, chip)


def watch(board, chip):
    """Edges with times and numbers, with and without debounce."""
    for options, pauses, want in [
        ("", True, ["is 0", "rising +1", "falling +2", "rising +3", "falling +4"]),
        ("--active-low", True, ["is 1", "falling +1", "rising +2", "falling +3", "rising +4"]),
        # Edges that follow each other faster than that are bounces.
        ("--debounce 300ms", False, ["is 0", "rising +1", "falling +2"]),
    ]:
        board.run(f"tidegate gpio watch {options} {chip}:{SPARE} >/tmp/watch 2>&1 </dev/null & echo $! >/tmp/watcher")
        seen = lambda: board.run("cat /tmp/watch")[1].splitlines()
        waiting(f"gpio watch {options}", 20, lambda: len(seen()) == 1)
        if pauses:
            for level in [1, 0, 1, 0]:
                lines = len(seen())
                board.drive(SPARE, level)
                waiting(f"gpio watch {options}: an edge", 20, lambda: len(seen()) > lines)
        else:
            for level in [1, 0, 1, 0, 1]:
                board.drive(SPARE, level)
            waiting(f"gpio watch {options}: an edge", 20, lambda: len(seen()) > 1)
            board.drive(SPARE, 0)
            waiting(f"gpio watch {options}: an edge", 20, lambda: len(seen()) > 2)
        board.run("kill -INT $(cat /tmp/watcher); wait")
        found = seen()
        expect(f"gpio watch {options}", "\n".join(found), r"\A" + r"\n".join(rf"\S+Z +{chip}:{SPARE} +{line} *" for line in want) + r"\Z")
        for line in found:
            if abs(time.time() - seconds(line.split()[0])) > 60:
                raise Broken(f"gpio watch {options}: a wrong time: {line}")


def hold(board, chip):
    """An output has its level at once, another program cannot have it, and it goes back in the end."""
    board.run(f"tidegate gpio set {chip}:{SPARE} 1 --for 3s >/tmp/set 2>&1 </dev/null &")
    waiting("gpio set: the line is high", 20, lambda: board.output(SPARE) is True)
    code, text = board.run("tidegate gpio list")
    expect(f"tidegate gpio list ({code})", text, rf"^  gpiochip0:{SPARE} +output .*used by tidegate$")
    code, text = board.run(f"tidegate gpio watch {chip}:{SPARE} 2>&1")
    expect(f"a line that the gateway has ({code})", text, "`tidegate` has it")
    waiting("gpio set: the line is low again", 20, lambda: board.output(SPARE) is False)
    board.run("wait")


def lamp(rig):
    """A level that is polled switches a line through the store; at the stop the line is in its safe state."""
    board = rig.machine
    rig.sensors()
    for level in [0, 1, 0]:
        board.drive(TANK, level)
        waiting(f"the lamp while the tank is {level}", 20, lambda: board.output(LAMP) is (level == 0))
    rig.end_sensors()
    faults = rig.faults_at_rest()
    if faults:
        raise Broken("; ".join(faults[:5]))
    code, _ = board.run("kill -TERM $!; wait $!")
    if code != 0 or board.output(LAMP) is not False:
        raise Broken(f"at the stop: exit code {code}, the lamp is {board.output(LAMP)}")
