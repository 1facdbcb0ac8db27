"""Configuration text: what it means, where its values are, and what is refused before it costs anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from carrier.config.source import MAX_FILE, decode, load, loads, render
from carrier.core import registry
from carrier.core.slices import whole
from carrier.errors import ConfigError, Problem

TRANSCRIPTS = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "transcripts"


def refusal(data: bytes | str, syntax: Any = None) -> Problem:
    with pytest.raises(ConfigError) as caught:
        decode(data, syntax, MAX_FILE)
    return caught.value.problems[0]


def broken(text: str, **more: Any) -> list[tuple[int, int, str, str]]:
    with pytest.raises(ConfigError) as caught:
        loads(text, **more)
    return [(p.line, p.column, p.path, p.message) for p in caught.value.problems]


BOMB = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10))


@pytest.mark.parametrize(
    ("data", "syntax", "words"),
    [
        (BOMB, "yaml", "too many objects"),
        ("a: &a [*a]", "yaml", "inside what it refers to"),
        ("a: *nope", "yaml", "alias"),
        ("[" * 100_000, "yaml", "nested more than 32"),
        ("[" * 100_000, "json", "nested more than 32"),
        ('{"a":' * 40 + "1" + "}" * 40, "json", "nested more than 32"),
        ("- x\n" * 250_000, "yaml", "too many"),
        ("[" + ",".join(["{}"] * 10_001) + "]", "json", "too many"),
        ("a: !!python/object/apply:os.system [x]", "yaml", "unknown tag"),
        ("a: !!int x", "yaml", "does not fit"),
        ("a: 1\n---\nb: 2", "yaml", "second document"),
        ("? [a]\n: b", "yaml", "key must be text"),
        ("a: {<<: 5}", "yaml", "'<<' takes"),
        ("a: [1", "yaml", "not YAML"),
        ("a: \x07", "yaml", "not YAML"),
        (b"a: \xff", "yaml", "not UTF-8"),
        ("", "json", "not JSON"),
        ('{"a": NaN}', "json", "NaN"),
        ('{"a": 1e999}', "json", "too large"),
        ("a: 1e999", "yaml", "too large"),
        ('{"a": ' + "9" * 5000 + "}", "json", "not JSON"),
        ('{"a": "\\ud800"}', "json", "surrogate"),
        ('{"\\ud800": 1}', "json", "surrogate"),
    ],
)
def test_what_is_no_text_or_too_much_is_refused(data: bytes | str, syntax: Any, words: str) -> None:
    assert words in refusal(data, syntax).message


def test_more_bytes_than_allowed_are_refused_unread() -> None:
    with pytest.raises(ConfigError) as caught:
        decode(b"x" * 101, "yaml", 100)
    assert caught.value.status == 413


def test_a_malformed_text_names_line_and_column() -> None:
    assert (refusal('{\n  "a": tru\n}', "json").line, refusal('{\n  "a": tru\n}', "json").column) == (2, 8)
    assert (refusal("a: 1\nb: }", "yaml").line, refusal("a: 1\nb: }", "yaml").column) == (2, 4)


@pytest.mark.parametrize("syntax", ["yaml", "json"])
def test_a_key_that_is_set_twice_is_told_with_both_lines(syntax: Any) -> None:
    decoded = decode('{"a": 1,\n "b": {"c": 1,\n  "c": 2}}', syntax, MAX_FILE)
    assert decoded.value == {"a": 1, "b": {"c": 2}}
    assert [(p.line, p.column, p.path, p.message) for p in decoded.problems] == [(3, 3, "$.b.c", "'c' is set twice (first on line 2)")]


FILE = """\
listeners:
  - name: web
    spec: {protocol: HTTP, port: 99999}
    rulez: []
    rules:
      - action: {route: {destination: clustr}}
clusters:
  - name: cluster
    spec:
      protocol: Ecko
"""


def test_every_problem_of_a_file_has_its_line_and_column_in_their_order() -> None:
    found = broken(FILE.replace("Ecko", "Echo"))
    assert [(line, column, path) for line, column, path, _ in found] == [
        (3, 34, "$.listeners[0].spec.port"),
        (4, 5, "$.listeners[0].rulez"),
        (6, 39, "$.listeners[0].rules[0].action.route.destination"),
    ]
    assert broken(FILE)[-1][:3] == (10, 17, "$.clusters[0].spec.protocol")


def test_a_json_file_has_lines_and_columns_too() -> None:
    found = broken('{"listeners": [\n  {"name": "a", "spec": {"protocol": "TCP",\n    "port": "80"}, "rules": []}]}')
    assert [x[:3] for x in found] == [(3, 13, "$.listeners[0].spec.port")]


def test_a_missing_member_is_shown_at_the_object_that_lacks_it() -> None:
    assert broken("clusters:\n  - name: a\n")[0][:3] == (2, 5, "$.clusters[0]")


def test_an_empty_configuration_is_refused() -> None:
    assert broken("# nothing\n")[0][3] == "the configuration is empty"


def test_a_problem_is_rendered_with_its_line_a_caret_and_a_hint() -> None:
    with pytest.raises(ConfigError) as caught:
        loads(FILE)
    text = render(caught.value.problems, FILE, "web.yaml")
    assert (
        "web.yaml:10:17: error: $.clusters[0].spec.protocol: unknown protocol 'Ecko'\n"
        "    10 |       protocol: Ecko\n"
        "       |                 ^\n"
    ) in text
    assert "       = did you mean 'Echo'?" in text


def test_a_line_of_a_megabyte_is_cut_around_the_caret() -> None:
    text = "clusters: [" + " " * 1_000_000 + "5]"
    with pytest.raises(ConfigError) as caught:
        loads(text)
    shown = render(caught.value.problems, text)
    assert len(shown) < 1000
    line, caret = [row for row in shown.splitlines() if " | " in row]
    assert line[caret.index("^")] == "5"


def test_warnings_have_their_place() -> None:
    text = "rulelists:\n  - name: rl\n    rules:\n      - {name: a, action: {}}\n      - {name: b, action: {}}\n"
    loaded = loads(text)
    assert [(w.line, w.path) for w in loaded.warnings] == [(5, "$.rulelists[0].rules[1].match")]


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load(tmp_path / "nope.yaml")
    with pytest.raises(ConfigError, match="directory"):
        load(tmp_path)


def test_the_name_of_a_file_tells_its_syntax(tmp_path: Path) -> None:
    (tmp_path / "a.JSON").write_text("clusters: []")
    with pytest.raises(ConfigError, match="not JSON"):
        load(tmp_path / "a.JSON")
    (tmp_path / "a.conf").write_text('{"clusters": []}')
    assert load(tmp_path / "a.conf").config.clusters == {}


def test_another_format_is_one_more_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(document: Any) -> dict[str, Any]:
        return {"clusters": [{"name": document["toy"], "spec": {"protocol": "Echo"}}]}

    monkeypatch.setattr(registry, "format_keys", lambda: ["toy"])
    monkeypatch.setattr(registry, "format_reader", lambda key: read)
    assert list(loads("toy: hello").config.clusters) == ["hello"]


README = """
listeners:
  - name: controller-listener
    spec: { protocol: HTTP, port: 1234 }
    rules:
      - action:
          route:
            destination:
              name: l7mp-controller
              spec: { protocol: L7mpController }
  - name: udp-listener
    spec: { protocol: UDP, port: 15000, connect: {port: 15001} }
    rules:
      - action:
          route:
            cluster: backend
            ingress:
              - spec: { protocol: Logger }
            retry: {retry_on: always, num_retries: 3, timeout: 2000}
clusters:
  - name: backend
    spec: { protocol: UDP, port: 16000 }
    endpoints:
      - spec: { address: "127.0.0.1" }
        weight: 3
      - spec: { address: "127.0.0.2" }
    loadbalancer: { policy: ConsistentHash, key: "IP/src_addr" }
"""


def test_files_in_the_words_of_l7mps_readme_load() -> None:
    config = loads(README).config
    assert list(config.listeners) == ["controller-listener", "udp-listener"]
    assert config.clusters["backend"].loadbalancer.policy == "HashRing"


@pytest.mark.skipif(not TRANSCRIPTS.exists(), reason="l7mp's recorded files are not part of this repository")
@pytest.mark.parametrize("name", ["01-minimal.yaml", "02-explicit-controller.yaml", "05-minimal.json"])
def test_the_files_that_l7mp_was_recorded_with_load(name: str) -> None:
    assert "l7mp-controller" in load(TRANSCRIPTS / "configs" / name).config.clusters


def test_of_a_large_document_only_the_places_are_kept_that_somebody_asks_for() -> None:
    decoded = decode('{"a": {"b": 1, "c": [1, 2]}, "d": 2}', "json", MAX_FILE)
    whole(decoded.locating([Problem("unknown field 'x'", "$.a.c[7].x"), Problem("wrong", "$.d")]))
    assert decoded._places is not None and set(decoded._places) == {"$", "$.a", "$.a.c", "$.d", "$.d\0"}
    assert [decoded.placed(Problem("wrong", path)).column for path in ("$.a.c[7].x", "$.d")] == [21, 35]
