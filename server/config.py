"""The operator's file: one strict YAML, parsed into frozen models.

What a deployment may set lives here with its meaning and default. What must not be here: secrets (keys live in the
ledger's database, as HMACs) and decisions (``suffice.policies`` makes them from these numbers).
"""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - pydantic resolves it at run time
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from suffice.policies.allocation.price import PriceRule
from suffice.policies.budget import Budget
from suffice.policies.memory.retraction import RetractionRule
from suffice.server.gateway.field import (
    AnswerField,
    ContextField,
    EarlyExitField,
    SamplingField,
    WithParameters,
)

Tokens = Annotated[int, Field(ge=1)]


class Strict(BaseModel):
    """Base of all sections: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ServerSection(Strict):
    """Where the gateway listens and what it refuses at the door."""

    host: str = "127.0.0.1"
    port: int = 8080
    metrics_host: str = "127.0.0.1"
    metrics_port: int | None = Field(9090, description="Port of /metrics; null serves it on the API's port.")
    max_body_bytes: int = Field(8 * 1024 * 1024, ge=1024)
    max_connections: int = Field(4096, ge=1, description="Requests in flight; more are answered 503.")
    body_timeout_s: float = Field(30, gt=0, description="Time to receive a whole request body.")
    drain_s: float = Field(30, ge=0, description="Time for running answers to finish after SIGTERM.")
    allow_images: bool = Field(default=False, description="Pass image, audio and file parts to upstream.")
    batch_questions: int = Field(1000, ge=1, description="Questions of one batch.")
    batch_concurrency: int = Field(32, ge=1, description="Samples of one batch beside each other.")


class UpstreamSection(Strict):
    """One vLLM server."""

    url: str
    api_key: str | None = Field(None, description="env:NAME or file:PATH of a key that upstream wants.")
    connect_timeout_s: float = Field(5, gt=0)
    silence_timeout_s: float = Field(120, gt=0, description="Longest silence, before the first token or after it.")
    think_start: str = Field("<think>", description="Text of the token that opens a thought.")
    think_end: str = Field("</think>", description="Text of the token that closes it.")
    think_on: str = Field("\nWait,", description="Text that replaces the closing token to have the model think on.")
    probe_suffix: str = Field(
        "", description="Text after the closed thought that leads a probe straight to its answer."
    )


Url = Annotated[str, Field(pattern=r"^https?://[^\s/]+")]


class HttpVerifier(Strict):
    """A server that scores answers: it is sent ``{"request", "answer"}`` and says ``{"score": number}``."""

    kind: Literal["http"]
    url: Url
    api_key: str | None = Field(None, description="env:NAME or file:PATH of a bearer token that it wants.")
    timeout_s: float = Field(10, gt=0, le=600, description="An answer that takes longer goes without a score.")


class ScoreVerifier(Strict):
    """vLLM's score API with a reward or a cross-encoder model."""

    kind: Literal["score"]
    url: Url | None = Field(None, description="Base URL of that vLLM, without /v1; null for the upstream itself.")
    model: str
    path: Literal["/score", "/v1/score"] = "/score"
    api_key: str | None = Field(None, description="env:NAME or file:PATH of a key that it wants.")
    timeout_s: float = Field(10, gt=0, le=600, description="An answer that takes longer goes without a score.")


class SchemaVerifier(Strict):
    """Whether an answer is JSON that keeps to a schema: 1 or 0."""

    kind: Literal["json_schema"]
    form: dict[str, Any] | None = Field(
        None, alias="schema", description="JSON Schema; null for the one that the request itself asks for."
    )


class UnitTestVerifier(Strict):
    """Whether an answer's code passes a test: 1 or 0.

    The code runs as the gateway's user, with limits and without its environment, but with its view of files and
    network. It is no sandbox: use it only where whoever asks may run code on this machine anyway.
    """

    kind: Literal["unit_test"]
    run_untrusted_code: Literal[True] = Field(description="Must be true: models' code is run on this machine.")
    tests: Path = Field(description="Python file that is run after the answer's code, in the same module.")
    timeout_s: float = Field(10, gt=0, le=600, description="Wall time of one run; longer counts as failed.")
    cpu_s: int = Field(5, ge=1, description="CPU time of one run.")
    memory_mb: int = Field(512, ge=64, description="Address space of one run.")
    processes: int = Field(2, ge=1, description="Runs beside each other; more wait.")


Verifier = Annotated[HttpVerifier | ScoreVerifier | SchemaVerifier | UnitTestVerifier, Field(discriminator="kind")]


class JudgeSection(Strict):
    """A chat model on the upstream that says which answers mean the same."""

    model: str
    max_tokens: Tokens = Field(16, description="Tokens of one verdict, charged to the request as probe tokens.")
    timeout_s: float = Field(10, gt=0, le=600, description="A verdict that takes longer counts as 'different'.")
    thinks: bool = Field(default=False, description="Let the model think before it judges; needs more max_tokens.")


class Ceilings(Strict):
    """Limits that a request can lower and never raise."""

    total_tokens: Tokens | None = None
    sample_tokens: Tokens | None = None
    thinking_tokens: int | None = Field(None, ge=0)
    answer_reserve: Tokens | None = None
    samples: Tokens | None = None
    deadline_ms: Tokens | None = None
    kv_block_seconds: Tokens | None = None

    def budget(self) -> Budget:
        """The same limits for the pure layer."""
        return Budget(**self.model_dump())


class Preset(Strict):
    """A named set of limits and rules, chosen as ``model@preset``, by header or in the request field."""

    budget: Ceilings = Ceilings()
    sampling: SamplingField | None = None
    early_exit: EarlyExitField | None = None
    answer: AnswerField | None = None
    context: ContextField | None = Field(None, description="When conversations are cut; keys as in policies.context.")
    guards: dict[str, WithParameters] = Field({}, description="Guards beside the gateway's own, or in their place.")


class ModelSection(Strict):
    """Ceilings and effort table of one model."""

    ceilings: Ceilings = Ceilings()
    effort: dict[str, int | None] | None = None


Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]

DEFAULT_EFFORT: dict[str, int | None] = {
    "none": 0,
    "minimal": 128,
    "low": 512,
    "medium": 2048,
    "high": 8192,
    "xhigh": 16384,
    "max": None,
}


class PoliciesSection(Strict):
    """Rules of the whole gateway."""

    ceilings: Ceilings = Ceilings()
    effort: dict[Effort, int | None] = Field(
        default=DEFAULT_EFFORT,  # type: ignore[arg-type]
        description="Thinking tokens of each reasoning_effort; null leaves thinking uncapped but for the reserve.",
    )
    answer_reserve: Tokens = Field(256, description="Tokens kept back for the answer where nobody names a reserve.")
    default_preset: str = "balanced"
    sampling: SamplingField | None = Field(None, description="Sampling rule of requests that name none.")
    early_exit: EarlyExitField | None = Field(None, description="Early-exit rule of requests that name none.")
    answer: AnswerField | None = Field(None, description="Kind of answer of requests that name none.")
    context: ContextField = ContextField()
    guards: dict[str, WithParameters] = Field({}, description="Rules beside them, by name, with their parameters.")
    verifiers: dict[str, Verifier] = Field({}, description="What can score answers, by the name that requests use.")
    judges: dict[str, JudgeSection] = Field({}, description="What can tell equal answers, by name.")
    audit_share: float = Field(
        0.01, ge=0, le=1, description="Share of requests that run in full, to see what their rule would have changed."
    )
    audit_risk: float = Field(
        0.05, gt=0, lt=1, description="Share of answers that a rule may change; audits raise an alarm beyond it."
    )


class LedgerSection(Strict):
    """How accounts are kept."""

    synchronous: Literal["full", "normal"] = "full"
    checkpoint_tokens: Tokens = 256


class RetractionSection(Strict):
    """When bulk generations are paused and resumed; shares are of the usable KV memory at the projected peak."""

    high: float = Field(0.95, gt=0, le=1, description="Share above which bulk work is paused.")
    low: float = Field(0.80, gt=0, le=1, description="Share below which it resumes.")
    pauses: int = Field(2, ge=1, description="Times that one request may be paused.")
    grace_s: float = Field(2, ge=0, description="Seconds that it runs untouched after its start and each resumption.")
    longest_pause_s: float = Field(60, gt=0, description="Seconds after which a pause ends as soon as there is room.")

    def rule(self) -> RetractionRule:
        """The same for the pure layer."""
        return RetractionRule(**self.model_dump())


class PriceSection(Strict):
    """How the prices of engine time and KV memory move."""

    queue_s: float = Field(1, gt=0, description="Wait that is aimed at; above it engine time gets dearer.")
    kv_pressure: float = Field(0.85, gt=0, le=1, description="Projected share of KV memory that is aimed at.")
    rate: float = Field(0.2, gt=0, description="Speed of the prices: logarithmic steps a second at twice the aim.")

    def rule(self) -> PriceRule:
        """The same for the pure layer."""
        return PriceRule(**self.model_dump())


class KvSection(Strict):
    """Who may start, by the engine's KV memory; who waits; what gives way."""

    admission: Literal["off", "projected"] = Field(
        "projected", description="off lets every request through at once; projected admits by the projected peak."
    )
    headroom: float = Field(0.05, ge=0, lt=1, description="Share of the memory that the projected peak leaves free.")
    length_quantile: float | None = Field(
        None, gt=0, lt=1, description="Quantile of past lengths that a sample is projected by; null for the mean."
    )
    when_stale: Literal["fail_open", "fail_closed", "hold_last"] = Field(
        "fail_open", description="What holds once the engine's state is older than stale_s."
    )
    stale_s: float = Field(5, gt=0)
    scrape_s: float = Field(0.5, gt=0, description="Seconds between readings of the engine's metrics.")
    queue: int = Field(4096, ge=0, description="Requests that may wait.")
    queue_per_tenant: int = Field(1024, ge=0, description="Requests of one team or key that may wait.")
    retraction: RetractionSection | None = Field(RetractionSection(), description="null pauses nobody.")
    price: PriceSection | None = Field(PriceSection(), description="null keeps prices at zero.")


class TelemetrySection(Strict):
    """What is reported about requests; never their text."""

    event_log: bool = Field(default=True, description="Write one line an event to <data-dir>/events.jsonl.")
    event_log_chunks: bool = Field(default=False, description="Log every chunk's counts too.")


class Config(Strict):
    """The whole file."""

    version: Literal[1] = 1
    server: ServerSection = ServerSection()
    upstreams: tuple[UpstreamSection, ...] = ()
    models: dict[str, ModelSection] = {}
    presets: dict[str, Preset] = {
        "frugal": Preset(budget=Ceilings(sample_tokens=1024, thinking_tokens=256)),
        "balanced": Preset(budget=Ceilings(sample_tokens=4096)),
        "thorough": Preset(budget=Ceilings(sample_tokens=16384)),
    }
    policies: PoliciesSection = PoliciesSection()
    ledger: LedgerSection = LedgerSection()
    kv: KvSection = KvSection()
    telemetry: TelemetrySection = TelemetrySection()


class ConfigError(Exception):
    """The file cannot be used; the message says where and why, one line a fault."""


def load(path: Path) -> Config:
    """Read a configuration file.

    Raises:
        ConfigError: Unreadable, not YAML, or not what the models say.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: {error}") from error
    return parse({} if data is None else data, name=str(path))


def parse(data: Any, *, name: str = "configuration") -> Config:
    """Check parsed YAML.

    Raises:
        ConfigError: With one line a fault, each naming its key.
    """
    try:
        config = Config.model_validate(data)
    except ValidationError as error:
        lines = [f"{name}: {'.'.join(map(str, fault['loc'])) or '(top)'}: {fault['msg']}" for fault in error.errors()]
        raise ConfigError("\n".join(lines)) from error
    if config.policies.default_preset not in config.presets:
        raise ConfigError(f"{name}: policies.default_preset: no preset is named {config.policies.default_preset!r}")
    return config
