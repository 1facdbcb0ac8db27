"""The page's files: who gets them, with which fields, and nothing beside them."""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from carrier.admin import page
from carrier.admin.calls import Answer
from carrier.admin.gate import Caller, Gate
from carrier.errors import Error

HTML = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
LOCAL = Caller("loopback", "127.0.0.1:5", "127.0.0.1", "127.0.0.1")
REMOTE = Caller("remote", "192.0.2.7:5", "192.0.2.7", "192.0.2.1")


def got(path: str, **headers: str) -> Answer:
    return Answer(*page.answer(path, {name.replace("_", "-"): value for name, value in headers.items()}))


def test_a_browser_gets_the_page_and_a_program_the_list_of_calls():
    assert page.wants("GET", "/", HTML) and page.wants("HEAD", "/", HTML)
    assert not page.wants("GET", "/", {"accept": "*/*"}) and not page.wants("GET", "/", {})
    assert not page.wants("POST", "/", HTML)


@pytest.mark.parametrize(
    "path",
    [
        "/web/../page.py",
        "/web/..%2fpage.py",
        "/web/%2e%2e/page.py",
        "/web//app.js",
        "/web/",
        "/web",
        "/web/nothing.js",
        "/app.js",
        "/web/app.js",
        "/web/index.html",
    ],
)
def test_nothing_but_the_files_is_served(path):
    assert not page.wants("GET", path, HTML)


def test_every_file_has_its_type_and_the_fields_that_lock_it_up():
    for path in page.PATHS:
        answer, file = got(path), page.file(path)
        assert answer.status == 200 and answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-type"] == file.type == page.TYPES["html" if path == "/" else path.rpartition(".")[2]]
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert "content-encoding" not in answer.headers


def test_who_has_a_file_is_told_so_and_not_sent_it_again():
    first = got("/web/page.js", accept_encoding="gzip, br")
    assert gzip.decompress(first.body) == got("/web/page.js").body
    again = got("/web/page.js", accept_encoding="gzip", if_none_match=f'"other", W/{first.headers["etag"]}')
    assert (again.status, again.body) == (304, b"") and again.headers["etag"] == first.headers["etag"]
    plain = got("/web/page.js", accept_encoding="gzip;q=0", if_none_match=first.headers["etag"])
    assert plain.status == 200 and plain.headers["etag"] != first.headers["etag"]  # other bytes have another tag


def test_the_first_view_is_small():
    assert sum(len(page.file(path).packed) for path in page.PATHS) < 150_000


def test_the_page_names_all_of_its_files_and_only_beside_itself():
    """So it works below any path."""
    index = page.file("/").body.decode()
    named = re.findall(r'(?:href|src)="([^"#]+)"', index)
    assert sorted(named) == sorted(path[1:] for path in page.PATHS if path != "/")
    for each in page.FOLDER.iterdir():
        text = each.read_text()
        assert not re.search(r"\b(?:innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval)\b\s*[=(]", text), each
        assert text.count("\n") < 500, each
    assert not re.search(r"<style|style=|<script(?! type=\"module\" src)| on\w+=", index)


def test_every_file_of_the_folder_is_sent():
    sent = [each for names in page.PATHS.values() for name in names for each in page.FOLDER.glob(name)]
    assert sorted(sent) == sorted(page.FOLDER.iterdir())


def test_modules_are_written_so_that_they_can_be_joined():
    """What the joining does not understand would be left in the text."""
    joined = page.file(page.SCRIPTS).body.decode()
    assert not re.search(r"^\s*(?:import|export)\b|\bimport\(|\bimport\.meta\b", joined, re.MULTILINE)
    for module in page.FOLDER.glob("*.js"):
        text = module.read_text()
        assert text.count("\nexport ") + text.startswith("export ") == len(page.EXPORT.findall(text)), module
        named = {
            name.split(" as ")[0].strip()
            for found in page.IMPORT.finditer(text)
            if found["names"]
            for name in found["names"].strip("{} ").split(",")
        }
        exported = {
            name
            for found in page.IMPORT.finditer(text)
            for _, name in page.EXPORT.findall((page.FOLDER / f"{found['module']}.js").read_text())
        }
        assert named <= exported, module


def test_a_module_comes_after_those_that_it_imports():
    joined = page.file(page.SCRIPTS).body.decode()
    for module in page.FOLDER.glob("*.js"):
        own = joined.index(f"const ${module.stem} = (")
        assert all(joined.index(f"const ${found['module']} = (") < own for found in page.IMPORT.finditer(module.read_text())), module


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not here")
def test_the_joined_modules_are_a_module(tmp_path):
    file = tmp_path / "page.mjs"
    file.write_bytes(page.file(page.SCRIPTS).body)
    done = subprocess.run(["node", "--check", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_files_are_part_of_the_package():

    said = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert "web/*" in said["carrier.admin"]


# -- the gate


def kind(gate: Gate, caller: Caller = LOCAL, path: str = "/", **headers: str) -> str:
    fields = HTML | {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        gate.admit(caller, "GET", path, fields)
    except Error as error:
        return error.kind
    return ""


@pytest.fixture
def locked(tmp_path):
    from carrier.admin.gate import Tokens

    file = tmp_path / "tokens"
    file.write_text("ci correct-horse-battery\n")
    file.chmod(0o600)
    gate = Gate(tokens=Tokens(str(file)))
    gate.page = True
    return gate


def test_the_page_needs_no_token_and_the_api_behind_it_does(locked):
    assert kind(locked) == "" and kind(locked, path="/web/page.js") == ""
    assert kind(locked, REMOTE, host="192.0.2.1") == ""
    assert kind(locked, path="/api/v1/status") == "unauthorized"


def test_without_the_page_its_paths_are_as_any_other(locked):
    locked.page = False
    assert kind(locked) == "unauthorized" and kind(locked, path="/web/page.js") == "unauthorized"


def test_other_machines_get_the_page_only_where_they_could_log_in():
    gate = Gate()
    gate.page = True
    assert kind(gate) == "" and kind(gate, REMOTE) == "forbidden"


def test_a_foreign_name_or_page_gets_no_page(locked):
    assert kind(locked, host="evil.example") == "forbidden"  # DNS rebinding
    assert kind(locked, host="127.0.0.1:1", origin="http://evil.example") == "forbidden"
    assert kind(locked, sec_fetch_site="cross-site", sec_fetch_mode="no-cors", sec_fetch_dest="script") == "forbidden"
    assert kind(locked, sec_fetch_site="cross-site", sec_fetch_mode="navigate", sec_fetch_dest="iframe") == "forbidden"


def test_behind_a_proxy_that_does_not_pass_host_on_the_page_has_its_script_and_can_say_so(locked):
    foreign = {"host": "127.0.0.1:1", "origin": "http://ops.example"}
    assert kind(locked, path="/web/page.js", **foreign) == "" and kind(locked, path="/api/v1/status", **foreign) == "forbidden"
    assert kind(locked, path="/web/page.js", sec_fetch_site="cross-site", **foreign) == "forbidden"


def test_a_link_that_is_followed_leads_to_the_page(locked):
    assert kind(locked, sec_fetch_site="cross-site", sec_fetch_mode="navigate", sec_fetch_dest="document") == ""
