"""What a request asks for: the ``suffice`` field as types, checked before anything is sent.

Shapes and ranges are checked here; whether the limits make sense together, and under the operator's ceilings, only
the gateway can say. What must not be here: HTTP, and anything that the gateway answers.
"""

from __future__ import annotations

from typing import Any, Literal

import openai
from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict  # the metaclass of openai's parameter types, which are extended

FIELD = "suffice"
"""Name of the field in the request and in the answer."""


class _Asked(BaseModel):
    """Base of the request's types: immutable, strict about types, no unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_by_name=True)

    def to_wire(self) -> dict[str, Any]:
        """The JSON object that is sent: names as the gateway knows them, unset fields left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class Budget(_Asked):
    """Hard limits of one request. All are whole numbers; None leaves the limit to the operator and the preset.

    A request can lower an operator's ceiling and never raise it.
    """

    total_tokens: int | None = Field(default=None, ge=1)
    """Generated tokens of all samples, probes and cancelled work together."""
    thinking_tokens: int | None = Field(default=None, ge=0)
    """Tokens of any one sample's thought; 0 allows none."""
    answer_reserve: int | None = Field(default=None, ge=1)
    """Tokens of each sample that thinking may not touch, so that an answer always fits."""
    samples: int | None = Field(default=None, ge=1)
    """Samples drawn."""
    deadline_ms: int | None = Field(default=None, ge=1)
    """Milliseconds from receipt of the request to the end of the answer."""
    kv_block_seconds: int | None = Field(default=None, ge=1)
    """KV-cache blocks held, times seconds."""


class Sampling(_Asked):
    """When enough samples are drawn."""

    rule: str = Field(min_length=1)
    """Name of the rule, such as ``"curtailment"``."""
    delta: float | None = Field(default=None, gt=0, lt=1)
    """Accepted chance that stopping early changes the winner."""
    max: int | None = Field(default=None, ge=1)
    """Samples drawn at most."""
    wave: int | None = Field(default=None, ge=1)
    """Samples that run side by side."""
    return_: Literal["winner", "all"] | None = Field(
        default=None, validation_alias="return", serialization_alias="return"
    )
    """``"winner"`` answers with the winning sample only, ``"all"`` with every sample in launch order."""


class EarlyExit(_Asked):
    """When one sample has thought enough."""

    rule: str = Field(min_length=1)
    """Name of the rule, such as ``"convergence"``."""
    probe_first: int | None = Field(default=None, ge=1)
    """Tokens of thought before the first probe."""
    probe_growth: float | None = Field(default=None, ge=1)
    """Factor between the positions of two probes."""


class Answer(_Asked):
    """What an answer looks like, so that answers can be compared."""

    kind: str = Field(min_length=1)
    """Kind of answer, such as ``"number"``."""


class Options(_Asked):
    """The whole ``suffice`` field; for clients that take it by ``extra_body``.

        ChatOpenAI(model=..., extra_body=Options(budget=Budget(total_tokens=512)).extra_body())

    ``class_`` and, in ``Sampling``, ``return_`` carry an underscore because Python keeps the bare words for itself.
    """

    preset: str | None = Field(default=None, min_length=1)
    """Name of one of the operator's presets."""
    budget: Budget | None = None
    """Hard limits."""
    sampling: Sampling | None = None
    """When enough samples are drawn."""
    early_exit: EarlyExit | None = None
    """When one sample has thought enough."""
    answer: Answer | None = None
    """What an answer looks like."""
    class_: str | None = Field(default=None, min_length=1, validation_alias="class", serialization_alias="class")
    """Traffic class, such as ``"interactive"``."""
    train: Literal["allow", "deny"] | None = None
    """Whether this request may be learned from."""

    def extra_body(self) -> dict[str, Any]:
        """The field in its place, for the ``extra_body`` of any OpenAI client."""
        return {FIELD: self.to_wire()}

    def updated(self, changes: OptionParams) -> Options:
        """A copy in which each keyword of ``changes`` replaces what stood there; None clears it.

        Raises:
            pydantic.ValidationError: A value has the wrong type.
        """
        held = {name: getattr(self, name) for name in self.model_fields_set}
        return Options.model_validate({**held, **changes})


class OptionParams(TypedDict, total=False):
    """The keywords that ``create``, ``with_options`` and the clients take beside OpenAI's."""

    preset: str | None
    budget: Budget | None
    sampling: Sampling | None
    early_exit: EarlyExit | None
    answer: Answer | None
    class_: str | None
    train: Literal["allow", "deny"] | None


def take_options(params: dict[str, Any]) -> OptionParams:
    """Remove our keywords from ``params`` and return those that were given."""
    taken = {name: params.pop(name) for name in OptionParams.__annotations__ if name in params}
    given: Any = {name: value for name, value in taken.items() if not isinstance(value, openai.Omit | openai.NotGiven)}
    options: OptionParams = given
    return options


def cleared(changes: OptionParams) -> dict[str, Any]:
    """The wire form of ``changes`` in which a keyword set to None stays, as null, so that it clears a default.

    Raises:
        pydantic.ValidationError: A value has the wrong type.
    """
    asked = Options().updated(changes)
    names = {name: Options.model_fields[name].serialization_alias or name for name in asked.model_fields_set}
    wire = asked.to_wire()
    return {alias: wire.get(alias) for alias in names.values()}
