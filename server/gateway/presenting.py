"""How many samples become one answer: each is built apart and held, and only the winner is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from suffice.policies.decisions import Open
    from suffice.server.gateway.dialects.base import Answer, Segment


class WinnerAnswer:
    """An ``Answer`` that holds every sample's bytes until one is chosen.

    Args:
        build: Makes the builder of one sample's answer.
    """

    def __init__(self, build: Callable[[], Answer]) -> None:
        self._build = build
        self._answers: dict[int, Answer] = {}
        self._held: dict[int, list[bytes]] = {}
        self._winner = 0

    def _of(self, sample: int) -> Answer:
        answer = self._answers.get(sample)
        if answer is None:
            answer = self._answers[sample] = self._build()
            self._held[sample] = []
        return answer

    def _hold(self, sample: int, data: bytes) -> bytes:
        if data:
            self._held[sample].append(data)
        return b""

    def choose(self, sample: int) -> None:
        """Name the sample that is shown."""
        self._winner = sample
        for other in self._held.keys() - {sample}:
            self._held[other].clear()

    def frame(self, segment: Segment, event: bytes, frame: dict[str, Any]) -> bytes:
        """Hold one upstream frame."""
        return self._hold(segment.sample, self._of(segment.sample).frame(segment, event, frame))

    def reopened(self, segment: Segment, opened: Open) -> bytes:
        """Hold what marks a resumed sample."""
        data = self._of(segment.sample).reopened(segment, opened)
        return self._hold(segment.sample, data)

    def sample_done(self, segment: Segment, finish: str) -> bytes:
        """Hold a sample's end."""
        return self._hold(segment.sample, self._of(segment.sample).sample_done(segment, finish))

    def last(self, receipt: dict[str, Any], usage: dict[str, int]) -> bytes:
        """The winner, and the end of the stream."""
        answer = self._of(self._winner)
        return b"".join(self._held[self._winner]) + answer.last(receipt, usage)

    def broken(self, error: dict[str, Any]) -> bytes:
        """The end of a stream that failed."""
        return self._of(self._winner).broken(error)

    def whole(self, receipt: dict[str, Any], usage: dict[str, int]) -> dict[str, Any]:
        """The winner in one body."""
        return self._of(self._winner).whole(receipt, usage)
