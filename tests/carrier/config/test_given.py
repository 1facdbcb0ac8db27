"""What is given for one object: names, policies and values as l7mp takes and spells them."""

from __future__ import annotations

from typing import Any

import pytest

from carrier.config.draft import position
from carrier.config.given import POLICIES, is_nothing, loadbalancer_of, name_of, object_of, spelled
from carrier.core.metadata import MISSING
from carrier.errors import Error
from carrier.model import LoadBalancer


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "a"),
        (MISSING, "undefined"),
        (None, "null"),
        (True, "true"),
        (1.5, "1.5"),
        ({"a": 1}, "[object Object]"),
        ([1, None, [2]], "1,,2"),
    ],
)
def test_a_value_is_spelled_as_javascript_puts_it_into_a_text(value: Any, text: str) -> None:
    assert spelled(value) == text


def test_nothing_is_what_javascript_takes_for_false_but_no_empty_list_or_object() -> None:
    assert [is_nothing(value) for value in (None, False, 0, "", [], {}, "x")] == [True, True, True, True, False, False, False]


@pytest.mark.parametrize("raw", ["", "two words", None, True, [], "a\n"])
def test_a_name_is_text_without_white_space(raw: Any) -> None:
    with pytest.raises(Error, match="Cannot add RuleList: Property name is invalid"):
        name_of("rulelist", raw)
    assert name_of("rulelist", 7) == "7"


def test_members_are_looked_at_in_their_order_and_the_first_that_is_wrong_is_said() -> None:
    for raw, said in (
        ([], "An object"),
        ({}, "Property name is required"),
        ({"name": "l"}, "Property spec is required"),
        ({"name": "l", "spec": 1, "rules": 1}, "Property spec is invalid"),
        ({"name": "l", "spec": {}, "rules": 1}, "Property rules is invalid"),
    ):
        with pytest.raises(Error, match=f"Cannot add listener: {said}"):
            object_of("listener", raw, "name")


def test_every_policy_is_taken_by_its_written_name_and_others_are_named_in_the_refusal() -> None:
    for written, meant in POLICIES.items():
        assert loadbalancer_of({"loadbalancer": {"policy": written, "key": "IP/src_addr"}}, "None") == LoadBalancer(meant, "IP/src_addr")
    assert loadbalancer_of({"loadbalancer": None}, "Trivial") == LoadBalancer("Trivial")
    with pytest.raises(Error, match='Policy "Best" unimplemented'):
        loadbalancer_of({"loadbalancer": {"policy": "Best"}}, "None")


def test_a_position_is_a_whole_number() -> None:
    assert [position(raw) for raw in (0, "12", "-1", "1.0", "x", "")] == [0, 12, -1, None, None, None]
