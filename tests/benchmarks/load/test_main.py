import json

import pytest

from benchmarks.load.__main__ import address, arguments, main, users_of
from benchmarks.load.team import SHADOW
from benchmarks.peers.registry import PEERS
from benchmarks.processes import Children, start_backend


@pytest.fixture(scope="module")
def ports():
    with Children() as children:
        yield start_backend(children, ["A"])


def test_users_are_spread_and_the_first_on_each_target_have_the_bridges():
    options = arguments(["http", "h:1", "h:2=other", "--users", "6", "--bridges", "1", "--shadow", "D"])
    users = users_of(options, options.targets)
    assert [(user.port, user.name, user.expect) for user in users] == [
        (1, "user-1", "user-1"),
        (2, "user-1", "user-1"),
        (1, "user-2", "D"),
        (2, "user-2", "other"),
        (1, "user-3", "D"),
        (2, "user-3", "other"),
    ]
    assert users[2].request == b"GET / HTTP/1.1\r\nHost: h:1\r\nx-user: user-2\r\n\r\n"


def test_a_size_makes_a_post():
    options = arguments(["http", "h:1", "--users", "1", "--size", "32"])
    assert users_of(options, ["h:1"])[0].request.endswith(b"Content-Length: 32\r\n\r\n" + b"p" * 32)


def test_addresses():
    assert address("[::1]:80=shadow") == ("::1", 80, "shadow")
    assert address("localhost:80") == ("localhost", 80, None)


BAD = [
    [],
    ["smtp", "h:1"],
    ["http"],
    ["http", "h:1", "--through", "nginx"],
    ["http", "h"],
    ["http", "h:0"],
    ["http", "h:1", "--bridges", "300"],
    ["tcp", "h:1", "--bridges", "1"],
    ["udp", "h:1", "--size", "4"],
    ["udp", "h:1", "--seconds", "0"],
]


@pytest.mark.parametrize("words", BAD)
def test_bad_usage_ends_with_code_2(words, capsys):
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2 and "usage" in capsys.readouterr().err


def test_the_report_is_text_or_json_and_the_code_says_whether_all_was_well(ports, capsys):
    words = ["http", f"127.0.0.1:{ports['A']}=A", "--users", "2", "--seconds", "0.1"]
    assert main(words) == 0
    assert "answered by  A " in capsys.readouterr().out
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["answered_by"].keys() == {"A"}


def test_wrong_answers_end_with_code_1(ports, capsys):
    words = ["http", f"127.0.0.1:{ports['A']}", "--users", "2", "--bridges", "1", "--seconds", "0.1"]
    assert main(words) == 1
    assert "user-1 wanted user-1, got A" in capsys.readouterr().out


@pytest.mark.parametrize("protocol", ["http", "websocket"])
def test_a_team_is_started_and_everybody_gets_to_her_own_laptop(protocol, capsys):
    nginx = next(peer for peer in PEERS if peer.name == "nginx")
    if why := nginx.missing(protocol):
        pytest.skip(why)
    words = [protocol, "--through", "nginx", "--users", "6", "--bridges", "2", "--seconds", "0.3", "--json"]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["answered_by"].keys() == {SHADOW, "user-1", "user-2"}
