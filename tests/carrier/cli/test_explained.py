"""Many rules that do not match: the nearest are shown, of the others what they look at."""

from pathlib import Path

import pytest

from carrier.cli.main import main

HEAD = "listeners:\n  - name: web\n    spec: {protocol: HTTP, port: 8080}\n    rules:\n"
RULE = "      - {name: %s, match: {%s}, action: {route: {destination: {spec: {protocol: Echo}}}}}\n"
LAST = "      - {name: all, action: {route: {destination: {spec: {protocol: Echo}}}}}\n"


@pytest.fixture
def file(tmp_path: Path) -> str:
    users = [RULE % (f"dev{i}", f"matchHeader: {{name: x-user, value: dev{i}}}") for i in range(40)]
    paths = [RULE % (f"path{i}", f"matchPath: {{path: /p{i}}}") for i in range(5)]
    path = tmp_path / "c.yaml"
    path.write_text(HEAD + "".join(users + paths) + LAST)
    return str(path)


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["explain", *arguments]) == 0
    return capsys.readouterr().out


def test_the_nearest_misses_come_first_and_the_others_are_told_together(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "GET", "/", "-H", "x-user: dev7x", "-c", file)
    assert text.index("dev7: does not match") < text.index("all: takes it")
    assert text.index("    dev7: does not match") < text.index("    dev17: does not match")
    assert text.count(": does not match") == 3
    assert "37 more rules look at header x-user" in text and "5 more rules look at path" in text


def test_one_rule_can_be_asked_about(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "GET", "/", "-H", "x-user: dev7x", "-c", file, "--rule", "dev3")
    assert "dev3: does not match" in text and "dev7: " not in text and "all: takes it" in text


def test_a_few_rules_are_all_shown_in_their_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "few.yaml"
    path.write_text(HEAD + "".join(RULE % (name, f"matchHeader: {{name: x-user, value: {name}}}") for name in ("b", "a", "c")) + LAST)
    text = said(capsys, "GET", "/", "-c", str(path))
    assert text.index("    b: ") < text.index("    a: ") < text.index("    c: ") and "more rule" not in text


def test_the_port_of_a_url_is_honoured(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "takes it" in said(capsys, "http://shop.example:8080/", "-c", file)
    assert main(["explain", "http://shop.example:9999/", "-c", file]) == 2
    assert "no listener for requests has port 9999" in capsys.readouterr().err


def test_listeners_for_probes_are_not_meant(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "probes.yaml"
    path.write_text(
        "listeners:\n"
        "  - {name: web, spec: {protocol: HTTP, port: 8080}, rules: [{name: r, action: {route: {destination: app}}}]}\n"
        "  - {name: probe, spec: {protocol: HTTP, port: 8081}, rules: [{name: p, action: {route: {destination: ok}}}]}\n"
        "clusters:\n"
        "  - {name: app, spec: {protocol: HTTP, port: 80}, endpoints: [{spec: {address: 10.0.0.1}}]}\n"
        "  - {name: ok, spec: {protocol: Answer}}\n"
    )
    assert "to listener web" in said(capsys, "GET", "/", "-c", str(path))
    assert "to listener probe" in said(capsys, "GET", "/", "-c", str(path), "--listener", "probe")


def test_what_nobody_named_is_called_as_status_calls_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "unnamed.yaml"
    path.write_text(HEAD + "      - {action: {route: {destination: {spec: {protocol: Echo}}}}}\n")
    text = said(capsys, "/", "-c", str(path))
    assert "  → rule 1 of web (web-RuleList-0-Rule-0): takes it, as it takes everything" in text
    assert "why        rule 1 of web: anything" in text and "goes to    an unnamed cluster (Echo)" in text
    assert "rule 1 of web" in said(capsys, "/", "-c", str(path), "--rule", "web-RuleList-0-Rule-0"), "its own name is what --rule takes"


def test_a_call_of_grpc_is_told_by_its_service_and_method(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "POST", "/shop.v1.Cart/Add", "-H", "content-type: application/grpc+proto", "-c", file)
    assert "(a call of gRPC: service shop.v1.Cart, method Add)" in text
    assert "gRPC" not in said(capsys, "POST", "/shop.v1.Cart/Add", "-H", "content-type: application/grpc-web", "-c", file)


@pytest.mark.parametrize(
    ("asked", "told"),
    [(("--rule", "nosuch"), "there is no rule 'nosuch' among those"), (("--user", "nobody"), "user 'nobody' has no rule among those")],
)
def test_a_rule_or_a_user_that_is_not_there_is_said(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, asked: tuple[str, str], told: str
) -> None:
    path = tmp_path / "carrier.yaml"
    path.write_text(
        "listeners: [{name: web, spec: {protocol: HTTP, port: 1}, rules: [{action: {route: {destination: {spec: {protocol: Echo}}}}}]}]"
    )
    assert main(["explain", "/", "-c", str(path), *asked]) == 1
    assert told in capsys.readouterr().err
