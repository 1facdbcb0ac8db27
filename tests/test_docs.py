"""What README and docs tell people to type works."""

import json
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from carrier.admin.gate import Limits
from carrier.cli import manual
from carrier.cli.demo_stage import free_ports
from carrier.cli.main import main
from carrier.cli.parser import parser
from carrier.config.source import load
from carrier.core.breaker import BREAKER
from carrier.model import Config
from carrier.proxy.overload import LASTING, Bounds

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
EXAMPLES = sorted((ROOT / "docs" / "examples").iterdir())


def blocks(language, text):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.name)
def test_an_example_is_fine(file, capsys):
    assert load(file).warnings == ()
    if "/tls/" not in file.read_text():  # these files are the reader's own
        assert main(["check", str(file)]) == 0
        assert "0 warnings" in capsys.readouterr().out


def test_the_readme_shows_the_example_that_it_names():
    assert blocks("yaml", README)[0] in (ROOT / "docs" / "examples" / "quickstart.yaml").read_text()


def test_the_readmes_curl_lines_do_what_it_says(tmp_path):
    web, admin, laptop = free_ports(3)

    def here(text):
        return text.replace("8080", str(web)).replace("1234", str(admin)).replace("8000", str(laptop))

    file = tmp_path / "quickstart.yaml"
    file.write_text(here(blocks("yaml", README)[0]))
    lines = [here(line) for line in blocks("sh", README)[0].splitlines()]
    assert len(lines) == 3
    command = [sys.executable, "-m", "carrier", "run", "-c", str(file), "--admin", f"127.0.0.1:{admin}"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert any("ready" in line for line in process.stderr)
        shadow, bridge, fallback = (subprocess.run(line, shell=True, capture_output=True, text=True, timeout=10).stdout for line in lines)
    finally:
        process.terminate()
        process.communicate(timeout=15)
    assert shadow.startswith("HTTP/1.1 200") and shadow.endswith("hello") and "x-carrier-fallback" not in shadow
    assert json.loads(bridge)["status"]["state"] == "in force"
    assert "x-carrier-fallback: refused" in fallback and fallback.endswith("hello")


def test_the_bridge_of_the_docs_is_one():
    from carrier.bridges.edits import Bridges

    text = (ROOT / "docs" / "bridges.md").read_text()
    body = json.loads(re.search(r"-d '(\{.*?\n  \})'", text, re.S)[1])
    config: Config = load(ROOT / "docs" / "examples" / "pod.yaml").config
    bridge = Bridges().put(config, "john", body).bridges["john"]
    assert bridge.expires == pytest.approx(time.time() + 3600, abs=60)


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
OTHERS = {
    "--unix-socket",
    "--cacert",
    "--short",
    "--only",
    "--peers",
    "--json",
    "--through",
    "--users",
    "--seconds",
    "--rate",
    "--shadow",
    "--in-flight",
}
"""Options of curl and of the benchmarks."""


def options_of_the_command():
    parsers = [parser(), *manual.commands(parser()).values()]
    return {name for one in parsers for action in one._actions for name in action.option_strings}


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "benchmarks.md"], ids=lambda page: page.name)
def test_every_option_that_the_docs_name_is_one(page):
    spans = re.findall(r"`([^`\n]+)`", page.read_text()) + blocks("console", page.read_text()) + blocks("sh", page.read_text())
    named = {name for span in spans for name in re.findall(r"(?<![\w-])--[a-z][a-z-]*", span)}
    assert named <= options_of_the_command() | OTHERS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_carrier_command_of_the_docs_can_be_typed(page):
    lines = [line.removeprefix("$ ") for block in blocks("console", page.read_text()) for line in block.splitlines() if line[:2] == "$ "]
    lines += [line for block in blocks("sh", page.read_text()) for line in block.splitlines()]
    typed = [found[1] for line in lines if (found := re.match(r"(?:\.venv/bin/)?carrier (.*)", line))]
    for line in typed:
        options = parser().parse_args(shlex.split(re.split(r"\s(?:&&?|\||>)(?:\s|$)", line)[0], comments=True))
        assert options.command, line


def test_the_limits_are_what_operations_says_they_are():
    text = " ".join((ROOT / "docs" / "operations.md").read_text().split())
    limits, scale = Limits(), {"KiB": 1 << 10, "MiB": 1 << 20}
    told = re.findall(r"`api\.(\w+)` ([\d,]+)(?: (KiB|MiB))?", text)
    assert {name for name, _, _ in told} == set(Limits.__struct_fields__)
    for name, number, unit in told:
        assert getattr(limits, name) == int(number.replace(",", "")) * scale.get(unit, 1), name
    for name, default in BREAKER.items():
        assert re.search(rf"`options\.{name}` of a cluster[^|]*\| {default:g} \|", text), name
    assert f"`--limit lag=SECONDS` the event loop is late, three looks in a row | {Bounds().lag:g} |" in text and LASTING == 3
    run = parser().parse_args(["run", "-c", "x"])
    assert f"`--drain-delay` seconds ({run.drain_delay:g})" in text and f"`--drain` seconds ({run.drain:g})" in text


def test_the_readme_leads_to_every_page():
    assert {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")} <= set(re.findall(r"\]\(([^)]+)\)", README))


def test_every_test_that_the_security_page_names_is_one():
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "security.md").read_text()))
    there = {
        name for file in (ROOT / "tests").rglob("test_*.py") for name in re.findall(r"^(?:async )?def (test_\w+)", file.read_text(), re.M)
    }
    assert len(named) > 10 and named <= there


def test_links_lead_somewhere():
    for file in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", file.read_text()):
            assert (file.parent / target).exists(), f"{file.name}: {target}"


def modules_named_by_the_architecture():
    """Paths of the files that docs/architecture.md has a line on: with their room, or under the room's heading."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    core, protocols = text.split("## The core: `carrier/`")[1].split("## Protocols")
    found = set()
    for table in core.split("\n\n"):
        heading = table.partition("\n")[0]
        room = re.match(r"\| `(\w+)/`(?!, `)", heading)
        found |= {f"carrier/{room[1]}/{name}" if room else f"carrier/{name}" for name in re.findall(r"`([\w/]+\.py)`", table)}
    for row in (line.split("|") for line in protocols.splitlines() if line.startswith("|")):
        found |= {f"listeners/{name}" for name in re.findall(r"`([\w/]+\.py)`", row[1])}
        found |= {f"clusters/{name}" for name in re.findall(r"`([\w/]+\.py)`", row[3])}
    transforms = protocols.split("`transforms/`:")[1].split("To add one")[0]
    return found | {f"transforms/{name}" for name in re.findall(r"`(\w+\.py)`", transforms)}


def test_the_architecture_names_every_module_and_no_other():
    packages = ("carrier", "listeners", "clusters", "transforms")
    there = {str(file.relative_to(ROOT)) for package in packages for file in (ROOT / package).rglob("*.py")}
    assert modules_named_by_the_architecture() == {file for file in there if not file.endswith(("__init__.py", "carrier/__main__.py"))}


async def test_the_protocol_of_the_architecture_is_one(monkeypatch):
    from carrier.core import registry
    from tests.support import ask, config, listener, port_of, running

    text = (ROOT / "docs" / "architecture.md").read_text()
    (example,) = re.findall(r"```python\n(from carrier.*?)```", text, re.S)
    made: dict = {}
    exec(example, made)
    known = registry.cluster
    monkeypatch.setattr(registry, "cluster", lambda protocol: made["ShoutCluster"] if protocol == "Shout" else known(protocol))
    conf = config(clusters=[{"name": "loud", "spec": {"protocol": "Shout"}}], listeners=[listener("in", "loud")])
    async with running(conf) as proxy:
        assert await ask(port_of(proxy, "in"), b"hello") == b"HELLO"
