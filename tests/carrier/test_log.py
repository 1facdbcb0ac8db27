"""The process's log as JSON; its text form is held by tests/carrier/cli/test_main.py."""

import json

from carrier.log import KEPT, Log


def test_json_is_an_object_a_line_with_numbers_as_numbers() -> None:
    lines: list[str] = []
    log = Log("info", lines.append, lambda: 1_800_000_000.25, form="json")
    log.warn("endpoint is down", cluster="c", sessions=3, reason='a "b"\n', gone=None, raw=b"\xff")
    log.debug("unseen")
    (line,) = lines
    assert line.endswith("}\n") and line.count("\n") == 1
    said = {"cluster": "c", "sessions": 3, "reason": 'a "b"\\x0a', "raw": "\\xff"}
    assert json.loads(line) == {"time": "2027-01-15T08:00:00.250Z", "level": "warn", "event": "endpoint is down", **said}


def test_no_value_takes_the_place_of_what_happened() -> None:
    lines: list[str] = []
    Log("info", lines.append, form="json").info("listening", level="forged", time="never")
    assert json.loads(lines[0])["level"] == "info" and json.loads(lines[0])["time"] != "never"


def test_the_last_lines_are_kept_up_to_a_bound_also_those_that_nobody_writes() -> None:
    log = Log("silent")
    log.warn("endpoint is down", cluster="c")
    log.debug("unseen")
    assert len(log.kept) == 1 and "endpoint is down" in log.kept[0]
    for number in range(3000):
        log.error("again", number=number, text="x" * 100)
    assert sum(map(len, log.kept)) == log.size <= KEPT and "number=2999" in log.kept[-1] and "down" not in log.kept[0]
    log.error("y" * 2 * KEPT)
    assert len(log.kept) == 1
