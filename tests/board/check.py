"""What must hold of the events that reached the upstream."""

import re

from machine import seconds

# Seconds that a clock may be wrong: the board's real-time clock has whole seconds.
CLOCK = 3


def firsts(events):
    """The events by id, in the order in which each came first, and what is wrong with those that came again."""
    found, wrong = {}, []
    for event in events:
        same = found.setdefault(event["id"], event)
        if same != event:
            wrong.append(f"`{event['id']}` came again with another content: {same['body']}, then {event['body']}")
    return found, wrong


def shown_faults(upstream, shown):
    """What the gateway showed was on its disk, so it has to reach the upstream, in the same order for each source."""
    faults, place = [], {name: n for n, name in enumerate(upstream)}
    last = {}
    for name, event in shown.items():
        topic = event["topic"]
        if name not in upstream:
            faults.append(f"lost: {topic} `{name}` was on the disk: {event['body']}")
        elif upstream[name] != event:
            faults.append(f"changed: {topic} `{name}`: {event['body']} became {upstream[name]['body']}")
        elif place[name] < last.get(topic, -1):
            faults.append(f"order: {topic} `{name}` came too early: {event['body']}")
        else:
            last[topic] = place[name]
    return faults


def counter_faults(bodies, acknowledged):
    """Acknowledged messages are there, each under one id, and the numbers rise."""
    numbers = [body["n"] for body in bodies]
    faults = [f"lost: message {n} was acknowledged" for n in sorted(acknowledged - set(numbers))]
    pairs = zip(numbers, numbers[1:])
    return faults + [f"order: message {b} came behind {a}" for a, b in pairs if b <= a]


def meter_faults(bodies):
    """Lines are whole and rise; within one boot none is missing, since the port has flow control."""
    faults, last = [], (-1, 0)
    for body in bodies:
        line = re.fullmatch(r"boot (\d{3}) line (\d{6}) \.{20}", body["line"])
        if not line:
            faults.append(f"torn: the line {body['line']!r}")
            continue
        now = (int(line[1]), int(line[2]))
        if now <= last or (now[0] == last[0] and now[1] != last[1] + 1):
            faults.append(f"order: line {now} came behind {last}")
        last = now
    return faults


def contact_faults(bodies):
    """Of each line in each boot the level, then every edge, rising and falling in turn."""
    faults, counts = [], {}
    for body in bodies:
        line = body["line"]
        number = counts[line] = counts.get(line, -1) + 1
        want = {"line": line, "value": number % 2 == 1}
        if number > 0:
            want |= {"edge": "rising" if number % 2 else "falling", "seq": number}
        if body != want:
            faults.append(f"lost: expected {want}, found {body}")
            counts[line] = body.get("seq", 0)
    return faults


def time_faults(events, begun, ended):
    faults = []
    for event in events:
        for name in ["time", "intake"]:
            if not begun - CLOCK < seconds(event[name]) < ended + CLOCK:
                faults.append(f"clock: `{name}` of {event['topic']} `{event['id']}` is {event[name]}")
    return faults


def check(upstream, shown, acknowledged):
    """All that is wrong, a line each; nothing if all is well."""
    upstream, again = firsts(upstream)
    shown, shown_again = firsts(shown)
    bodies = lambda topic: [event["body"] for event in upstream.values() if event["topic"] == topic]
    return [
        *again,
        *shown_again,
        *shown_faults(upstream, shown),
        *counter_faults(bodies("counter"), acknowledged),
        *meter_faults(bodies("meter")),
        *contact_faults(bodies("contacts")),
    ]


def unseen(upstream, shown, acknowledged):
    """Whether `check` sees damage: what was done to the events of a good run without its noticing."""
    first = {topic: next(n for n, e in enumerate(upstream) if e["topic"] == topic) for topic in ["counter", "meter", "contacts"]}
    missed = []
    for topic, at in first.items():
        second = next(n for n in range(at + 1, len(upstream)) if upstream[n]["topic"] == topic)
        third = next(n for n in range(second + 1, len(upstream)) if upstream[n]["topic"] == topic)
        gone = [e for e in upstream if e["id"] != upstream[second]["id"]]
        swapped = list(upstream)
        swapped[second], swapped[third] = upstream[third], upstream[second]
        renamed = [*upstream, {**upstream[second], "id": "another"}]
        changed = [*upstream, {**upstream[second], "body": {}}]
        for what, events in [("lost", gone), ("swapped", swapped), ("repeated", renamed), ("changed", changed)]:
            if not check(events, shown, acknowledged):
                missed.append(f"one event of {topic} {what}")
    return missed
