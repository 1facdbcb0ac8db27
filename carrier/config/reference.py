"""Every field of the configuration, described once: type, unit, default, example.

docs/configuration.md, the JSON Schema of `carrier schema` and the hints of editors are made of these tables; the checker
(carrier/config/inspector.py) decides, and a test holds that both know the same fields. Protocols describe the fields of their own specs
(`Listener.fields`, `Cluster.fields`) and their options' defaults; what an option of that name means stands here, because one name means
one thing everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from carrier.config.accesslog import MORE
from carrier.config.given import POLICIES
from carrier.config.inspector import LOG_LEVELS, RETRY_ON
from carrier.config.traces import MAX_QUEUE
from carrier.core import health
from carrier.core.decision import NAMED

Schema = dict[str, Any]
SINCE = "0.1"
"""Of a field that says nothing else."""

TEXT: Schema = {"type": "string"}
NAME: Schema = {"type": "string", "pattern": r"^\S+$"}
YES_NO: Schema = {"type": "boolean"}
OBJECT: Schema = {"type": "object"}
FILE: Schema = {"type": "string", "minLength": 1}
PORT: Schema = {"type": "integer", "minimum": 0, "maximum": 65535}
AMOUNTS: Mapping[str, Schema] = {
    "seconds": {"anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": r"^([0-9.]+(ms|s|m|h|d))+$"}]},
    "bytes": {"anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": r"^[0-9.]+([kMGT]i?)?B?$"}]},
    "number": {"type": "number", "minimum": 0},
    "bytes per second": {"anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": r"^[0-9.]+([kMGT]i?)?B?$"}]},
    "0 or 1": {"enum": [0, 1, True, False]},
}
"""Unit of an option that is a number -> what may be written."""


def choice(*values: object) -> Schema:
    return {"enum": list(values)}


def listed(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def ref(kind: str) -> Schema:
    return {"$ref": f"#/$defs/{kind}"}


class Field(NamedTuple):
    """One field of an object. type: for people; schema: for programs; example: a JSON value."""

    name: str
    type: str
    schema: Schema
    text: str
    default: str = ""
    example: Any = None
    unit: str = ""
    required: bool = False
    since: str = SINCE


def named(kind: str, what: str) -> Schema:
    """The name of an object of this kind, or the object itself."""
    return {"anyOf": [{**NAME, "description": f"the name of {what}"}, ref(kind)]}


# One row a field, however long.
# fmt: off
CONFIGURATION = (
    Field("admin", "object", ref("admin"), "settings of the process"),
    Field("bridges", "object", OBJECT, "where user bridges may lead: `networks`, a list; every one but those of the link where it is not given, link-local ones only if they are named", "", {"networks": ["10.0.0.0/8"]}),
    Field("listeners", "list of listeners", listed(ref("listener")), "what is listened at, and the rules of each"),
    Field("clusters", "list of clusters", listed(ref("cluster")), "destinations that routes name"),
    Field("rulelists", "list of rule lists", listed(ref("rulelist")), "rule lists that listeners and rules name"),
    Field("rules", "list of rules", listed(ref("rule")), "rules that rule lists name"),
    Field("routes", "list of routes", listed(ref("route")), "routes that rules name"),
)
ADMIN = (
    Field("log_level", "text", choice(*LOG_LEVELS), f"how much the log says: {', '.join(LOG_LEVELS)}", "info", "debug"),
    Field("log_file", "path", TEXT, "the log goes there instead of to standard error; `-` or `stdout` for standard output", "", "/var/log/carrier.log"),
    Field("access_log", "path or object", {"anyOf": [TEXT, ref("access_log")]}, "a line for each session that has ended", "", {"path": "stdout"}),
    Field("access_log_path", "path", TEXT, "the same, as l7mp's files have it", "", "/var/log/access.json"),
    Field("traces", "object", ref("traces"), "spans of requests are sent to a collector; without it, nothing is traced and nothing of a request's trace is touched", "", {"endpoint": "http://collector:4318"}),
    Field("trust_loopback", "uid or none", choice("uid", "none"), "callers on loopback that may have what is privileged: those whose socket is our own user's or root's, or none (docs/security.md)", "uid", "none"),
    Field("page", "true or false", YES_NO, "a browser that asks the API's address for `/` gets the page (docs/page.md); also off by `--no-page`", "true", False),
    Field("bridges", "object", OBJECT, "the same as `bridges` beside it", "", {"networks": ["10.0.0.0/8"]}),
    Field("strict", "true or false", YES_NO, "REST calls are checked against l7mp's schema (its `-s`)", "false", True),
    Field("offload", "text", choice("init", "no_init", "disable", True, False), "kernel offload of l7mp; kept and shown, without effect", "", "disable"),
    Field("offload_ifs", "text or list", {"anyOf": [TEXT, listed(TEXT)]}, "interfaces of l7mp's offload; kept and shown, without effect", "", ["eth0"]),
    Field("version", "any", {}, "l7mp writes it into its dumps; ignored"),
)
LISTENER = (
    Field("name", "name", NAME, "unique among listeners; metrics, log and REST calls use it", "", "web", required=True),
    Field("spec", "object", ref("listener_spec"), "`protocol` and the fields of that protocol, see [Listeners](#listeners-by-protocol)", "", {"protocol": "HTTP", "port": 8080}, required=True),
    Field("rules", "list, name or rule list", {"anyOf": [NAME, listed({"anyOf": [NAME, ref("rule")]}), ref("rulelist")]}, "rules in order, or the rule list that has them; the first that matches decides", "", [{"action": {"route": {"destination": {"spec": {"protocol": "Echo"}}}}}], required=True),
    Field("options", "object", OBJECT, "limits and the like, see [Options](#options)", "", {"max_connections": 1000}),
)
RULELIST = (
    Field("name", "name", NAME, "unique among rule lists; in a list of the file it is needed", "", "users"),
    Field("rules", "list of rules or names", listed({"anyOf": [NAME, ref("rule")]}), "in order", "", ["john", "everybody"], required=True),
    Field("order", "text", choice("first", "specific"), "`first`: the first rule that matches decides; `specific`: the most specific one does, as in the Gateway API", "first", "specific"),
)
RULE = (
    Field("name", "name", NAME, "unique among rules; an unnamed one is shown by its place", "", "john"),
    Field("match", "match", {}, "which sessions it takes, see [Matches](#matches); none: every one", "", {"matchHeader": {"name": "x-user", "value": "john"}}),
    Field("action", "object", ref("action"), "what happens to them", "", {"route": "to-john"}, required=True),
)
ACTION = (
    Field("route", "route or name", named("route", "a route"), "where the session goes", "", {"destination": "shadow"}),
    Field("apply", "name", NAME, "go on in this rule list instead; there is no way back", "", "more-rules"),
    Field("rewrite", "list of rewrites", listed(ref("rewrite")), "changes of the session's metadata, which an HTTP cluster sends", "", [{"path": "/HTTP/url/path", "value": "/v2"}]),
)
REWRITE = (
    Field("path", "path", TEXT, "of the metadata: `/HTTP/url/path`, `/HTTP/method`, `/HTTP/headers/x-user`, ...", "", "/HTTP/headers/x-user", required=True),
    Field("value", "any", {}, "the new value; null removes a header", "", "john", required=True),
)
ROUTE = (
    Field("name", "name", NAME, "unique among routes", "", "to-john"),
    Field("destination", "cluster or name", named("cluster", "a cluster"), "where the session goes (`cluster` means the same, as in older files of l7mp)", "", "shadow", required=True),
    Field("cluster", "cluster or name", named("cluster", "a cluster"), "the old name of `destination`", "", "shadow"),
    Field("ingress", "list of clusters or names", listed(named("cluster", "a cluster")), "transforms on the way to the destination, in order", "", ["logger"]),
    Field("egress", "list of clusters or names", listed(named("cluster", "a cluster")), "transforms on the way back, in order", "", ["logger"]),
    Field("retry", "object", ref("retry"), "what is tried again", "", {"retry_on": "always", "num_retries": 3}),
    Field("fallback", "cluster or name", named("cluster", "a cluster"), "who serves when the destination cannot; the answer has `x-carrier-fallback`", "", "shadow"),
    Field("options", "object", ref("route_options"), "`retry_statuses`", "", {"retry_statuses": [502, 503]}),
)
ROUTE_OPTIONS = (
    Field("retry_statuses", "list of statuses", listed({"anyOf": [{"type": "integer", "minimum": 100, "maximum": 599}, {"type": "string", "enum": NAMED}]}), f"answers of these statuses are dropped and the request is asked again, `num_retries` times, if it is safe to repeat. Names are gRPC's ({', '.join(NAMED)}): a call is asked again, up to 64 KiB of its content too, when all of its answer is such a status, or when it got no answer and its caller would be told one; once the answer has begun it is not", "none", [502, 503, "unavailable"]),
)
RETRY = (
    Field("retry_on", "text", choice(*RETRY_ON), "`connect-failure`: the destination is not reached; `disconnect`: it has gone; `always`: both", "never", "connect-failure", required=True),
    Field("num_retries", "number", {"type": "integer", "minimum": 0, "maximum": 100}, "how often", "1", 3),
    Field("timeout", "number", {"type": "number", "minimum": 1, "maximum": 3_600_000}, "between attempts, and for each to connect", "3000 to connect", 500, "milliseconds"),
)
CLUSTER = (
    Field("name", "name", NAME, "unique among clusters; in a list of the file it is needed", "", "shadow"),
    Field("spec", "object", ref("cluster_spec"), "`protocol` and the fields of that protocol, see [Clusters](#clusters-by-protocol)", "", {"protocol": "HTTP", "port": 8000}, required=True),
    Field("endpoints", "list of endpoints", {"anyOf": [listed(ref("endpoint")), choice(0)]}, "where it leads; virtual clusters have none", "", [{"spec": {"address": "10.0.0.9"}}]),
    Field("loadbalancer", "object", ref("loadbalancer"), "who of them gets the next session", "", {"policy": "round_robin"}),
    Field("options", "object", OBJECT, "limits, health and the like, see [Options](#options)", "", {"max_connections": 100}),
)
ENDPOINT = (
    Field("name", "name", NAME, "unique among endpoints", "", "pod-1"),
    Field("spec", "object", ref("endpoint_spec"), "its address", "", {"address": "10.0.0.9", "port": 8000}, required=True),
    Field("weight", "number", {"type": "number", "minimum": 0, "maximum": 1_000_000}, "its share of new sessions; 0: none", "1", 10),
)
ENDPOINT_SPEC = (
    Field("address", "text", TEXT, "needed: an IP address, a host name that is looked up again, or the file of a UNIX socket", "", "10.0.0.9"),
    Field("filename", "path", TEXT, "instead of `address`: the file of a UNIX socket, as listeners have it", "", "/run/app.sock"),
    Field("port", "number", {"type": "integer", "minimum": 1, "maximum": 65535}, "instead of the cluster's", "the cluster's", 8000),
)
LOADBALANCER = (
    Field("policy", "text", choice(*POLICIES), f"one of {', '.join(POLICIES)}", "Trivial", "least_sessions", required=True),
    Field("key", "path", TEXT, "of the metadata that HashRing and sticky go by", "", "/IP/src_addr"),
)
HEALTH = (
    Field("active", "text", choice(*health.ACTIVE), "probe every endpoint: by a connection (`TCP`); by a request, in the version of HTTP that requests are sent in (`HTTP`); by a call of gRPC's health service, over HTTP/2 (`GRPC`). The latter two are of HTTP clusters", "only watch what sessions meet", "HTTP"),
    Field("path", "text", TEXT, "what an HTTP probe asks for; 200 to 399 is good", "/", "/healthz"),
    Field("host", "text", TEXT, "the Host of an HTTP probe", "the endpoint", "shop.example"),
    Field("service", "text", TEXT, "the service that a GRPC probe asks about", "the server as a whole", "shop.Cart"),
    Field("failures", "number", AMOUNTS["number"], "failures in a row, seen by sessions, that take an endpoint down; 0: none do", "5", 3),
    Field("down", "duration", AMOUNTS["seconds"], "how long answers that failed keep it down", "10", "30s", "seconds"),
    Field("interval", "duration", AMOUNTS["seconds"], "between probes", "1", "5s", "seconds"),
    Field("timeout", "duration", AMOUNTS["seconds"], "for one probe", "2", "1s", "seconds"),
    Field("healthy", "number", AMOUNTS["number"], "good probes in a row that bring it up", "2", 1),
    Field("unhealthy", "number", AMOUNTS["number"], "failed probes in a row that take it down", "3", 5),
)
SERVER_TLS = (
    Field("certificate", "path", FILE, "a PEM file: the certificate and those between it and the authority", "", "/tls/tls.crt"),
    Field("key", "path", FILE, "a PEM file: its key", "", "/tls/tls.key"),
    Field("sni", "name or list", {"anyOf": [TEXT, listed(TEXT)]}, "names that this entry serves; `*.example.org` for one level; of several entries the first is the default", "", ["shop.example"]),
    Field("client_auth", "text", choice("required", "optional", True, False, None), "ask clients for a certificate", "false", "required"),
    Field("ca", "path", FILE, "a PEM file: authorities whose client certificates are good", "", "/tls/ca.crt"),
    Field("self_signed", "true or false", YES_NO, "make a certificate at the start, for probes that do not look at it", "false", True),
    Field("alpn", "list of names", listed(TEXT), "protocols that are offered inside (RFC 7301), such as `h2` for gRPC through a TCP listener", "the listener's own", ["h2"]),
    Field("passthrough", "true or false", YES_NO, "TCP: do not decrypt; rules match the name that the client asks for (`matchSni`)", "false", True),
)
CLIENT_TLS = (
    Field("sni", "name", TEXT, "the server name that is asked for and checked", "the endpoint's name", "shop.example"),
    Field("verify", "true or false", YES_NO, "check the server's certificate and name", "true", False),
    Field("ca", "path", FILE, "a PEM file: authorities that are good", "the system's", "/tls/ca.crt"),
    Field("certificate", "path", FILE, "a PEM file: our own certificate", "", "/tls/client.crt"),
    Field("key", "path", FILE, "a PEM file: its key", "", "/tls/client.key"),
    Field("alpn", "list of names", listed(TEXT), "protocols that are asked for inside (RFC 7301)", "none", ["h2"]),
)
ACCESS_LOG = (
    Field("path", "path", TEXT, "a file, `stdout` or `stderr`", "", "/var/log/access.json", required=True),
    Field("format", "text", choice("json", "envoy"), "a JSON object a line, or Envoy's default format", "json", "envoy"),
    Field("status", "number", {"type": "integer", "minimum": 0}, "only answers of this status or above", "0", 500),
    Field("duration", "duration", AMOUNTS["seconds"], "only sessions of at least so long", "0", 1.5, "seconds"),
    Field("users", "list of names", listed(TEXT), "only sessions of these users' bridges", "everybody's", ["john"]),
    Field("sample", "number", {"type": "number", "minimum": 0, "maximum": 1}, "the part of the lines that is written; failures always are", "1", 0.1),
    Field("headers", "list of names", listed(TEXT), "request header fields to write", "none", ["user-agent"]),
    Field("fields", "list of texts", listed(choice(*MORE)), "more to write: `trace` (`trace_id`), `upstream` and `first_byte` (microseconds from the connected destination to the end, and from the beginning to the first byte of the answer), `retries` (also 0), `agent`. Of format envoy: `upstream` in its column, the others behind the line. The id of a request that is traced here is always written", "none", ["trace", "first_byte"]),
    Field("redact", "list of names", listed(TEXT), "further fields whose value is not to be seen", "none", ["x-session"]),
    Field("query", "true or false", YES_NO, "write paths with their query", "true", False),
)
TRACES = (
    Field("endpoint", "URL", TEXT, "of a collector that takes OTLP over HTTP (protobuf); without a path, `/v1/traces` is", "", "http://collector:4318", required=True),
    Field("ratio", "number", {"type": "number", "minimum": 0, "maximum": 1}, "the part of the requests without `traceparent` that is traced; of the others their caller decides", "0.01", 0.1),
    Field("headers", "object", OBJECT, "fields for the collector, as its token; never shown", "none", {"authorization": "Bearer ..."}),
    Field("service", "text", TEXT, "`service.name` of the spans", "carrier", "shop-proxy"),
    Field("resource", "object", OBJECT, "further attributes of the resource", "none", {"deployment.environment.name": "staging"}),
    Field("timeout", "number", {"type": "number", "minimum": 0.1, "maximum": 60}, "seconds for one export, its repeats included", "5", 2),
    Field("queue", "number", {"type": "integer", "minimum": 1, "maximum": MAX_QUEUE}, "spans that may wait; what is beyond is dropped and counted (`carrier_trace_spans`)", "2048", 10000),
)
BRIDGE = (
    Field("port", "number", {"type": "integer", "minimum": 1, "maximum": 65535}, "the port that is bridged", "", 8080),
    Field("listener", "name", NAME, "instead of `port`: the listener's name, where one port has several", "", "web"),
    Field("user", "name", TEXT, "whose it is; no other user replaces it", "", "john", required=True),
    Field("match", "match", {}, "a condition, or a list of conditions that must all hold, see [Matches](#matches)", "", {"matchHeader": {"name": "x-user", "value": "john"}}),
    Field("rules", "list", listed({"type": "object", "required": ["match"], "properties": {"match": {}}}), "instead of `match`: alternatives", "", [{"match": [{"matchPath": {"path": "/cart", "type": "prefix"}}]}]),
    Field("type", "text", choice("http", "stream"), "`stream`: the whole port, whatever it speaks; `http` with `url`: a path prefix", "", "stream"),
    Field("url", "text", TEXT, "with `type: http`: the path prefix", "", "/api"),
    Field("endpoint", "text or object", {"anyOf": [TEXT, ref("endpoint_spec")]}, "where the user's container listens", "", "10.0.0.9:8000", required=True),
    Field("tls", "true or object", {"anyOf": [YES_NO, ref("client_tls")]}, "speak TLS with it", "false", True),
    Field("expires", "duration or moment", {"anyOf": [{"type": "number"}, TEXT]}, "seconds from now, or a moment; at most a year", "never", 3600, "seconds"),
    Field("fallback", "text", choice("shadow", "error"), "when the endpoint cannot serve: the shadow answers, or 503", "shadow", "error"),
    Field("mirror", "true or false", YES_NO, "the endpoint gets a copy of each request and the shadow answers", "false", True),
    Field("answer_timeout", "duration", AMOUNTS["seconds"], "after which a silent endpoint has failed", "60", 600, "seconds"),
    Field("host", "text", TEXT, "the Host that the endpoint gets; the shadow, when it answers, gets the one that came", "", "app.example:8080"),
    Field("token", "true or text", {"anyOf": [choice(True), {"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"}]}, "`true`: make a token, which the answer has once in `status.token`; who has it may ask why from anywhere, and join by a link. Kept and shown is its digest, which PUT takes, too", "none", True),
    Field("options", "object", OBJECT, "options of its route", "", {"retry_statuses": [503]}),
)

_TEXT_TYPE = Field("type", "text", choice("exact", "prefix", "regex"), "how: equal, begins with, or RE2 found anywhere (anchor it with ^ and $)", "exact", "prefix")
_NAME_TYPE = Field("type", "text", choice("exact", "suffix", "regex"), "how: equal, ends with, or RE2 found anywhere", "exact", "suffix")
_RAW = Field("raw", "true or false", YES_NO, "as Gefyra's own component matches: the bytes as they came", "false", True)


def _pair(what: str, name: str, value: str) -> tuple[Field, ...]:
    return (
        Field("name", "text", TEXT, f"of the {what}", "", name, required=True),
        Field("value", "text", TEXT, "what its value is compared with", "", value, required=True),
        _TEXT_TYPE,
    )


MATCHES: Mapping[str, tuple[str, tuple[Field, ...]]] = {
    "matchHeader": ("a request header field; its name has no case", (*_pair("field", "x-user", "john"), _RAW)),
    "matchPath": ("the path without its query, in its normal form (RFC 3986 section 6)", (Field("path", "text", TEXT, "what it is compared with", "", "/cart", required=True), _TEXT_TYPE, _RAW)),
    "matchMethod": ("the method", (Field("method", "text or list", {"anyOf": [TEXT, listed(TEXT)]}, "one, or any of several", "", ["GET", "HEAD"], required=True),)),
    "matchQuery": ("a parameter of the query", _pair("parameter", "user", "john")),
    "matchCookie": ("a cookie", _pair("cookie", "user", "john")),
    "matchBaggage": ("a member of the `baggage` field (W3C), which tracing libraries pass on from service to service", _pair("member", "user", "john")),
    "matchTracestate": ("a member of the `tracestate` field (W3C)", _pair("member", "user", "john")),
    "matchHost": ("the host that is asked for, without the port", (Field("host", "text", TEXT, "what it is compared with", "", ".shop.example", required=True), _NAME_TYPE)),
    "matchSni": ("the server name that a TLS client asks for", (Field("sni", "text", TEXT, "what it is compared with", "", "shop.example", required=True), _NAME_TYPE)),
    "matchSource": ("the peer's address", (Field("cidr", "text or list", {"anyOf": [TEXT, listed(TEXT)]}, "a network, or any of several", "", "10.0.0.0/8", required=True),)),
}

OBJECTS: Mapping[str, tuple[str, tuple[Field, ...]]] = {
    "configuration": ("The file, and the body of `POST /api/v1/config`.", CONFIGURATION),
    "admin": ("Settings of the process. The command's options win.", ADMIN),
    "access_log": ("`admin.access_log`, when it is an object.", ACCESS_LOG),
    "traces": ("`admin.traces`.", TRACES),
    "listener": ("A bound address and its rules.", LISTENER),
    "rulelist": ("Rules in order.", RULELIST),
    "rule": ("Which sessions, and what happens to them.", RULE),
    "action": ("What a rule does: `route`, or `apply`.", ACTION),
    "rewrite": ("A change of a session's metadata.", REWRITE),
    "route": ("Where a session goes, and through what.", ROUTE),
    "route_options": ("`route.options`.", ROUTE_OPTIONS),
    "retry": ("`route.retry`.", RETRY),
    "cluster": ("A named group of endpoints that speak one protocol.", CLUSTER),
    "endpoint": ("One address of a cluster.", ENDPOINT),
    "endpoint_spec": ("`endpoint.spec`.", ENDPOINT_SPEC),
    "loadbalancer": ("`cluster.loadbalancer`.", LOADBALANCER),
    "health": ("`cluster.options.health`.", HEALTH),
    "server_tls": ("`tls` of a listener's spec: one entry, or a list of them. An entry needs `certificate` and `key`, or `self_signed`, or `passthrough`.", SERVER_TLS),
    "client_tls": ("`tls` of a cluster's spec, when it is more than `true`.", CLIENT_TLS),
    "bridge": ("A user bridge: the body of `PUT /api/v1/bridges/{name}`. See [bridges.md](bridges.md).", BRIDGE),
}
"""Kind of object -> what it is, and its fields."""

OPTIONS: Mapping[str, Field] = {field.name: field for field in (
    Field("track", "duration", {**AMOUNTS["seconds"]}, "ended sessions are listed so long after; at most a day", "", 60, "seconds"),
    Field("max_connections", "number", AMOUNTS["number"], "of a listener: connections at a time; a newcomer takes the place of one without use, or is refused. Of a cluster: connections in use at a time; beyond that a session fails at once", "", 1000),
    Field("header_timeout", "duration", AMOUNTS["seconds"], "for a head (a handshake, a header) to come; then 408, or the connection is closed", "", 30, "seconds"),
    Field("keepalive_timeout", "duration", AMOUNTS["seconds"], "that a connection is kept between requests", "", "2m", "seconds"),
    Field("idle_timeout", "duration", AMOUNTS["seconds"], "without a byte in either direction after which a session ends; of an HTTP cluster: that an idle connection is kept, or less, where its server says that (`Keep-Alive: timeout=5`)", "", "10m", "seconds"),
    Field("half_close_timeout", "duration", AMOUNTS["seconds"], "that the other direction may go on without a byte after one has ended", "", "1m", "seconds"),
    Field("mode", "text", TEXT, "of a UNIX socket's file, in octal", "", "0660"),
    Field("user", "text", TEXT, "whose a UNIX socket's file is: a name or a number", "", "app"),
    Field("group", "text", TEXT, "the group of a UNIX socket's file: a name or a number", "", "app"),
    Field("body_min_rate", "number", AMOUNTS["bytes per second"], "that a request body must come with, but for calls of gRPC", "", 1000, "bytes per second"),
    Field("body_grace", "duration", AMOUNTS["seconds"], "before `body_min_rate` counts", "", 30, "seconds"),
    Field("max_head", "size", AMOUNTS["bytes"], "of a request head; then 431. Of an HTTP cluster: of an answer's head; then 502", "", "64Ki", "bytes"),
    Field("max_fields", "number", AMOUNTS["number"], "fields of a request head, and twice as many cookies over HTTP/2; then 431. Of an HTTP cluster: of an answer's; then 502", "", 200),
    Field("max_line", "size", AMOUNTS["bytes"], "of the request line (then 414) and of each field (then 431). Of an HTTP cluster: of an answer's head; then 502", "", "32Ki", "bytes"),
    Field("max_heads", "size", AMOUNTS["bytes"], "of heads that are not whole, wait, or are longer than 4 KiB, on all connections together; then 431", "", "32Mi", "bytes"),
    Field("max_body", "size", AMOUNTS["bytes"], "of a request body; then 413", "", "10Mi", "bytes"),
    Field("max_hops", "number", AMOUNTS["number"], "listeners of Carrier2 that a request may have passed, counted in its field `x-carrier-hops`; then 508. 0: no bound, and nothing is counted", "", 20),
    Field("strict_target", "number", AMOUNTS["0 or 1"], "0: targets may hold what RFC 3986 forbids and browsers send all the same, as in `/find?q={a|b}`", "", 0),
    Field("drop", "true or false", YES_NO, "of Sync: a member that takes no more goes without what comes meanwhile, instead of holding the others up", "false", True),
    Field("copy_bytes", "size", AMOUNTS["bytes"], "of Mirror: that wait of one copy of a stream while the mirror connects or reads; then that copy is given up", "", "16Mi", "bytes"),
    Field("copies_bytes", "size", AMOUNTS["bytes"], "the same of all copies together", "", "64Mi", "bytes"),
    Field("strict_path", "number", AMOUNTS["0 or 1"], "0: where rules look at the normal form of paths, a target about whose path servers disagree (`/x/..;/admin`, `/admin%00`) goes to whom no rule on paths takes; 1: it is refused", "", 0),
    Field("exit", "true or false", YES_NO, "when the session of standard input is over the process ends", "false", True),
    Field("half_close", "text", choice("end", "keep"), "keep: a client that has sent its end gets its answer however late; else one that begins within a second", "", "keep"),
    Field("protocols", "list", listed(choice("h1", "h2")), "versions of HTTP that are spoken; with TLS they are offered to clients. An `auto` port offers h2 inside TLS if this names it, or if the cluster of its last rule is found to take it", "h1, h2", ["h1"]),
    Field("forwarding", "text", choice("replace", "keep"), "keep: what a request says of its way (`x-forwarded-for` and its like) goes on as it came, and nothing is added to it: the app behind a Gefyra port sees what it would see without us", "", "keep"),
    Field("proxy_protocol", "list of networks", listed(TEXT), "proxies that say first who has connected (PROXY protocol, v1 or v2); others are taken as they come. Of a UNIX socket `[unix]`: whoever opens it, which its `mode`, `user` and `group` decide, says that first", "nobody", ["10.0.0.0/8"]),
    Field("trusted", "list of networks", listed(TEXT), "peers whose forwarding fields (`x-forwarded-for` and its like) are believed", "nobody", ["10.0.0.0/8"]),
    Field("explain", "list of networks", listed(TEXT), "peers whose `x-carrier-explain` is heeded", "this machine", ["10.0.0.0/8"]),
    Field("join", "true or false", YES_NO, "`/.carrier/join/NAME?token=TOKEN` gives a browser the cookie that a user bridge asks for, and `/.carrier/leave` takes it away; else those paths are the app's, as all others", "false", True),
    Field("via", "name", TEXT, "our pseudonym in `via` (RFC 9110 section 7.6.3)", "no `via` is sent", "carrier"),
    Field("forwarded", "true or false", YES_NO, "send `forwarded` too (RFC 7239)", "false", True),
    Field("answer_id", "true or false", YES_NO, "answers tell the request's id in `x-request-id`, unless the upstream has said one", "false", True),
    Field("server_timing", "true or false", YES_NO, "answers tell in `server-timing` (W3C) the milliseconds until their head: in all (`carrier`), until the destination was connected (`connect`), from there on (`upstream`)", "false", True),
    Field("insecure", "true or false", YES_NO, "a listener that leads to the REST API may be reached from other machines", "false", True),
    Field("detect_timeout", "duration", AMOUNTS["seconds"], "of silence after which a connection is carried as it is, because its server may have to speak first", "", "300ms", "seconds"),
    Field("raw_idle_timeout", "duration", AMOUNTS["seconds"], "`idle_timeout` of what is not HTTP", "", "1h", "seconds"),
    Field("max_sessions", "number", AMOUNTS["number"], "peers at a time; when full, the one that never got an answer goes first", "", 10000),
    Field("max_new_sessions_per_second", "number", AMOUNTS["number"], "of one source address", "", 100),
    Field("answer_timeout", "duration", AMOUNTS["seconds"], "of an HTTP cluster: for the head of an answer, then 504. Of a UDP listener: after which a peer without an answer goes", "", "5m", "seconds"),
    Field("responses", "number", AMOUNTS["number"], "answers to each datagram after which a peer's exchange is done, as 1 for DNS; 0: nobody can tell", "", 1),
    Field("exchange_timeout", "duration", AMOUNTS["seconds"], "that a peer is kept whose exchange is done (`responses`)", "", "2s", "seconds"),
    Field("max_message", "size", AMOUNTS["bytes"], "of a WebSocket message; then close code 1009", "", "1Mi", "bytes"),
    Field("max_frame", "size", AMOUNTS["bytes"], "of a WebSocket frame; then close code 1009", "", "64Ki", "bytes"),
    Field("ping_interval", "duration", AMOUNTS["seconds"], "of silence after which a WebSocket peer is pinged", "", "10s", "seconds"),
    Field("ping_timeout", "duration", AMOUNTS["seconds"], "that it has to answer", "", "10s", "seconds"),
    Field("close_timeout", "duration", AMOUNTS["seconds"], "between the two close frames", "", "1s", "seconds"),
    Field("max_idle", "number", AMOUNTS["number"], "idle connections that are kept to each endpoint", "", 32),
    Field("max_per_endpoint", "number", AMOUNTS["number"], "connections to each endpoint", "", 100),
    Field("max_waiting", "number", AMOUNTS["number"], "requests that wait for one of them", "", 100),
    Field("max_streams", "number", AMOUNTS["number"], "requests at a time on one connection of HTTP/2", "", 250),
    Field("max_pending", "number", AMOUNTS["number"], "sessions that wait for a connection; beyond that they fail at once", "", 100),
    Field("max_retries", "number", AMOUNTS["number"], "sessions that are being tried again; beyond that the failure stands", "", 10),
    Field("health", "object", ref("health"), "which endpoints are up", "sessions are watched", {"active": "TCP"}),
)}
"""What an option means. Defaults are the protocols' own."""
# fmt: on


def fields_of(kind: str) -> dict[str, Field]:
    """Name -> field, of one kind of object."""
    return {field.name: field for field in OBJECTS[kind][1]}
