"""Two looks at the counters, and what happened between them."""

from __future__ import annotations

from typing import Any

import pytest

from carrier.cli.rates import SORTS, Between, Look, Row, quantile, samples

INF = float("inf")
STATUS: dict[str, Any] = {
    "listeners": [
        {
            "name": "web",
            "rules": [
                {"rule": "bridge/john", "label": "bridge/john", "user": "john"},
                {"rule": "web-RuleList-0-Rule-0", "label": "rule 2 of web", "user": ""},
            ],
        },
    ],
    "clusters": [
        {"name": "shadow", "label": "shadow", "protocol": "HTTP", "endpoints": [{"name": "e", "address": "10.0.0.1:80"}]},
        {"name": "bridge/john", "label": "bridge/john", "protocol": "HTTP", "endpoints": [{"name": "j", "address": "10.0.0.9:80"}]},
    ],
}
TEXT = """# HELP carrier_sessions Sessions
# TYPE carrier_sessions_total counter
carrier_sessions_total{listener="web",rule="bridge/john",cluster="bridge/john",code="2xx"} %d
carrier_sessions_total{listener="web",rule="bridge/john",cluster="bridge/john",code="5xx"} %d
carrier_sessions_total{listener="web",rule="web-RuleList-0-Rule-0",cluster="shadow",code="2xx"} %d
carrier_session_seconds_bucket{listener="web",cluster="bridge/john",le="0.1"} %d
carrier_session_seconds_bucket{listener="web",cluster="bridge/john",le="0.2"} %d
carrier_session_seconds_bucket{listener="web",cluster="bridge/john",le="+Inf"} %d
carrier_endpoint_sessions_total{cluster="bridge/john",endpoint="j"} %d
carrier_endpoint_failures_total{cluster="bridge/john",endpoint="j"} %d
"""


def between(before: tuple[int, ...], after: tuple[int, ...]) -> Between:
    return Between(Look(100.0, samples(TEXT % before), STATUS), Look(102.0, samples(TEXT % after), STATUS))


def test_what_was_counted_between_two_looks_is_told_per_second():
    found = between((10, 0, 5, 4, 8, 10, 10, 0), (28, 2, 9, 4, 28, 30, 30, 2))
    john, other = found.rules()
    assert (john.name, john.about, john.requests, john.errors) == ("bridge/john", "john", 10.0, 1.0) and john.share == 0.1
    assert john.p99 == 0.199 and (other.name, other.requests, other.p99) == ("rule 2 of web", 2.0, None)
    assert [(row.name, row.requests) for row in found.users_()] == [("john", 10.0)]
    assert [(row.name, row.requests, row.errors) for row in found.listeners()] == [("web", 12.0, 1.0)] and found.all().requests == 12.0
    shadow, laptop = found.endpoints()
    assert (laptop.name, laptop.about, laptop.requests, laptop.errors) == ("10.0.0.9:80", "bridge/john", 10.0, 1.0)
    assert shadow.requests == 0.0


def test_a_carrier_that_was_started_again_has_no_negative_rates():
    assert between((100, 50, 100, 9, 9, 9, 9, 9), (1, 0, 1, 0, 1, 1, 1, 0)).all().requests >= 0


def test_labels_of_any_characters_are_read():
    found = samples('carrier_x_total{rule="a \\"b\\" \\\\ c\\nd,e=\\"f\\"",le="+Inf"} 1.5\nplain 2\n')
    assert found == {"carrier_x_total": [({"rule": 'a "b" \\ c\nd,e="f"', "le": "+Inf"}, 1.5)], "plain": [({}, 2.0)]}


@pytest.mark.parametrize(
    ("buckets", "value"),
    [
        ([], None),
        ([(0.1, 0.0), (float("inf"), 0.0)], None),
        ([(0.1, 0.0), (0.2, 100.0)], 0.199),
        ([(0.1, 1.0), (INF, 100.0)], 0.1),
    ],
)
def test_a_quantile_is_guessed_as_prometheus_guesses_it(buckets: list[tuple[float, float]], value: float | None):
    found = quantile(0.99, buckets)
    assert found == value or (found is not None and value is not None and abs(found - value) < 1e-9)


def test_rows_are_sorted_most_first():
    rows = [Row("a", "", 1, 0, None), Row("b", "", 5, 1, 0.1), Row("c", "", 3, 2, 0.5)]
    assert {by: "".join(row.name for row in sorted(rows, key=key)) for by, key in SORTS.items()} == {  # type: ignore[arg-type]
        "requests": "bca",
        "errors": "cba",
        "p99": "cba",
        "name": "abc",
    }
