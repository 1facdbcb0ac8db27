"""Who may call the REST API: facts about a caller in, an Error or a name out."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import pytest
import trustme

from carrier.admin.gate import PEERS, Caller, Gate, Limits, Tokens, server_tls
from carrier.errors import ConfigError, Error

TOKEN = "correct-horse-battery"
LOCAL = Caller("loopback", "127.0.0.1:5", "127.0.0.1", "127.0.0.1")
REMOTE = Caller("remote", "192.0.2.7:5", "192.0.2.7", "192.0.2.1")
BEARER = {"authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text(f"# who may\nci {TOKEN}\n\nanother-token-0123  # without a name\n")
    path.chmod(0o600)
    return path


def kind(gate: Gate, caller: Caller = LOCAL, method: str = "GET", path: str = "/api/v1/config", **headers: str) -> str:
    """The kind of error that a call is refused with, or nothing. Names of headers with _ for -."""
    try:
        gate.admit(caller, method, path, {name.replace("_", "-"): value for name, value in headers.items()})
    except Error as error:
        return error.kind
    return ""


# -- the unix socket


def test_the_unix_socket_is_for_our_user_and_for_root() -> None:
    gate = Gate()
    ours = Caller("unix", "unix", uid=os.geteuid())
    assert kind(gate, ours, host="whatever.example", origin="http://evil.example") == ""
    assert kind(gate, ours._replace(uid=0)) == ""
    assert kind(gate, ours._replace(uid=os.geteuid() + 4711)) == "forbidden"


def test_the_unix_socket_needs_no_token(file: Path) -> None:
    assert kind(Gate(tokens=Tokens(str(file))), Caller("unix", "unix", uid=os.geteuid())) == ""


# -- browsers and DNS rebinding


@pytest.mark.parametrize("host", ["127.0.0.1:1234", "localhost", "LOCALHOST:1234", "[::1]:1234", "127.8.9.1", "::1", ""])
def test_names_of_loopback_are_ours(host: str) -> None:
    assert kind(Gate(), host=host) == ""


@pytest.mark.parametrize("host", ["evil.example", "evil.example:1234", "127.0.0.1.evil.example", "192.0.2.1", "localhost.evil.example"])
def test_a_foreign_host_is_refused(host: str) -> None:
    assert kind(Gate(), host=host) == "forbidden"


def test_the_address_that_was_called_and_configured_names_are_ours() -> None:
    gate = Gate(insecure=True, names=("Carrier.Gefyra.svc",))
    assert kind(gate, REMOTE, host="192.0.2.1:1234") == ""
    assert kind(gate, REMOTE, host="carrier.gefyra.SVC:1234") == ""
    assert kind(gate, REMOTE, host="carrier.evil.example") == "forbidden"


def test_a_token_does_not_make_a_foreign_name_ours_but_lets_any_address_be_one(file: Path) -> None:
    gate = Gate(tokens=Tokens(str(file)))
    assert kind(gate, host="evil.example", **BEARER) == "forbidden"
    assert kind(gate, host="203.0.113.9", **BEARER) == ""


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:8080", "https://localhost", "file://"])
def test_pages_of_other_origins_are_refused(origin: str) -> None:
    assert kind(Gate(), "loopback" and LOCAL, "POST", host="127.0.0.1:1234", origin=origin, content_type="application/json") == "forbidden"


def test_our_own_page_may_call() -> None:
    assert kind(Gate(), host="127.0.0.1:1234", origin="http://127.0.0.1:1234", sec_fetch_site="same-origin") == ""


def test_a_proxy_that_does_not_pass_host_on_is_no_other_site_where_the_browser_says_so(file: Path) -> None:
    """Where it does not, over HTTP from afar, the reason is said; who has no token is refused as before."""
    locked = Gate(tokens=Tokens(str(file)))
    page = {"host": "127.0.0.1:1234", "origin": "https://ops.example", "via": "1.1 nginx"}
    assert kind(locked, sec_fetch_site="same-origin", **page, **BEARER) == ""
    assert kind(locked, sec_fetch_site="cross-site", **page, **BEARER) == "forbidden"
    assert kind(locked, **page, **BEARER) == "forbidden"
    assert kind(Gate(), sec_fetch_site="same-origin", **page) == "forbidden"


@pytest.mark.parametrize("site", ["cross-site", "same-site", "odd"])
def test_a_page_of_another_site_is_refused(site: str) -> None:
    assert kind(Gate(), host="127.0.0.1", sec_fetch_site=site) == "forbidden"


@pytest.mark.parametrize("form", ["text/plain", "multipart/form-data; boundary=x", "Application/X-WWW-Form-Urlencoded"])
def test_the_body_of_a_form_is_no_call(form: str) -> None:
    assert kind(Gate(), method="POST", content_type=form) == "unsupported-media-type"
    assert kind(Gate(), method="GET", content_type=form) == ""
    assert kind(Gate(), method="DELETE", content_type=form) == ""


def test_who_forgot_the_content_type_is_told_which_to_send() -> None:
    with pytest.raises(Error, match=r"application/x-www-form-urlencoded.*send application/json"):
        Gate().admit(LOCAL, "POST", "/api/v1/clusters", {"content-type": "application/x-www-form-urlencoded"})


@pytest.mark.parametrize("name", ["x_forwarded_for", "forwarded", "via"])
def test_what_came_through_a_proxy_needs_a_token(name: str, file: Path) -> None:
    assert kind(Gate(), **{name: "x"}) == "forbidden"
    assert kind(Gate(tokens=Tokens(str(file))), **{name: "x"}, **BEARER) == ""


# -- tokens and certificates


@pytest.mark.parametrize(
    "shown", ["", "Bearer wrong-token-0123", "Bearer", f"Basic {TOKEN}", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", "Bearer \udcff"]
)
@pytest.mark.parametrize("caller", [LOCAL, REMOTE])
def test_without_a_known_token_everybody_is_unauthorized(file: Path, shown: str, caller: Caller) -> None:
    headers = {"authorization": shown} if shown else {}
    assert kind(Gate(tokens=Tokens(str(file))), caller, **headers) == "unauthorized"


def test_each_token_of_the_file_opens_and_its_name_is_known(file: Path) -> None:
    gate = Gate(tokens=Tokens(str(file)))
    assert gate.admit(REMOTE, "GET", "/", BEARER) == "ci at 192.0.2.7:5"
    assert gate.admit(REMOTE, "GET", "/", {"authorization": "bearer another-token-0123"}) == "token-4 at 192.0.2.7:5"


def test_tokens_are_not_kept_as_they_are(file: Path) -> None:
    assert TOKEN.encode() not in b"".join(hashed for _, hashed in Tokens(str(file)).known)


def test_a_changed_file_is_read_again_and_a_bad_one_leaves_the_tokens_in_force(file: Path) -> None:
    said: list[str] = []
    gate = Gate(tokens=Tokens(str(file), said.append))
    file.write_text("fresh-token-of-today\n")
    assert kind(gate, **BEARER) == "unauthorized"
    assert kind(gate, authorization="Bearer fresh-token-of-today") == ""
    file.write_text("short\n")
    for _ in range(3):
        assert kind(gate, authorization="Bearer fresh-token-of-today") == ""
    file.unlink()
    assert kind(gate, authorization="Bearer fresh-token-of-today") == ""
    assert len(said) == 2 and "line 1" in said[0] and "No such file" in said[1]
    assert "short" not in said[0]


@pytest.mark.parametrize("text", ["", "# nothing\n", "short\n", "one two three-of-some-length\n", "\udcff" * 20])
def test_a_file_without_good_tokens_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tokens"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    path.chmod(0o600)
    with pytest.raises(ConfigError):
        Tokens(str(path))
    with pytest.raises(ConfigError, match="No such file"):
        Tokens(str(tmp_path / "nowhere"))


def test_remote_callers_without_a_lock_are_refused_unless_the_user_wants_them() -> None:
    assert kind(Gate(), REMOTE) == "forbidden"
    assert kind(Gate(insecure=True), REMOTE) == ""


def test_a_verified_certificate_is_as_good_as_a_token(tmp_path: Path, file: Path) -> None:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    ca.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "cert.pem"))
    context = server_tls(str(tmp_path / "cert.pem"), None, str(tmp_path / "ca.pem"))
    gate = Gate(tls=context)
    assert gate.locked and gate.may_open() and not gate.may_open(tls=False)
    assert kind(gate, REMOTE) == "unauthorized"
    assert gate.admit(REMOTE._replace(certificate=True), "GET", "/", {}) == "certificate at 192.0.2.7:5"
    plain = server_tls(str(tmp_path / "cert.pem"), None, None)
    assert plain.verify_mode == ssl.CERT_NONE and not Gate(tls=plain).locked


@pytest.mark.parametrize("broken", ["ca", "cert", "missing"])
def test_files_of_certificates_that_cannot_be_used_are_refused(tmp_path: Path, broken: str) -> None:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca"))
    ca.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "cert"))
    if broken != "missing":
        (tmp_path / broken).write_text("no certificate\n")
    with pytest.raises(ConfigError, match="cannot use"):
        server_tls(str(tmp_path / "cert"), None, str(tmp_path / ("nowhere" if broken == "missing" else "ca")))


# -- how often


def test_remote_writes_have_a_rate_after_a_burst() -> None:
    now = [100.0]
    gate = Gate(Limits(writes=20, burst=100), insecure=True, clock=lambda: now[0])

    def served(caller: Caller, count: int) -> int:
        return sum(kind(gate, caller, "POST", content_type="application/json") == "" for _ in range(count))

    assert served(REMOTE, 150) == 100
    assert kind(gate, REMOTE, "DELETE") == "too-many-requests"
    assert kind(gate, REMOTE, "GET") == ""
    assert served(REMOTE._replace(host="192.0.2.8"), 150) == 100
    now[0] += 1
    assert served(REMOTE, 150) == 20
    now[0] += 1000
    assert served(REMOTE, 150) == 100


def test_loopback_and_the_unix_socket_have_no_rate() -> None:
    gate = Gate()
    assert all(kind(gate, LOCAL, "POST", content_type="application/json") == "" for _ in range(1000))


def test_the_memory_of_rates_is_bounded() -> None:
    gate = Gate(insecure=True)
    for n in range(PEERS + 50):
        kind(gate, REMOTE._replace(host=f"10.0.{n >> 8}.{n & 255}"), "DELETE")
    assert len(gate.buckets) == PEERS


# -- health


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/startupz"])
def test_health_is_for_everybody_who_only_reads(file: Path, path: str) -> None:
    gate = Gate(tokens=Tokens(str(file)))
    assert kind(gate, REMOTE, "GET", path, host="10.1.2.3:1234") == ""
    assert kind(gate, REMOTE, "POST", path) == "unauthorized"


def test_refusals_are_counted_by_kind() -> None:
    gate = Gate()
    kind(gate, REMOTE)
    kind(gate, host="evil.example")
    assert gate.refused == {"forbidden": 2}


def test_the_role_behind_a_token_is_known_and_every_other_word_refused(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    lines = ["ops 0123456789abcdef privileged", "ci 0123456789abcdeg read", "john 0123456789abcdeh user=john", "any 0123456789abcdei"]
    file.write_text("\n".join(lines))
    file.chmod(0o600)
    tokens = Tokens(str(file))
    assert [tokens.role(line.split()[1]) for line in lines] == ["", "read", "user=john", ""]
    assert tokens.role("nobody's") == "" and tokens.is_privileged("0123456789abcdef")
    for wrong in ("admin", "user=", "READ", "read write"):
        file.write_text(f"ci 0123456789abcdeg {wrong}")
        with pytest.raises(ConfigError, match="privileged, read or user=USER"):
            Tokens(str(file))
