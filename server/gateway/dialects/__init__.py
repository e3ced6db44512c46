"""The APIs that vLLM serves natively, each with its own adapter in front of the same driver."""

from suffice.server.gateway.dialects.base import Dialect
from suffice.server.gateway.dialects.chat import ChatDialect
from suffice.server.gateway.dialects.completions import CompletionsDialect
from suffice.server.gateway.dialects.messages import MessagesDialect
from suffice.server.gateway.dialects.responses import ResponsesDialect

DIALECTS: tuple[Dialect, ...] = (ChatDialect(), CompletionsDialect(), ResponsesDialect(), MessagesDialect())

__all__ = ["DIALECTS", "Dialect"]
