"""Errors of the pure layer: whose fault it was, and nothing about HTTP beyond a hint.

PolicyError
|-- InvalidBudget      the caller asked for something impossible        (hint 400)
|   `-- PromptTooLong  the prompt leaves no room in the model's context (hint 400)
|-- BadRecord          a log holds what nothing wrote                 (hint 400)
|-- UnknownModel       a model's configuration says too little of its KV cache (hint 400)
`-- IllegalEvent       the driver reported something that cannot happen (hint 500)
"""

from __future__ import annotations

from typing import ClassVar


class PolicyError(Exception):
    """Base of everything that ``suffice.policies`` raises."""

    status_hint: ClassVar[int] = 500


class InvalidBudget(PolicyError):
    """A request's limits contradict each other or leave no room for an answer.

    Attributes:
        param: Path of the offending field, as the caller wrote it.
    """

    status_hint = 400

    def __init__(self, message: str, *, param: str) -> None:
        super().__init__(message)
        self.param = param


class PromptTooLong(InvalidBudget):
    """The prompt fills the model's context."""


class BadRecord(PolicyError):
    """A record of an event log cannot be read, or says what cannot be."""

    status_hint = 400


class UnknownModel(PolicyError):
    """A model's configuration does not tell what its layers keep in the KV cache, or tells of a kind not known here."""

    status_hint = 400


class IllegalEvent(PolicyError):
    """An event that cannot follow what was reported before. Raised before anything is changed."""
