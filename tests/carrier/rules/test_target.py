"""The normal form of a path: every spelling of one path is one, or none."""

from __future__ import annotations

from carrier.rules.target import normal_path
from tests.matching import holds, path, request

SAME_AS_ADMIN = [
    "/admin", "/admin?", "/admin?x=/../y", "//admin", "///admin", "/./admin", "/././admin", "/x/../admin",
    "/x/y/../../admin", "/../admin", "/../../admin", "/%61dmin", "/%61%64%6d%69%6e", "/%61%64%6D%69%6E", "/admi%6e",
    "/%2e/admin", "/%2E/admin", "/x/%2e%2e/admin", "/x/.%2e/admin", "/x/%2E./admin", "/./x/..//admin", "http://h/admin",
    "HTTP://h:80/admin", "https://user@h//admin", "http://h/./admin", "http://h/x/../admin?y", "//./admin", "/.//admin",
    "/%2e%2e/admin", "/a/b/c/../../../admin", "//x/../admin", "///../admin",
]  # fmt: skip


REFUSED = [
    "/admin%00", "/%00admin", "/admin\x00", "/adm\x01in", "/admin ", "/ admin", "/admin%0a", "/admin%0D%0A",
    "/admin%7f", "/admin\t", "/admin#x", "/x/%c0%ae%c0%ae/admin", "/%c1%a1dmin", "/%e0%80%afadmin", "/%e0%81%a1dmin",
    "/%f0%80%80%afadmin", "/%C0admin", "/admin\\", "\\admin", "/x\\..\\admin", "/x%2f..%2fadmin", "/x%2F../admin",
    "/..%2fadmin", "/x%5c..%5cadmin", "/..;/admin", "/x/..;a=b/admin", "/.;/admin",
    "/x/..%3B/admin", "/..%3bx/admin", "/x/.%3B/admin", "/x/%2e%2e%3b%2fadmin", "/x//../admin", "/%zz", "/%", "/%6",
    "/\xe1dmin", "/%u0061dmin", "admin", "h:443", "", "?x",
]  # fmt: skip


DIFFERENT = [
    "/admin/",
    "/admin/.",
    "/admin%2f",
    "/admin%2F",
    "/admin;x",
    "/admin;",
    "/Admin",
    "/admin%20",
    "/%2561dmin",
    "/admin.",
    "/.admin",
    "/x/admin",
]


def test_every_spelling_of_admin_is_matched_or_refused() -> None:
    assert len(SAME_AS_ADMIN) + len(REFUSED) >= 60
    for raw in SAME_AS_ADMIN:
        assert normal_path(raw) == "/admin", raw
        assert holds(path("/admin"), request(raw)), raw
    for raw in REFUSED:
        assert normal_path(raw) is None, raw
    for raw in DIFFERENT:
        assert normal_path(raw) not in (None, "/admin"), raw
    for raw in ("/admin/", "/admin%2f", "/admin;x", "/%61dmin;x"):
        assert holds(path("/admin", "prefix"), request(raw)), raw


def test_a_normal_form_is_its_own_normal_form() -> None:
    for raw in [*SAME_AS_ADMIN, *DIFFERENT, '/[id]/^{x}|"<>`', "/%7euser/%e4%b8%ad/%5b", "*", "/..", "/.", "/a/..", "/%E9"]:
        once = normal_path(raw)
        assert once is not None
        assert normal_path(once) == once
    assert normal_path("/[id]") == normal_path("/%5bid%5D") == "/%5Bid%5D"
    assert normal_path("/%7Euser/%e4%b8%ad") == "/~user/%E4%B8%AD"
    assert [normal_path(p) for p in ("/..", "/a/.", "/a/..", "/a/b/..", "http://h", "http://h?x", "*")] == [
        "/",
        "/a/",
        "/",
        "/a/",
        "/",
        "/",
        "*",
    ]


def test_repeated_slashes_are_kept_by_option() -> None:
    assert normal_path("//admin//x", merge_slashes=False) == "//admin//x"
    assert normal_path("/x//../admin", merge_slashes=False) == "/x/admin"
