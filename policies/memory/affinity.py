"""Which replica gets a request: the one that likely holds its prefix, unless its memory is too full.

Prefixes are known by rolling hashes of the request's text, block by block; a bounded table remembers which replica saw
which. Where no replica knows the prefix, a rendezvous hash of it picks one, so that gateways that share nothing agree
and a replica's coming or going moves only its own share. What must not be here: health (``breaker``), I/O, text kept.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_DIGEST = 8
"""Bytes of a hash: at a million entries a collision, which would cost one cache miss, has odds of 3 in 100 million."""


def prefix_hashes(
    pieces: Iterable[str | bytes], *, salt: str = "", block_bytes: int = 1024, most: int = 256
) -> list[int]:
    """Rolling hashes of a prompt: the k-th stands for its first k blocks.

    Args:
        pieces: The prompt's parts in order, with whatever else decides about a cache hit (roles, tools) among them.
        salt: What keeps tenants and models apart.
        block_bytes: Bytes of a block of text; a kilobyte is some 250 tokens.
        most: Hashes at most; a longer prompt is told by its first blocks.

    Returns:
        One hash for each whole block; none for a prompt shorter than a block.
    """
    hashes: list[int] = []
    running = blake2b(salt.encode(), digest_size=_DIGEST)
    filled = 0
    for piece in pieces:
        data = piece.encode("utf-8", "surrogatepass") if isinstance(piece, str) else piece
        # A length before each piece, so that no two ways of parting a text collide.
        data = len(data).to_bytes(4, "big") + data
        start = 0
        while len(hashes) < most and filled + len(data) - start >= block_bytes:
            end = start + block_bytes - filled
            running.update(data[start:end])
            hashes.append(int.from_bytes(running.digest(), "big"))
            start, filled = end, 0
        if len(hashes) >= most:
            break
        running.update(data[start:])
        filled += len(data) - start
    return hashes


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """What is known of one replica at the moment of choice.

    Attributes:
        name: Its name, stable across restarts.
        usable_blocks: Blocks that its requests can hold.
        projected_blocks: The peak that its running and admitted requests are projected to reach.
        takes: Whether it may get requests at all (its breaker and its health say so).
    """

    name: str
    usable_blocks: int
    projected_blocks: int
    takes: bool = True

    def pressure(self, more: int) -> float:
        """Share of its memory that would be taken at the peak, with so many blocks more."""
        return (self.projected_blocks + more) / max(self.usable_blocks, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The chosen replica and why.

    Attributes:
        name: The replica.
        why: ``prefix``, ``rendezvous`` or ``memory``.
        matched: Blocks of text that it saw before.
    """

    name: str
    why: str
    matched: int


class PrefixTable:
    """Which replica saw which prefix, bounded: what was not asked for longest is forgotten.

    Args:
        most: Hashes remembered.
    """

    __slots__ = ("_most", "_seen")

    def __init__(self, most: int = 100_000) -> None:
        self._most = most
        self._seen: OrderedDict[int, tuple[str, ...]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._seen)

    def matched(self, hashes: Sequence[int]) -> dict[str, int]:
        """Leading blocks that each replica saw; replicas that saw none are absent."""
        found: dict[str, int] = {}
        alive: set[str] | None = None
        for depth, key in enumerate(hashes, start=1):
            names = self._seen.get(key, ())
            alive = set(names) if alive is None else alive.intersection(names)
            if not alive:
                break
            found.update(dict.fromkeys(alive, depth))
        return found

    def record(self, hashes: Sequence[int], name: str, *, replicas: int = 4) -> None:
        """A replica got a prompt.

        Args:
            hashes: The prompt's hashes.
            name: The replica.
            replicas: Replicas remembered for each prefix, the latest.
        """
        # From the end, so that a prefix is used later, and forgotten later, than what builds on it.
        for key in reversed(hashes):
            names = self._seen.pop(key, ())
            self._seen[key] = (name, *(other for other in names if other != name))[:replicas]
        while len(self._seen) > self._most:
            self._seen.popitem(last=False)

    def forget(self, name: str) -> None:
        """A replica restarted: its cache is empty. Takes time in the size of the table."""
        for key, names in list(self._seen.items()):
            if name in names:
                left = tuple(other for other in names if other != name)
                if left:
                    self._seen[key] = left
                else:
                    del self._seen[key]


def rendezvous(key: int, names: Iterable[str]) -> list[str]:
    """Names by their weight for a key, highest first (highest random weight hashing)."""
    data = key.to_bytes(_DIGEST, "big")
    return sorted(names, key=lambda name: blake2b(data + name.encode(), digest_size=_DIGEST).digest(), reverse=True)


def choose(
    replicas: Sequence[Replica],
    hashes: Sequence[int],
    table: PrefixTable,
    *,
    blocks: int = 0,
    headroom: float = 0.1,
    slack: float = 0.15,
) -> Choice | None:
    """Choose a replica. Does not change the table: record the choice once the request is sent.

    A replica on which the request would pass the memory's headroom is taken only where it passes on all. Among the rest
    a known prefix wins while its replica's pressure is within ``slack`` of the least pressed, times the share of the
    prompt that it knows; else the rendezvous choice, within the same slack; else the least pressed.

    Args:
        replicas: The replicas.
        hashes: The prompt's hashes.
        table: Who saw what.
        blocks: KV blocks that the request is projected to need at its peak.
        headroom: Share of memory kept free.
        slack: Difference in pressure that a whole known prompt makes up for.

    Returns:
        The choice, or None where no replica takes requests.
    """
    taking = [replica for replica in replicas if replica.takes]
    if not taking:
        return None
    roomy = [replica for replica in taking if replica.pressure(blocks) <= 1 - headroom] or taking
    pressure = {replica.name: replica.pressure(blocks) for replica in roomy}
    least = min(pressure.values())
    matched = table.matched(hashes)
    best = max(roomy, key=lambda replica: (matched.get(replica.name, 0), -pressure[replica.name], replica.name))
    depth = matched.get(best.name, 0)
    if depth and pressure[best.name] - least <= slack * depth / len(hashes):
        return Choice(name=best.name, why="prefix", matched=depth)
    first = rendezvous(hashes[0], pressure)[0] if hashes else ""
    if hashes and pressure[first] - least <= slack:
        return Choice(name=first, why="rendezvous", matched=matched.get(first, 0))
    calm = min(roomy, key=lambda replica: (pressure[replica.name], replica.name))
    return Choice(name=calm.name, why="memory", matched=matched.get(calm.name, 0))
