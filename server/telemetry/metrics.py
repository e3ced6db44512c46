"""Prometheus metrics of the gateway. Labels come from closed sets only, never from a client's text."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
FIRST_TOKEN = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
SHORT = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1)


class Metrics:
    """All metrics of one gateway, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self.requests = Counter(
            "suffice_requests",
            "Requests by route, model that upstream serves, and status.",
            ("route", "model", "code"),
            registry=r,
        )
        self.in_flight = Gauge("suffice_requests_in_flight", "Requests that are being answered.", registry=r)
        self.duration = Histogram(
            "suffice_request_duration_seconds",
            "From receipt to the last byte.",
            ("route",),
            buckets=SECONDS,
            registry=r,
        )
        self.first_token = Histogram(
            "suffice_time_to_first_token_seconds",
            "From receipt to the first token of the answer.",
            ("route",),
            buckets=FIRST_TOKEN,
            registry=r,
        )
        self.overhead = Histogram(
            "suffice_overhead_seconds",
            "From receipt to the first upstream request: parse, plan and reserve.",
            ("route",),
            buckets=SHORT,
            registry=r,
        )
        self.tokens = Counter(
            "suffice_tokens",
            "Tokens by kind: prompt, completion (all generated), thinking and cancelled (parts of it).",
            ("kind",),
            registry=r,
        )
        self.reserved = Counter(
            "suffice_reserved_tokens", "Tokens reserved before requests were sent upstream.", registry=r
        )
        self.overshoot = Counter(
            "suffice_budget_overshoot_tokens", "Tokens charged beyond a reservation; must stay 0.", registry=r
        )
        self.stops = Counter("suffice_stops", "Samples ended by a rule or a limit.", ("rule", "by"), registry=r)
        self.not_applied = Counter(
            "suffice_rules_not_applied", "Rules asked for that could not be applied.", ("rule",), registry=r
        )
        self.context_trimmed = Counter(
            "suffice_context_trimmed_tokens", "Tokens cut from conversations that were too long.", registry=r
        )
        self.refused = Counter("suffice_refused", "Requests refused before upstream was asked.", ("code",), registry=r)
        self.upstream_requests = Counter(
            "suffice_upstream_requests", "Generations started upstream: fresh, resumed.", ("kind",), registry=r
        )
        self.upstream_aborts = Counter(
            "suffice_upstream_aborts", "Upstream streams closed before their end, by cause.", ("cause",), registry=r
        )
        self.upstream_failures = Counter(
            "suffice_upstream_failures", "Upstream streams that failed, by error code.", ("code",), registry=r
        )
        self.upstream_up = Gauge("suffice_upstream_up", "Whether upstream answered when last asked.", registry=r)
        self.client_disconnects = Counter(
            "suffice_client_disconnects", "Clients that left before their answer was complete.", ("phase",), registry=r
        )
        self.loop_lag = Histogram(
            "suffice_event_loop_lag_seconds", "How late the event loop woke a timer.", buckets=SHORT, registry=r
        )
        self.verified = Counter(
            "suffice_verified",
            "Answers shown to a verifier: scored, unscored, late, failed.",
            ("verifier", "outcome"),
            registry=r,
        )
        self.judged = Counter(
            "suffice_judged",
            "Answers shown to a judge of equality: same, different, unclear, late, failed.",
            ("judge", "outcome"),
            registry=r,
        )
        self.audits = Counter(
            "suffice_audits",
            "Requests that ran in full: their rule would have kept or changed the answer, or it is unknown.",
            ("rule", "outcome"),
            registry=r,
        )
        self.drift_evidence = Gauge(
            "suffice_drift_evidence",
            "Evidence (an e-value) that a rule changes more answers than policies.audit_risk.",
            ("rule",),
            registry=r,
        )
        self.drift_alarm = Gauge(
            "suffice_drift_alarm", "Whether that evidence reached 100, at any time.", ("rule",), registry=r
        )
        self.admission_decisions = Counter(
            "suffice_admission_decisions",
            "Requests at the desk: admitted, queued, never_fits, queue_full, tenant_queue_full, deadline_unreachable, "
            "deadline_passed, unknown (no reading of the engine), off.",
            ("verdict",),
            registry=r,
        )
        self.queue_depth = Gauge("suffice_queue_depth", "Requests that wait, by class.", ("service",), registry=r)
        self.queue_wait = Histogram(
            "suffice_queue_wait_seconds",
            "Wait of those that had to wait, by class.",
            ("service",),
            buckets=SECONDS,
            registry=r,
        )
        self.engine_state_age = Gauge(
            "suffice_engine_state_age_seconds", "Age of the last reading of the engine.", registry=r
        )
        self.engine_scrapes = Counter(
            "suffice_engine_scrapes", "Readings of the engine's metrics: read, failed.", ("outcome",), registry=r
        )
        self.engine_requests = Gauge(
            "suffice_engine_requests", "Requests in the engine, as it tells: running, waiting.", ("state",), registry=r
        )
        self.engine_preemptions = Gauge(
            "suffice_engine_preemptions", "Preemptions since the engine's start, as it tells.", registry=r
        )
        self.kv_usable = Gauge("suffice_kv_usable_blocks", "KV blocks that requests can hold.", registry=r)
        self.kv_held = Gauge("suffice_kv_held_blocks", "KV blocks that requests hold, as the engine tells.", registry=r)
        self.kv_projected = Gauge(
            "suffice_kv_projected_blocks", "KV blocks at the projected peak of what is in flight.", registry=r
        )
        self.prices = Gauge(
            "suffice_price",
            "Gain that a unit must bring: a second of engine time, a KV block held for a second.",
            ("resource",),
            registry=r,
        )
        self.retractions = Counter(
            "suffice_retractions", "Bulk requests paused and resumed because of memory.", ("action",), registry=r
        )
        self.paused = Gauge("suffice_paused_requests", "Bulk requests that are paused now.", registry=r)
        self.block_seconds = Counter(
            "suffice_kv_block_seconds", "KV-block-seconds that requests took, by class.", ("service",), registry=r
        )
        self.config_info = Gauge("suffice_config_info", "The rules in force.", ("version",), registry=r)
        self.ledger_open = Gauge(
            "suffice_ledger_open_reservations", "Reservations that are not settled yet.", registry=r
        )
        self.ledger_reserves = Counter("suffice_ledger_reserves", "Reservations by outcome.", ("outcome",), registry=r)
        self.ledger_settles = Counter(
            "suffice_ledger_settles", "Settlements: first, duplicate, recovered.", ("kind",), registry=r
        )
        self.ledger_wait = Histogram(
            "suffice_ledger_wait_seconds",
            "Wait for a durable reservation or settlement.",
            ("op",),
            buckets=SHORT,
            registry=r,
        )
