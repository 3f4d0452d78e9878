"""PURE. The series of `/metrics`: names, types, labels and texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

SERIES: Final[Mapping[str, tuple[str, tuple[str, ...], str]]] = {
    "http_requests": (
        "counter",
        ("route", "method", "code"),
        "Requests that have ended.",
    ),
    "http_request_duration_seconds": (
        "histogram",
        ("route", "method", "code"),
        "From the head of a request to the end of its reply.",
    ),
    "http_request_body_bytes": ("counter", ("route",), "Bodies received."),
    "http_response_bytes": ("counter", ("route",), "Heads and bodies sent."),
    "decisions": (
        "counter",
        ("route", "decision", "reason"),
        "Requests by decision and reason, as in the access log.",
    ),
    "session_check_duration_seconds": (
        "histogram",
        ("source",),
        "How long checks of sessions took.",
    ),
    "upstream_requests": ("counter", ("service", "code"), "Requests sent to services."),
    "upstream_request_duration_seconds": (
        "histogram",
        ("service",),
        "Until the head of a service's reply, without connecting.",
    ),
    "upstream_failures": (
        "counter",
        ("service", "reason"),
        "Requests that failed because of their service.",
    ),
    "mirrored_requests": (
        "counter",
        ("service", "to", "outcome"),
        "Copies of requests to another service.",
    ),
    "split_requests": (
        "counter",
        ("route", "service"),
        "Requests of split routes, by the service that got them.",
    ),
    "upstream_target_up": (
        "gauge",
        ("service", "target"),
        "1 if workers send requests to the target, 0 if none does.",
    ),
    "upstream_connections": (
        "gauge",
        ("target", "state"),
        "Connections to targets, and requests that wait for one.",
    ),
    "service_in_flight": (
        "gauge",
        ("service",),
        "Requests in progress, of services with limits.",
    ),
    "service_pending": (
        "gauge",
        ("service",),
        "Requests that wait for one of these to end.",
    ),
    "core_requests": ("counter", ("path", "outcome"), "Calls to the core."),
    "core_request_duration_seconds": (
        "histogram",
        ("path",),
        "How long the core took to answer.",
    ),
    "core_sign_ins_waiting": (
        "gauge",
        (),
        "Calls with a password that wait for a place (core.max_sign_in).",
    ),
    "keys_fetches": ("counter", ("outcome",), "Fetches of the core's signing keys."),
    "keys_age_seconds": ("gauge", (), "Age of the oldest key set of a worker."),
    "keys_usable_seconds": (
        "gauge",
        (),
        "How long every worker that accepts can verify tokens with its keys.",
    ),
    "token_cache_entries": ("gauge", (), "Tokens that are remembered as verified."),
    "denylist_entries": ("gauge", (), "Sessions that are refused since a sign-out."),
    "cert_not_after_seconds": (
        "gauge",
        ("listen", "name"),
        "When a certificate expires, in seconds since the epoch.",
    ),
    "client_connections": ("gauge", (), "Connected clients."),
    "http_active_requests": (
        "gauge",
        (),
        "Requests in progress, open WebSockets included.",
    ),
    "rate_limited": (
        "counter",
        ("policy",),
        "Requests that a rate limit has refused.",
    ),
    "websockets_active": ("gauge", (), "Open WebSockets."),
    "event_loop_lag_seconds": (
        "gauge",
        ("worker",),
        "The longest delay of a timer in the last 2 s.",
    ),
    "overload_refused_share": (
        "gauge",
        ("worker",),
        "The share of requests that a worker refuses, as it can't keep up.",
    ),
    "log_lines_lost": ("counter", (), "Lines of the access log that were lost."),
    "workers": ("gauge", ("state",), "Workers by state."),
    "worker_restarts": ("counter", ("cause",), "Workers that were replaced."),
    "hub_restarts": ("counter", (), "Hubs that were replaced."),
    "shared_store_connected": (
        "gauge",
        (),
        "1 while the gateway has all denials of the shared store, else 0.",
    ),
    "shared_denials": (
        "counter",
        ("direction",),
        "Denials sent to the shared store, and received of other gateways.",
    ),
    "shared_entries_skipped": (
        "counter",
        (),
        "Entries of the shared store that aren't of this gateway's format.",
    ),
    "shared_denials_waiting": (
        "gauge",
        (),
        "Denials of this gateway that the shared store doesn't have yet.",
    ),
    "shared_lag_seconds": (
        "gauge",
        (),
        "From a denial until it was read in the shared store, the last time.",
    ),
    "shared_rates_connected": (
        "gauge",
        (),
        "1 while rate limits are shared over the store, else 0.",
    ),
    "shared_rate_draws": (
        "counter",
        ("by",),
        "Draws of shared limits, decided by the store or without it.",
    ),
    "config_generation": ("gauge", (), "The number of the configuration that serves."),
    "config_last_reload_success": (
        "gauge",
        (),
        "1 if the configuration could be served when it was read last, else 0.",
    ),
    "config_last_reload_success_timestamp_seconds": (
        "gauge",
        (),
        "When the last configuration that can be served took over.",
    ),
    "build_info": ("gauge", ("version", "python"), "Always 1."),
    "process_cpu_seconds": ("counter", ("process",), "CPU time, user and system."),
    "process_resident_memory_bytes": ("gauge", ("process",), "Resident memory."),
    "process_open_fds": ("gauge", ("process",), "Open file descriptors."),
    "process_max_fds": ("gauge", ("process",), "The limit of file descriptors."),
}
"""Name without prefix → type, labels and text. Names of counters get `_total`."""
