"""The log of one replica: the tail that is still in memory, over stable storage.

         offset          applied    committed    stable   saved   last_index
    -------+----------------+-----------+-----------+-------+---------+
    compacted                                       |       |
    (snapshot, or the state machine has it)         |       handed to the WAL
                                                    known to be durable

Invariants: offset <= applied <= min(committed, stable); stable <= saved <= last_index.
`committed` may be beyond `stable`: others have made it durable.  Entries above `offset` are
in memory, at `offset` only the term is known, below nothing.  The WAL keeps a tail of its
own, which it lets go by what the state machine has made durable.

Truncation happens only where an entry of another term stands at the same index (R10), and
never at or below `committed`.  Source: Raft, 5.3; etcd's log and unstable.
"""

from __future__ import annotations

from collections.abc import Sequence

from objstore.raft.state_machine import Entry

ENTRY_OVERHEAD = 200  # What an Entry costs in memory beside its data, about.


class Log:
    """The tail, and the marks above."""

    def __init__(
        self, *, offset: int, offset_term: int, entries: Sequence[Entry] = ()
    ) -> None:
        """Begin with `entries`, all durable, right above `offset`."""
        self.offset = offset
        self.offset_term = offset_term
        self._entries: list[Entry] = list(entries)
        assert all(entry.index == offset + n for n, entry in enumerate(entries, 1))
        self.size = sum(len(entry.data) + ENTRY_OVERHEAD for entry in entries)
        self.last_index = offset + len(self._entries)
        self.stable = self.saved = self.last_index
        self.committed = self.applied = offset
        # Lowest index at which a conflict was cut since the last hand-over to the WAL.
        self.cut: int | None = None
        self.cuts = 0  # How often; tells whether a durable index is of this log still.

    @property
    def last_term(self) -> int:
        return self._entries[-1].term if self._entries else self.offset_term

    def term(self, index: int) -> int | None:
        """The term of the entry at `index`; None where it is not known (any more)."""
        position = index - self.offset
        if position == 0:
            return self.offset_term
        if 0 < position <= len(self._entries):
            return self._entries[position - 1].term
        return None

    def entry(self, index: int) -> Entry:
        return self._entries[index - self.offset - 1]

    def slice(
        self, first: int, last: int, *, entries_max: int, size_max: int
    ) -> list[Entry]:
        """Entries first .. last, as many as fit the bounds but one at least."""
        start = first - self.offset - 1
        assert start >= 0
        entries = self._entries[start : min(last - self.offset, start + entries_max)]
        if len(entries) == 1:
            return entries
        size = 0
        for count, entry in enumerate(entries):
            size += len(entry.data)
            if size > size_max and count > 0:
                return entries[:count]
        return entries

    def append(self, entries: Sequence[Entry]) -> None:
        """Append a leader's own entries."""
        last_index = self.last_index
        for entry in entries:
            last_index += 1
            assert entry.index == last_index
            self.size += len(entry.data) + ENTRY_OVERHEAD
        self._entries += entries
        self.last_index = last_index

    def merge(
        self, prev_index: int, prev_term: int, entries: Sequence[Entry]
    ) -> int | None:
        """Take entries from a leader; returns up to where the logs now agree.

        None if the entry at `prev_index` is not of `prev_term`.  Entries that we have are
        kept as they are, also those that follow: an old message takes nothing away.
        """
        if self.term(prev_index) != prev_term:
            return None
        if prev_index == self.last_index:  # Mostly: nothing to compare with.
            self.append(entries)
            return self.last_index
        for position, entry in enumerate(entries):
            if self.term(entry.index) != entry.term:
                self._cut(entry.index)
                self.append(entries[position:])
                break
        return prev_index + len(entries)

    def _cut(self, index: int) -> None:
        """Drop everything at and above `index`."""
        if index > self.last_index:
            return
        assert index > self.committed, "a committed entry may never be replaced"
        dropped = self._entries[index - self.offset - 1 :]
        del self._entries[index - self.offset - 1 :]
        self.last_index = index - 1
        self.size -= sum(len(entry.data) + ENTRY_OVERHEAD for entry in dropped)
        self.stable = min(self.stable, index - 1)
        self.saved = min(self.saved, index - 1)
        self.cut = index if self.cut is None else min(self.cut, index)
        self.cuts += 1

    def conflict_hint(self, index: int, term: int) -> tuple[int, int]:
        """The highest (index, term) of ours at or below both that `term` allows.

        A follower and its leader skip a whole term of disagreement by one exchange.
        """
        index = min(index, self.last_index)
        while index > self.offset:
            own = self._entries[index - self.offset - 1].term
            if own <= term:
                return index, own
            index -= 1
        return index, (self.offset_term if index == self.offset else 0)

    def commit_to(self, index: int) -> bool:
        """Advance `committed`; says whether it moved."""
        index = min(index, self.last_index)
        if index <= self.committed:
            return False
        self.committed = index
        return True

    def apply_to(self, index: int) -> None:
        assert self.applied <= index <= self.committed
        self.applied = index

    def is_newer_than(self, last_index: int, last_term: int) -> bool:
        """Whether our log is more up to date than one that ends so (Raft, 5.4.1)."""
        return (self.last_term, self.last_index) > (last_term, last_index)

    def compact(self, index: int) -> None:
        """Forget entries up to `index`, except its term."""
        assert index <= self.applied
        if index <= self.offset:
            return
        self.offset_term = self._entries[index - self.offset - 1].term
        count = index - self.offset
        dropped = self._entries[:count]
        del self._entries[:count]
        self.size -= sum(len(entry.data) + ENTRY_OVERHEAD for entry in dropped)
        self.offset = index

    def compaction_point(self, index: int, *, entries_kept: int, size_kept: int) -> int:
        """The highest index up to `index` that leaves about the given tail below it."""
        point = index
        size = 0
        while point > self.offset and index - point < entries_kept:
            size += len(self._entries[point - self.offset - 1].data) + ENTRY_OVERHEAD
            if size > size_kept:
                break
            point -= 1
        return point

    def reset(self, index: int, term: int) -> None:
        """A snapshot took the place of the log up to `index`.

        What follows in the log is kept if the entry at `index` is the snapshot's, else
        it is dropped as well (Raft, 7).
        """
        assert index > self.applied
        if self.term(index) == term:
            self.committed = max(self.committed, index)
            self.applied = index
            self.stable = max(self.stable, index)
            self.saved = max(self.saved, index)
            return
        assert index > self.committed, "a snapshot never contradicts what is committed"
        if self._entries:
            first = self.offset + 1
            self.cut = first if self.cut is None else min(self.cut, first)
        self.cuts += 1
        self._entries = []
        self.size = 0
        self.offset, self.offset_term = index, term
        self.last_index = index
        self.stable = self.saved = self.committed = self.applied = index

    def unsaved(self) -> list[Entry]:
        """Entries that the WAL has not been given yet."""
        return self._entries[self.saved - self.offset :]
