"""Every metric by name, kind, labels and help; samples of them are written elsewhere."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

Kind = Literal["counter", "gauge", "histogram"]


class Metric(NamedTuple):
    """One line of the table. name: without the suffixes that the exposition adds (`_total`, `_bucket`)."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str


METRICS = (
    Metric(
        "carrier_sessions",
        "counter",
        ("listener", "rule", "cluster", "code"),
        "Sessions that have ended; `failed`: gRPC that failed and answers that were broken off too; `left`: clients that were gone first",
    ),
    Metric("carrier_session_seconds", "histogram", ("listener", "cluster"), "From the first byte of a session to its end"),
    Metric("carrier_connect_seconds", "histogram", ("listener", "cluster"), "Until the destination was connected, where none was ready"),
    Metric("carrier_sessions_active", "gauge", ("listener",), "Sessions at this moment"),
    Metric("carrier_received_bytes", "counter", ("listener", "cluster"), "Bytes received from downstream, heads included"),
    Metric("carrier_sent_bytes", "counter", ("listener", "cluster"), "Bytes sent to downstream, heads included"),
    Metric("carrier_retries", "counter", ("listener", "cluster"), "Attempts after the first"),
    Metric("carrier_fallbacks", "counter", ("listener", "cluster"), "Sessions that the fallback cluster served"),
    Metric("carrier_grpc_calls", "counter", ("listener", "service", "method", "status"), "Calls of gRPC that have ended, by their status"),
    Metric("carrier_grpc_call_seconds", "histogram", ("listener", "service", "method"), "From the first byte of a call of gRPC to its end"),
    Metric("carrier_datagrams", "counter", ("listener", "direction"), "Datagrams received from and sent to downstream"),
    Metric("carrier_datagrams_dropped", "counter", ("listener", "reason"), "Datagrams that went nowhere"),
    Metric("carrier_cluster_datagrams_dropped", "counter", ("cluster", "reason"), "Datagrams that did not go to a destination"),
    Metric("carrier_endpoint_up", "gauge", ("cluster", "endpoint"), "1 when the endpoint is up, 0 when it is down"),
    Metric("carrier_endpoint_sessions_active", "gauge", ("cluster", "endpoint"), "Sessions of the endpoint at this moment"),
    Metric("carrier_endpoint_sessions", "counter", ("cluster", "endpoint"), "Sessions that the endpoint got"),
    Metric("carrier_endpoint_failures", "counter", ("cluster", "endpoint"), "Attempts that failed before an answer"),
    Metric("carrier_rule_hits", "counter", ("rule",), "Sessions that the rule decided"),
    Metric("carrier_rule_last_hit_timestamp_seconds", "gauge", ("rule",), "When the rule last decided one, in seconds since 1970"),
    Metric("carrier_certificate_trouble", "gauge", ("object",), "1 when a certificate in force is not good, or a newer one was not taken"),
    Metric("carrier_certificate_expiry_timestamp_seconds", "gauge", ("object", "file"), "When a certificate in force expires"),
    Metric("carrier_limits_hit", "counter", ("object", "limit"), "How often a limit refused or held something"),
    Metric("carrier_config_changes", "counter", ("result",), "Configurations put in force, or refused"),
    Metric("carrier_config_revision", "gauge", (), "The revision in force"),
    Metric("carrier_state_writes", "counter", ("outcome",), "Revisions written to the folder of --state, or failed to be"),
    Metric("carrier_bridges", "gauge", (), "User bridges in force"),
    Metric("carrier_loop_lag_seconds", "gauge", (), "How late the event loop was at the last look"),
    Metric("carrier_event_viewers", "gauge", (), "Connections that watch the events"),
    Metric("carrier_events", "counter", ("outcome",), "Events told to viewers, and lost because there were too many or nobody read them"),
    Metric("carrier_recordings", "gauge", (), "Connections that get what passes by a rule"),
    Metric(
        "carrier_recorded_sessions",
        "counter",
        ("outcome",),
        "Sessions told to who records, and lost because there were too many or nobody read them",
    ),
    Metric("carrier_overloaded", "gauge", (), "1 while new sessions are refused because there is too much"),
    Metric("carrier_access_log_lines", "counter", ("outcome",), "Lines of the access log that were written, or dropped"),
    Metric("carrier_trace_spans", "counter", ("outcome",), "Spans that the collector took, that found no room, or that it did not take"),
    Metric("carrier_label_sets", "gauge", (), "Label sets of sessions that are kept apart"),
    Metric("carrier_samples_left_out", "gauge", (), "Samples of this scrape beyond the cap"),
    Metric("carrier_build_info", "gauge", ("version",), "1; the version is the label"),
)
"""Every metric of ours; those of the process (`process_*`) are prometheus-client's."""
BY_NAME = {metric.name: metric for metric in METRICS}
Sample = tuple[str, dict[str, str], float] | tuple[str, dict[str, str], float, Any]
"""Suffix of the name, labels, value; and an exemplar (carrier/observe/meter.py), which OpenMetrics shows."""
