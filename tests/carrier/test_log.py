"""The process's log as JSON; its text form is held by tests/carrier/cli/test_main.py."""

import json

from carrier.log import Log


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
