"""The metadata tree: read and rewritten by path."""

from __future__ import annotations

import pytest

from carrier.core.metadata import get_at, readable, received, set_at


def test_get_at_takes_paths_with_and_without_outer_slashes() -> None:
    tree = {"a": {"b": [10, {"c": None}]}}
    for written in ("a/b/1/c", "/a/b/1/c", "/a/b/1/c/"):
        assert get_at(tree, written, "default") is None
    assert get_at(tree, "/") is tree
    assert get_at(tree, "/a/x/y", "default") == "default"
    assert get_at(tree, "/a/b/0") == 10


def test_set_at_makes_objects_on_the_way_and_leaves_the_given_tree_alone() -> None:
    tree = {"HTTP": {"headers": {"a": "1"}}, "IP": {"src_addr": "x"}}
    new = set_at(tree, "HTTP/headers/b/", "2")
    assert new == {"HTTP": {"headers": {"a": "1", "b": "2"}}, "IP": {"src_addr": "x"}}
    assert tree == {"HTTP": {"headers": {"a": "1"}}, "IP": {"src_addr": "x"}}
    assert new["IP"] is tree["IP"]
    assert set_at({}, "/a/0/b", 1) == {"a": {"0": {"b": 1}}}
    assert set_at({"a": [1, 2]}, "/a/1", 3) == {"a": [1, 3]}
    assert set_at({"a": "text"}, "/a/b", 1) == {"a": {"b": 1}}
    assert set_at(tree, "/", {"x": 1}) == {"x": 1}


@pytest.mark.parametrize(("text", "bytes_"), [("john", "john"), ("\u00fc", "\u00c3\u00bc"), ("\u2603", "\u00e2\u0098\u0083")])
def test_a_text_looks_like_its_bytes_and_is_read_again(text, bytes_):
    assert received(text) == bytes_
    assert readable(bytes_) == text


@pytest.mark.parametrize("text", ["\u00fc", "\u00c3", "\u2603", "\ud800"])
def test_what_is_no_utf8_is_read_as_it_is(text):
    assert readable(text) == text
