"""Errors: kinds, statuses, and what the operating system said."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from http import HTTPStatus

import pytest

from carrier.errors import MOST_PROBLEMS, STATUS, ConfigError, Enough, Error, Problem, Problems, did_you_mean, from_os, shown


def test_every_kind_has_a_status_that_http_knows() -> None:
    for kind, status in STATUS.items():
        assert HTTPStatus(status) >= 400
        assert Error(kind).status == status
    assert Error("no such kind").status == 500


def test_an_error_without_detail_says_its_kind() -> None:
    error = Error("refused")
    assert (str(error), error.detail, error.side, error.retry) == ("refused", "refused", "carrier", "no")
    assert repr(Error("dns", "x", "upstream", "yes")) == "Error('dns', 'x', side='upstream', retry='yes')"


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ECONNREFUSED, "refused"),
        (errno.ENOENT, "refused"),
        (errno.EHOSTUNREACH, "unreachable"),
        (errno.ETIMEDOUT, "timeout"),
        (errno.ECONNRESET, "reset"),
        (errno.EPIPE, "reset"),
        (errno.EADDRINUSE, "bind"),
        (errno.EMFILE, "overload"),
    ],
)
def test_what_the_system_said_becomes_a_kind_and_a_sentence(number: int, kind: str) -> None:
    error = from_os(OSError(number, os.strerror(number)), "upstream", "1.2.3.4:5", "yes")
    assert (error.kind, error.side, error.retry) == (kind, "upstream", "yes")
    assert error.detail == f"1.2.3.4:5: {os.strerror(number)}"


def test_what_the_system_never_said_before_is_unreachable_while_connecting_and_a_reset_after_that() -> None:
    odd = OSError(errno.EXDEV, "odd")
    assert from_os(odd, "upstream", retry="yes").kind == "unreachable"
    assert from_os(odd, "upstream").kind == "reset"
    assert from_os(TimeoutError(), "upstream").kind == "timeout"
    assert from_os(OSError(), "downstream").detail == "OSError"


def test_a_config_error_tells_all_its_problems() -> None:
    first = Problem("unknown field 'prot'", "clusters[a].spec.prot", allowed="protocol, port", hint="did you mean 'port'?")
    error = ConfigError(first, Problem("no"))
    assert error.problems == (first, Problem("no"))
    assert str(error) == "clusters[a].spec.prot: unknown field 'prot' (allowed: protocol, port); did you mean 'port'?; no"
    assert (error.status, ConfigError(first, kind="conflict").status) == (400, 409)


def test_a_value_in_a_message_is_json_and_cut_and_never_raises() -> None:
    assert shown({"a": [1, None]}) == '{"a":[1,null]}'
    assert shown("x" * 100) == '"' + "x" * 76 + "..."
    assert len(shown("x" * 300, 200)) == 200
    assert shown("\ud800") == "'\\ud800'"
    assert shown(object()) == "(object)"
    deep: object = []
    for _ in range(100_000):
        deep = [deep]
    assert shown(deep) == "(list)"


def test_a_near_miss_is_a_hint_whatever_its_case() -> None:
    assert did_you_mean("roundrobin", ("RoundRobin", "LeastConn")) == "did you mean 'RoundRobin'?"
    assert did_you_mean("zzz", ("RoundRobin",)) == ""


def test_bytes_are_shown_as_text_and_not_as_python_writes_them() -> None:
    assert shown(b'a"\xe9\x00') == '"a\\"é\\u0000"'
    assert shown(bytearray(b"x" * 200)) == '"' + "x" * 76 + "..."


# -- many problems


def test_what_is_wrong_is_told_a_hundred_times_and_not_looked_for_longer() -> None:
    found = Problems()
    looked = 0

    def all_wrong() -> Iterator[Problem]:
        nonlocal looked
        for looked in range(1, 100_000):
            yield Problem(f"wrong {looked}")

    with pytest.raises(Enough) as caught:
        found += all_wrong()
    assert looked == MOST_PROBLEMS + 1
    assert [str(problem) for problem in caught.value.problems[:2]] == ["wrong 1", "wrong 2"]
    assert len(caught.value.problems) == MOST_PROBLEMS + 1 and "the first 100 are listed" in str(caught.value.problems[-1])


def test_a_near_miss_is_not_looked_for_in_what_is_long_or_among_thousands() -> None:
    assert did_you_mean("x" * 1_000_000, ["x" * 999_999]) == ""
    assert did_you_mean("lisener", ["listener"] + [f"name-{i}" for i in range(100_000)]) == "did you mean 'listener'?"
    began = time.process_time()
    did_you_mean("nothing-like-it", (f"name-number-{i}" for i in range(100_000)))
    assert time.process_time() - began < 0.1
