"""Rules by name: what a request or a configuration asks for, checked against what each rule takes.

A rule's own parameters are the keyword arguments of its class, with their defaults and ranges; they are declared once,
here is only the machinery. What must not be here: any rule.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from suffice.policies.errors import InvalidBudget

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

R = TypeVar("R")
Value = int | float | str | bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One parameter of a rule.

    Attributes:
        default: Its value where nobody names one; its type is the parameter's. None stands for a float that is off.
        least: Smallest value allowed.
        most: Largest value allowed.
        choices: Values allowed, for a text.
        what: What it means, in one line, for references and forms.
    """

    default: Value | None
    least: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()
    what: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind(Generic[R]):
    """A rule that can be asked for.

    Attributes:
        name: Its name in requests, configurations and receipts.
        make: Builds one; takes the parameters and whatever its family passes beside them.
        parameters: What can be set.
        what: What it does, in one line.
        guarantee: What it promises, in one line.
    """

    name: str
    make: Callable[..., R]
    parameters: Mapping[str, Parameter]
    what: str
    guarantee: str


@dataclass(frozen=True, slots=True)
class Registry(Generic[R]):
    """The rules of one family.

    Attributes:
        path: Where their parameters stand in a request, for messages.
        kinds: Rules by name.
        field: Name of the field there that names the rule.
    """

    path: str
    kinds: Mapping[str, Kind[R]]
    field: str = "rule"

    def make(self, name: str, given: Mapping[str, Any], /, **family: Any) -> R:
        """A rule with its parameters.

        Args:
            name: The rule.
            given: Its parameters, as they came.
            family: What every rule of the family is built with.

        Raises:
            InvalidBudget: No such rule or parameter, or a value of a wrong type or out of range; names the nearest.
        """
        kind = self.kinds.get(name)
        if kind is None:
            raise InvalidBudget(
                f"no rule is named {name[:64]!r}{_nearest(name, self.kinds)}", param=f"{self.path}.rule"
            )
        for unknown in given.keys() - kind.parameters.keys():
            param = f"{self.path}.{unknown[:64]}"
            raise InvalidBudget(f"{name} takes no {unknown[:64]!r}{_nearest(unknown, kind.parameters)}", param=param)
        values = {
            key: _checked(given[key], parameter, f"{self.path}.{key}") if key in given else parameter.default
            for key, parameter in kind.parameters.items()
        }
        return kind.make(**values, **family)


def _nearest(name: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(sorted(known)) or 'none'}"


def _checked(value: Any, parameter: Parameter, param: str) -> Value | None:
    default = parameter.default
    if value is None and default is None:
        return None
    if isinstance(default, bool) or isinstance(value, bool):
        fits, wanted = isinstance(default, bool) and isinstance(value, bool), "true or false"
    elif isinstance(default, int):
        fits, wanted = isinstance(value, int), "a whole number"
    elif isinstance(default, str):
        fits, wanted = isinstance(value, str), "a text"
    else:
        fits, wanted = isinstance(value, int | float), "a number"
    if not fits:
        raise InvalidBudget(f"{param} must be {wanted}", param=param)
    if isinstance(value, int | float) and not isinstance(value, bool):
        low = parameter.least is not None and not value >= parameter.least
        if low or (parameter.most is not None and not value <= parameter.most):
            raise InvalidBudget(f"{param} must be from {parameter.least} to {parameter.most}", param=param)
    if parameter.choices and value not in parameter.choices:
        raise InvalidBudget(f"{param} must be one of {', '.join(parameter.choices)}", param=param)
    checked: Value = value
    return checked
