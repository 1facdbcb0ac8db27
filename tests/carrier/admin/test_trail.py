"""What was changed, when and by whom, in bounds."""

from __future__ import annotations

from types import SimpleNamespace

import msgspec

from carrier.admin import trail as module
from carrier.admin.trail import Trail
from carrier.model import Config
from tests.support import config, listener


def trail(first: Config | None = None) -> Trail:
    return Trail(SimpleNamespace(config=first or Config(revision=1)))  # type: ignore[arg-type]


def go_on(found: Trail, revision: int) -> None:
    found.proxy.config = msgspec.structs.replace(found.proxy.config, revision=revision)


def test_a_change_is_an_entry_and_keeps_its_revision():
    found = trail()
    found.logged("notice", "started", {"file": None})
    go_on(found, 2)
    found.logged("notice", "change", {"revision": 2, "peer": "ci", "call": "PUT /bridges/john", "result": "200", "names": "+rules/x"})
    latest, first = found.audit()
    assert (latest["call"], latest["peer"], latest["revision"], latest["refused"]) == ("PUT /bridges/john", "ci", 2, False)
    assert first["what"] == "started" and "file" not in first
    assert found.revisions() == [2, 1]


def test_what_was_refused_is_told_with_its_reason():
    found = trail()
    found.logged("warn", "change refused", {"call": "PUT /bridges/john", "result": "409", "reason": "x" * 5000})
    (entry,) = found.audit()
    assert entry["refused"] and len(entry["reason"]) == module.LONGEST and found.revisions() == [1]


def test_lines_that_are_no_change_are_left_out():
    found = trail()
    found.logged("notice", "endpoint up", {"endpoint": "x"})
    assert found.audit() == []


def test_entries_and_revisions_are_bounded(monkeypatch):
    found = trail()
    for revision in range(1, 400):
        go_on(found, revision)
        found.logged("notice", "change", {})
    assert len(found.entries) == module.ENTRIES and found.revisions() == list(range(399, 399 - module.REVISIONS, -1))


def test_large_revisions_are_fewer_and_the_present_one_stays(monkeypatch):
    monkeypatch.setattr(module, "OBJECTS", 7)
    found = trail(config(listeners=[listener("in", {"name": "echo", "spec": {"protocol": "Echo"}})]))
    for revision in range(1, 5):
        go_on(found, revision)
        found.logged("notice", "change", {})
    assert found.revisions() == [4]  # each has five objects
