"""What one upstream can do, found out by asking it.

A few one-token requests at start-up tell what no list of versions could: whether the server accepts a thinking
budget, whether it schedules by priority, which tokens open and close a thought and whether a reader sees them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from suffice.policies.plan import ModelFacts
from suffice.server.engine.plugin.discovery import PLUGIN_PATH, Capabilities, read_capabilities
from suffice.server.errors import ApiError, UpstreamFailed

if TYPE_CHECKING:
    from suffice.server.config import UpstreamSection
    from suffice.server.gateway.upstream import Upstream

NO_PLUGIN = Capabilities(installed=False)

STEP_ENDS = ("\n", "\n\n", ".\n", ".\n\n", ".")

BYTES_OF_TEMPLATE = 64
"""Slack for what a template adds to a prompt beyond what the probe saw, in tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Thought:
    """Tokens around a thought.

    Attributes:
        start_id: Opens it.
        end_id: Closes it.
        close_ids: What the gateway appends to close one.
        close_text: The same as text.
        reopen_ids: What the gateway puts in the place of the closing token to have the model think on.
        reopen_text: The same as text.
        visible: Whether upstream shows the closing token in its text.
        step_ids: Tokens that end a line or a sentence, for rules that see no text.
    """

    start_id: int
    end_id: int
    close_ids: list[int]
    close_text: str
    visible: bool
    reopen_ids: list[int] = field(default_factory=list)
    reopen_text: str = ""
    step_ids: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """One model that upstream serves.

    Attributes:
        name: Its name towards upstream.
        context: Longest prompt and answer together, in tokens.
        thought: Its thinking tokens; None for a model without any.
        engine_cap: Whether the engine accepts a thinking budget.
        priority: Whether the engine schedules by priority.
        template_tokens: Tokens that the chat template adds to one short message.
        plugin: What suffice's plugin can do in the engine.
        card: What upstream's model list says of it.
    """

    name: str
    context: int | None
    thought: Thought | None
    engine_cap: bool
    priority: bool
    template_tokens: int
    plugin: Capabilities = NO_PLUGIN
    card: dict[str, Any]

    def facts(self) -> ModelFacts:
        """The same for the planner."""
        closing = 0 if self.thought is None else 1 + len(self.thought.close_ids)
        return ModelFacts(
            context=self.context,
            thinks=self.thought is not None,
            engine_cap=self.engine_cap,
            engine_signal=self.plugin.signals,
            engine_rules=frozenset(self.plugin.rules),
            close_tokens=closing,
        )


async def discover(upstream: Upstream, section: UpstreamSection) -> dict[str, Served]:
    """Ask an upstream about each model that it serves.

    Adapters share the facts of their base model, so each base is probed once.

    Raises:
        ApiError: Upstream cannot be reached or does not list its models.
    """
    cards = (await upstream.get_json("/v1/models")).get("data") or []
    plugin = await _plugin(upstream)
    bases: dict[str, Served] = {}
    served: dict[str, Served] = {}
    for card in sorted(cards, key=lambda card: card.get("parent") is not None):
        name = card["id"]
        if not isinstance(card.get("max_model_len"), int | None):
            raise UpstreamFailed("upstream's list of models cannot be understood")
        base = bases.get(card.get("parent") or "")
        if base is None:
            base = await _probe(upstream, section, name, card)
            bases[name] = base
        served[name] = Served(
            name=name,
            context=card.get("max_model_len") or base.context,
            thought=base.thought,
            engine_cap=base.engine_cap,
            priority=base.priority,
            template_tokens=base.template_tokens,
            plugin=plugin,
            card=card,
        )
    return served


async def _plugin(upstream: Upstream) -> Capabilities:
    try:
        return read_capabilities(await upstream.get_json(PLUGIN_PATH))
    except ApiError:
        return NO_PLUGIN


async def _probe(upstream: Upstream, section: UpstreamSection, name: str, card: dict[str, Any]) -> Served:
    start = await tokens_of(upstream, name, section.think_start)
    end = await tokens_of(upstream, name, section.think_end)
    thought = None
    if len(start) == 1 and len(end) == 1:
        status, shown = await upstream.try_json(
            "/v1/completions",
            {"model": name, "prompt": start, "max_tokens": 1, "allowed_token_ids": end, "temperature": 0},
        )
        endings = [await tokens_of(upstream, name, text) for text in STEP_ENDS]
        visible = status == _OK and section.think_end in shown["choices"][0]["text"]
        thought = Thought(
            start_id=start[0],
            end_id=end[0],
            close_ids=end,
            close_text=section.think_end,
            visible=visible,
            reopen_ids=await tokens_of(upstream, name, section.think_on),
            reopen_text=section.think_on,
            step_ids=sorted({ids[0] for ids in endings if len(ids) == 1}),
        )
    plain = {"model": name, "prompt": "a", "max_tokens": 1}
    capped, _ = await upstream.try_json("/v1/completions", plain | {"thinking_token_budget": 1})
    ranked, _ = await upstream.try_json("/v1/completions", plain | {"priority": 1})
    status, rendered = await upstream.try_json(
        "/tokenize", {"model": name, "messages": [{"role": "user", "content": "a"}]}
    )
    return Served(
        name=name,
        context=card.get("max_model_len"),
        thought=thought,
        engine_cap=capped == _OK,
        priority=ranked == _OK,
        template_tokens=rendered.get("count", 0) if status == _OK else 0,
        card=card,
    )


_OK = 200


async def tokens_of(upstream: Upstream, model: str, text: str) -> list[int]:
    """The tokens of a text; none where upstream does not tell."""
    if not text:
        return []
    status, answer = await upstream.try_json("/tokenize", {"model": model, "prompt": text, "add_special_tokens": False})
    return answer["tokens"] if status == _OK else []
