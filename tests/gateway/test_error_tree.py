"""The trees of errors that the two modules draw are the classes that they define."""

import inspect
import re

import pytest
from suffice.policies import errors as policy_errors
from suffice.server import errors


def tree(kind, depth=0):
    """A class and all below it, depth first, in order of definition."""
    yield depth, kind
    for child in kind.__subclasses__():
        if child.__module__ == kind.__module__:
            yield from tree(child, depth + 1)


def drawn(module, root):
    """Lines of a module's drawing: depth, name, and the rest."""
    lines = inspect.getdoc(module).splitlines()
    start = next(number for number, line in enumerate(lines) if line.strip() == root)
    indent = len(lines[start]) - len(lines[start].lstrip())
    yield 0, root, ""
    for line in lines[start + 1 :]:
        found = re.match(r"^([| ]*)[|`]-- (\w+)\s*(.*)$", line[indent:])
        if found is None:
            return
        yield len(found[1]) // 4 + 1, found[2], found[3]


def test_the_gateways_tree_is_drawn_as_it_is():
    real = [(depth, kind.__name__) for depth, kind in tree(errors.ApiError)]
    shown = list(drawn(errors, "ApiError"))
    assert sorted((depth, name) for depth, name, _ in shown) == sorted(real)
    for _, name, rest in shown[1:]:
        kind = getattr(errors, name)
        status, code, *words = rest.split(maxsplit=2)
        assert kind.status == int(status)
        if name == "InvalidRequest":
            assert (kind.code, code) == ("invalid_value", "invalid_request_error")
        else:
            assert kind.code == code
        says = " ".join(words)
        assert kind.retryable == says.startswith("retryable")


def test_the_drawing_nests_children_under_their_parents():
    parents = {}
    for depth, name, _ in drawn(errors, "ApiError"):
        parents[depth] = name
        if depth:
            assert getattr(errors, name).__base__.__name__ == parents[depth - 1]


def test_the_policies_tree_is_drawn_as_it_is():
    real = sorted((depth, kind.__name__) for depth, kind in tree(policy_errors.PolicyError))
    shown = list(drawn(policy_errors, "PolicyError"))
    assert sorted((depth, name) for depth, name, _ in shown) == real
    for _, name, rest in shown[1:]:
        hint = int(re.search(r"hint (\d+)", rest)[1])
        assert getattr(policy_errors, name).status_hint == hint


@pytest.mark.parametrize("kind", [kind for _, kind in tree(errors.ApiError)], ids=lambda kind: kind.__name__)
def test_every_error_has_the_form_that_sdks_read(kind):
    error = kind("what happened", param="field", retry_after_s=1.2)
    body = error.body()["error"]
    assert body == {"message": "what happened", "type": kind.type, "param": "field", "code": kind.code}
    assert (error.headers()["retry-after"], error.headers()["retry-after-ms"]) == ("2", "1200")
    retried_by_sdks = kind.status in {408, 409, 429} or kind.status >= 500
    assert (error.headers().get("x-should-retry") == "false") == (retried_by_sdks and not kind.retryable)
    anthropic = error.anthropic_body()
    assert anthropic["type"] == "error"
    assert anthropic["error"]["message"] == "what happened"
    assert anthropic["error"]["type"].endswith(("_error", "_too_large"))
    assert kind("x", code="special").body()["error"]["code"] == "special"
