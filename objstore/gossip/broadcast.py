"""What to piggyback, and how often: news goes out a bounded number of times.

One piece of news a member: the latest replaces what is still queued.  Those told least
often go first (SWIM, 4.1); after about multiplier * log N times everybody has heard of it
with high probability, and it is dropped.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import attrs
from sortedcontainers import SortedKeyList

from objstore.ids import NodeId


@attrs.define(eq=False)
class _News:
    node: NodeId
    message: bytes
    number: int  # Order of arrival: newest first among those told equally often.
    told: int = 0


class BroadcastQueue:
    """News not yet told often enough."""

    def __init__(self) -> None:
        order: Callable[[_News], Any] = lambda news: (news.told, -news.number)  # noqa: E731
        make: Callable[..., Any] = SortedKeyList
        self._by_told = make(key=order)
        self._by_node: dict[NodeId, _News] = {}
        self._number = 0

    def __len__(self) -> int:
        return len(self._by_node)

    def __contains__(self, node: NodeId) -> bool:
        return node in self._by_node

    def put(self, node: NodeId, message: bytes) -> None:
        """Queue news about `node`, in place of older news about it."""
        self.drop(node)
        self._number += 1
        news = _News(node, message, self._number)
        self._by_node[node] = news
        self._by_told.add(news)

    def drop(self, node: NodeId) -> None:
        news = self._by_node.pop(node, None)
        if news is not None:
            self._by_told.remove(news)

    def take(self, size_max: int, *, members: int, multiplier: int) -> list[bytes]:
        """Messages for one packet, of at most `size_max` bytes together."""
        if not self._by_node:
            return []
        limit = told_max(members, multiplier)
        taken: list[_News] = []
        size = 0
        for news in self._by_told:
            if size + len(news.message) <= size_max:
                taken.append(news)
                size += len(news.message)
            if size_max - size < _MESSAGE_SIZE_MIN:
                break
        for news in taken:
            self._by_told.remove(news)
            news.told += 1
            if news.told < limit:
                self._by_told.add(news)
            else:
                del self._by_node[news.node]
        return [news.message for news in taken]


_SMALL_ROUNDS = 3  # What a thousand members have.
_MESSAGE_SIZE_MIN = 16  # Nothing shorter is ever news.


def told_max(members: int, multiplier: int) -> int:
    """How often one piece of news is sent by each that hears of it.

    More often than the logarithm says in a small cluster: where it is cut in part, the
    one member that both sides reach must be among those told (F18).
    """
    rounds = math.ceil(math.log10(members + 1))
    return multiplier * max(rounds, min(_SMALL_ROUNDS, members // 2))
