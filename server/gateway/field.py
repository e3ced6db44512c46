"""The request's ``suffice`` field: strict, so that a misspelt limit is an error and not a surprise."""

from __future__ import annotations

import difflib
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from suffice.policies.budget import Budget
from suffice.server.errors import InvalidRequest, UnknownSufficeKey

Positive = Annotated[int, Field(ge=1, le=2**53, strict=True)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class BudgetField(_Strict):
    """Hard limits of one request; see ``suffice.policies.budget.Budget`` for their meaning."""

    total_tokens: Positive | None = None
    thinking_tokens: Annotated[int, Field(ge=0, le=2**53, strict=True)] | None = None
    answer_reserve: Positive | None = None
    samples: Positive | None = None
    deadline_ms: Positive | None = None
    kv_block_seconds: Positive | None = None


class WithParameters(BaseModel):
    """A rule and its parameters; which ones there are is the rule's to say, so names are checked when it is made."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    def parameters(self) -> dict[str, Any]:
        """The rule's own parameters."""
        return dict(self.__pydantic_extra__ or {})


class SamplingField(WithParameters):
    """When enough samples are drawn; see ``suffice.policies.sampling`` for the rules and their parameters."""

    rule: Annotated[str, Field(max_length=64)] = "curtailment"
    most: Positive = Field(16, alias="max")
    wave: Positive = 4
    returns: Literal["winner", "all"] = Field("winner", alias="return")
    verifier: Annotated[str, Field(max_length=64)] | None = None


class EarlyExitField(WithParameters):
    """When one sample has thought enough; see ``suffice.policies.stopping``."""

    rule: Annotated[str, Field(max_length=64)] = "convergence"
    suffix: Annotated[str, Field(max_length=200)] | None = None
    home: Literal["auto", "gateway"] = "auto"


class AnswerField(WithParameters):
    """What an answer looks like, so that answers can be compared; see ``suffice.policies.answers``."""

    kind: Annotated[str, Field(max_length=64)] = "exact"


class ContextField(_Strict):
    """When a long conversation is cut, and what stays; see ``suffice.policies.memory.trim``."""

    trim: Literal["off", "auto"] | None = Field(
        None, description="Whether conversations that are too long are cut; off where nobody says."
    )
    max_tokens: Positive | None = Field(
        None, description="Tokens of a prompt beyond which it is cut; at most what the model's context leaves."
    )
    first: Annotated[int, Field(ge=0, le=4096, strict=True)] | None = Field(
        None, description="Messages after the system prompt that always stay; 2 where nobody says."
    )
    recent: Annotated[int, Field(ge=1, le=4096, strict=True)] | None = Field(
        None, description="Messages at the end that stay whole as long as anything else can go; 6 where nobody says."
    )
    result_tokens: Annotated[int, Field(ge=64, le=2**53, strict=True)] | None = Field(
        None, description="Tokens that a shortened tool result keeps; 128 where nobody says."
    )

    @field_validator("trim", mode="before")
    @classmethod
    def _off(cls, value: Any) -> Any:
        """YAML reads a bare ``off`` as false."""
        return "off" if value is False else value


class SufficeField(_Strict):
    """The whole field."""

    preset: Annotated[str, Field(max_length=64)] | None = None
    budget: BudgetField = BudgetField()
    sampling: SamplingField | None = None
    early_exit: EarlyExitField | None = None
    answer: AnswerField | None = None
    context: ContextField | None = None
    service_class: Literal["interactive", "default", "bulk"] = Field("default", alias="class")
    train: Literal["allow", "deny"] = "allow"

    def limits(self) -> Budget:
        """The budget for the pure layer."""
        return Budget(**self.budget.model_dump())


EMPTY = SufficeField.model_validate({})


def parse_field(value: Any) -> SufficeField:
    """Check the field.

    Raises:
        UnknownSufficeKey: A key that does not exist; the message suggests the nearest one.
        InvalidRequest: A value of a wrong type or out of range.
    """
    if value is None:
        return EMPTY
    if not isinstance(value, dict):
        raise InvalidRequest("suffice must be an object", param="suffice", code="invalid_type")
    try:
        return SufficeField.model_validate(value)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        path = ".".join(["suffice", *map(str, fault["loc"])])
        if fault["type"] == "extra_forbidden":
            raise UnknownSufficeKey(_unknown(path, fault["loc"]), param=path) from None
        raise InvalidRequest(f"{path}: {fault['msg']}", param=path) from None


def _unknown(path: str, location: tuple[int | str, ...]) -> str:
    sections: dict[int | str, type[BaseModel]] = {"budget": BudgetField, "context": ContextField}
    model = sections.get(location[0], SufficeField) if len(location) > 1 else SufficeField
    known = [info.alias or name for name, info in model.model_fields.items()]
    return f"unknown key {path}{did_you_mean(str(location[-1]), known)}"


def did_you_mean(name: str, known: list[str]) -> str:
    """``; did you mean X?`` for the nearest known name, or nothing."""
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {nearest[0]!r}?" if nearest else f"; known keys are {', '.join(sorted(known))}"
