"""Layouts: who is in the cluster and what each holds, at one epoch.

    Layout, epoch 7
      members        sorted by node id: weight, zone > rack > host, addresses, state
      slot ranges    which shard keeps which slots of the key space
      tables         for each width in use: partition -> the members that hold it
      voters         shard -> the members that vote in its group

A change is a pure function: `with_member(layout, ...)` and the like return the layout of
the next epoch, with tables computed from the ones before so that little moves.  Whoever
proposes the change computes them, once; the record that is replicated carries all of it,
so every node that decodes it has the same answer (`objstore.ring.ring.Ring`).  Computing
takes some tenths of a second of CPU.

A member's place in the sorted members is its *index* in the tables.  An index equal to the
count of members means nobody.  The encoded form is described byte by byte in
docs/internals/formats/layout.md; it fits one Raft entry at 1,000 nodes.
"""

from __future__ import annotations

import sys
import zlib
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal, get_args

import attrs
import msgpack

from objstore.errors import CorruptData, InvalidRequest, NotFound
from objstore.ids import Epoch, NodeId, ShardId, Slot, is_node_id
from objstore.limits import ENTRY_SIZE_MAX, SHARD_COUNT, SLOT_COUNT, VOTERS_MAX
from objstore.ring.assign import assign
from objstore.ring.domains import Leaf
from objstore.ring.exchange import NOBODY

State = Literal["active", "draining", "dead"]
STATES: tuple[State, ...] = get_args(State)

# Fixed at a cluster's birth.  At 1,000 nodes and three copies a node holds 49 of them, so
# one partition is 2% of its share: as much as a share may be off anyway.
# docs/decisions/0011 weighs it.
PARTITION_COUNT = 16_384

# The widths that a new cluster has tables for: replicate:3, ec:4+2, ec:6+3.
WIDTHS = (3, 6, 9)

MEMBERS_MAX = 4096  # Four times what is promised; an index needs 13 of its 16 bits.
PARTITION_COUNT_MAX = 65_536
TABLE_WIDTH_MAX = 32
TABLE_WIDTHS_MAX = 32
WEIGHT_MAX = 1 << 50  # An EiB, counted in KiB; sums of these stay exact in a float.
LABEL_SIZE_MAX = 64  # Bytes of a zone's, rack's or host's name.
ADDRESS_SIZE_MAX = 300  # Bytes: a DNS name of 253, and the port.

FORMAT = 1
_COMPRESSION_LEVEL = 6

# msgpack's stubs lack types: named once, with what they are.
_packb: Callable[..., bytes] = msgpack.packb
_unpackb: Callable[..., Any] = msgpack.unpackb  # type: ignore[attr-defined]


class CorruptLayout(CorruptData):
    """The bytes of a layout make no sense."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"layout: {reason}")
        self.reason = reason


class BadLayout(InvalidRequest):
    """A layout that was asked for cannot be."""


@attrs.frozen
class Member:
    """A node's entry in the layout."""

    node: NodeId
    weight: int  # Capacity, in any one unit for all members (GiB); 0 holds no data.
    zone: str = ""  # Failure domains, each inside the one before; "" is a name like others.
    rack: str = ""
    host: str = ""
    cluster_address: str = ""  # host:port of rpc and gossip.
    s3_address: str = ""  # host:port of the front door.
    # draining: gives up its data; dead: its data is given up.  Neither votes nor gets data.
    state: State = "active"
    joined: int = 0  # UTC milliseconds; for people.

    @property
    def holds_data(self) -> bool:
        return self.weight > 0 and self.state == "active"

    @property
    def votes(self) -> bool:
        return self.state == "active"

    @property
    def domains(self) -> tuple[str, str, str]:
        return (self.zone, self.rack, self.host)


@attrs.frozen
class SlotRange:
    """A run of slots that one shard keeps."""

    first: Slot
    count: int
    shard: ShardId


@attrs.frozen
class Table:
    """Rows of member indexes: row p, place i is the member that holds fragment i."""

    width: int
    cells: bytes = attrs.field(repr=False)  # u16le: rows x width.

    @property
    def row_count(self) -> int:
        return len(self.cells) // (2 * self.width)

    def indexes(self) -> array[int]:
        """All cells as numbers, row by row."""
        cells = array("H", self.cells)
        if sys.byteorder == "big":
            cells.byteswap()
        return cells

    @classmethod
    def of(cls, width: int, indexes: Iterable[int]) -> Table:
        cells = array("H", indexes)
        assert cells.itemsize == 2
        if sys.byteorder == "big":
            cells.byteswap()
        return cls(width, cells.tobytes())


@attrs.frozen
class Layout:
    """The consistent record of one epoch."""

    epoch: Epoch
    members: tuple[Member, ...]  # Sorted by node id, which is unique.
    partition_count: int  # Fixed at birth; a power of two.
    slot_shards: tuple[SlotRange, ...]  # Sorted; covers every slot once.
    tables: tuple[Table, ...]  # Sorted by width: partition -> holders.
    voters: Table  # Shard (0 is the cluster shard) -> voters.

    # Derived

    @cached_property
    def _by_node(self) -> dict[NodeId, Member]:
        return {member.node: member for member in self.members}

    @cached_property
    def _range_starts(self) -> list[int]:
        return [slots.first for slots in self.slot_shards]

    @cached_property
    def _by_width(self) -> dict[int, Table]:
        return {table.width: table for table in self.tables}

    @property
    def widths(self) -> tuple[int, ...]:
        """The widths that have a table of their own, ascending."""
        return tuple(table.width for table in self.tables)

    @property
    def shard_count(self) -> int:
        """Shards of objects: 1 .. shard_count; the cluster shard, 0, is one more."""
        return self.voters.row_count - 1

    def find(self, node: NodeId) -> Member | None:
        return self._by_node.get(node)

    def member(self, node: NodeId) -> Member:
        """The member `node`.  Raises NotFound."""
        found = self._by_node.get(node)
        if found is None:
            raise NotFound(f"node {node} is not in the layout of epoch {self.epoch}")
        return found

    def table(self, width: int) -> Table | None:
        return self._by_width.get(width)

    def shard_of(self, slot: Slot) -> ShardId:
        """The shard that keeps `slot`."""
        assert 0 <= slot < SLOT_COUNT
        return self.slot_shards[bisect_right(self._range_starts, slot) - 1].shard

    def slots_of(self, shard: ShardId) -> tuple[SlotRange, ...]:
        return tuple(slots for slots in self.slot_shards if slots.shard == shard)


# Changes


def found(
    members: Iterable[Member],
    *,
    partition_count: int = PARTITION_COUNT,
    widths: Iterable[int] = WIDTHS,
    shard_count: int = SHARD_COUNT,
) -> Layout:
    """The layout of epoch 1.  Raises BadLayout."""
    if not 1 <= shard_count <= SLOT_COUNT:
        raise BadLayout(f"{shard_count} shards: allowed are 1 to {SLOT_COUNT}")
    empty = Layout(
        epoch=Epoch(0),
        members=(),
        partition_count=partition_count,
        slot_shards=_even_ranges(shard_count),
        tables=(),
        voters=Table.of(1, [0] * (shard_count + 1)),
    )
    return _next(empty, members=members, widths=widths)


def with_members(layout: Layout, members: Iterable[Member]) -> Layout:
    """Add `members`, or put them in the place of those of the same id.

    This and the functions below return the layout of the next epoch, or `layout` itself
    if nothing would change.  They raise BadLayout for what cannot be.
    """
    changed = {member.node: member for member in layout.members}
    changed |= {member.node: member for member in members}
    return _next(layout, members=changed.values())


def with_member(layout: Layout, member: Member) -> Layout:
    """Add one member, or change its weight, domains, state or addresses."""
    return with_members(layout, (member,))


def without_member(layout: Layout, node: NodeId) -> Layout:
    """Take a member out.  Raises NotFound if there is none."""
    layout.member(node)
    return _next(layout, members=(m for m in layout.members if m.node != node))


def with_member_state(layout: Layout, node: NodeId, state: State) -> Layout:
    """Set a member's state.  Raises NotFound."""
    return with_member(layout, attrs.evolve(layout.member(node), state=state))


def with_address(
    layout: Layout,
    node: NodeId,
    *,
    cluster_address: str | None = None,
    s3_address: str | None = None,
) -> Layout:
    """Set a member's addresses; None keeps what is there.  Raises NotFound."""
    member = layout.member(node)
    if cluster_address is not None:
        member = attrs.evolve(member, cluster_address=cluster_address)
    if s3_address is not None:
        member = attrs.evolve(member, s3_address=s3_address)
    return with_member(layout, member)


def with_widths(layout: Layout, widths: Iterable[int]) -> Layout:
    """Keep tables for `widths`, and no others.

    A width that gets a table afresh is laid out anew; chunks that were placed without one
    stay where their epoch says.
    """
    return _next(layout, members=layout.members, widths=widths)


def with_slots(layout: Layout, slot_shards: Sequence[SlotRange]) -> Layout:
    """Let other shards keep some slots.  The number of shards may grow, never shrink."""
    shard_count = max([layout.shard_count, *(slots.shard for slots in slot_shards)])
    added = [len(layout.members)] * (shard_count - layout.shard_count) * layout.voters.width
    voters = Table.of(layout.voters.width, [*layout.voters.indexes(), *added])
    regrouped = attrs.evolve(layout, slot_shards=tuple(slot_shards), voters=voters)
    return _next(regrouped, members=layout.members, before=layout)


def _next(
    layout: Layout,
    *,
    members: Iterable[Member],
    widths: Iterable[int] | None = None,
    before: Layout | None = None,
) -> Layout:
    members = tuple(sorted(members, key=lambda member: member.node))
    wanted = sorted(set(layout.widths if widths is None else widths))
    if len(members) > MEMBERS_MAX:
        raise BadLayout(f"{len(members)} members: at most {MEMBERS_MAX} are allowed")
    voting = sum(member.votes for member in members)
    if not voting:
        raise BadLayout("no active node would be left")
    epoch = Epoch(layout.epoch + 1)
    renumbering = _Renumbering(layout.members, members)
    tables = tuple(
        renumbering.reassign(
            layout.table(width),
            lambda member: member.weight if member.holds_data else 0,
            width=width,
            row_count=layout.partition_count,
            seed=epoch * TABLE_WIDTH_MAX + width,
        )
        for width in _checked_widths(wanted)
    )
    voters = renumbering.reassign(
        layout.voters if layout.members else None,
        lambda member: int(member.votes),
        width=_voter_count(voting),
        row_count=layout.voters.row_count,
        seed=epoch,
    )
    changed = attrs.evolve(
        layout, epoch=epoch, members=members, tables=tables, voters=voters
    )
    if attrs.evolve(changed, epoch=layout.epoch) == (before or layout):
        return before or layout
    if reason := _fault(changed):
        raise BadLayout(f"layout: {reason}")
    return changed


def _checked_widths(widths: Sequence[int]) -> Sequence[int]:
    if any(not 1 <= width <= TABLE_WIDTH_MAX for width in widths):
        raise BadLayout(f"widths {list(widths)}: allowed are 1 to {TABLE_WIDTH_MAX}")
    return widths


def _voter_count(eligible: int) -> int:
    """The largest odd number that is neither above VOTERS_MAX nor above `eligible`."""
    count = min(VOTERS_MAX, eligible)
    return max(1, count - 1 + count % 2)


def _even_ranges(shard_count: int) -> tuple[SlotRange, ...]:
    starts = [SLOT_COUNT * number // shard_count for number in range(shard_count + 1)]
    return tuple(
        SlotRange(Slot(first), end - first, ShardId(number + 1))
        for number, (first, end) in enumerate(pairwise(starts))
    )


class _Renumbering:
    """From the indexes of one layout's members to those of the next."""

    def __init__(self, before: Sequence[Member], members: Sequence[Member]) -> None:
        self._before = before
        self._members = members
        index = {member.node: number for number, member in enumerate(members)}
        self._new_index = [index.get(member.node) for member in before]

    def reassign(
        self,
        table: Table | None,
        weight_of: Callable[[Member], int],
        *,
        width: int,
        row_count: int,
        seed: int,
    ) -> Table:
        """Compute the next table from `table`; members whose weight is 0 are not in it."""
        if table is not None and table.width == width:
            was = [(m.node, m.domains, weight_of(m)) for m in self._before]
            if was == [(m.node, m.domains, weight_of(m)) for m in self._members]:
                return table
        weights = [weight_of(member) for member in self._members]
        chosen = [number for number, weight in enumerate(weights) if weight > 0]
        leaves = [Leaf(weights[number], self._members[number].domains) for number in chosen]
        before = None if table is None else self._leaf_rows(table, chosen, width)
        cells = assign(leaves, before, width=width, partitions=row_count, seed=seed)
        names = [*chosen, len(self._members)]  # NOBODY, -1, names the last.
        return Table.of(width, [names[leaf] for leaf in cells])

    def _leaf_rows(
        self, table: Table, chosen: Sequence[int], width: int
    ) -> list[list[int]]:
        """The rows of `table` in leaf numbers, `width` places or more each."""
        leaf_of = {number: leaf for leaf, number in enumerate(chosen)}
        to_leaf = [
            NOBODY if new is None else leaf_of.get(new, NOBODY) for new in self._new_index
        ]
        to_leaf.append(NOBODY)
        cells = [to_leaf[index] for index in table.indexes()]
        pad = [NOBODY] * (width - table.width)
        starts = range(0, len(cells), table.width)
        return [cells[start : start + table.width] + pad for start in starts]


# Validation


def _fault(layout: Layout) -> str | None:
    """Why a layout cannot be, or None."""
    members, count = layout.members, layout.partition_count
    nodes = [member.node for member in members]
    if layout.epoch < 1 or not 1 <= count <= PARTITION_COUNT_MAX or count & (count - 1):
        return f"epoch {layout.epoch}, {count} partitions (a power of two is needed)"
    if not 1 <= len(members) <= MEMBERS_MAX or nodes != sorted(set(nodes)):
        return "the members are none, too many, not sorted or not unique"
    for member in members:
        if reason := _member_fault(member):
            return f"node {member.node}: {reason}"
    if list(layout.widths) != sorted(set(layout.widths)):
        return "the tables are not sorted"
    if len(layout.tables) > TABLE_WIDTHS_MAX or not layout.voters.row_count > 1:
        return f"{len(layout.tables)} tables, {layout.voters.row_count} rows of voters"
    if any(table.row_count != count for table in layout.tables):
        return "a table has not one row a partition"
    for table in (*layout.tables, layout.voters):
        if len(table.cells) != table.row_count * table.width * 2 or max(
            table.indexes()
        ) > len(members):
            return f"the table of width {table.width} is cut short or names no member"
    return _slots_fault(layout)


def _member_fault(member: Member) -> str | None:
    if not is_node_id(member.node):
        return "a node id is 16 lower hex digits"
    if not 0 <= member.weight <= WEIGHT_MAX:
        return f"weight {member.weight} is not within 0 and {WEIGHT_MAX}"
    if member.state not in STATES:
        return f"state {member.state!r} is none of {', '.join(STATES)}"
    if any(len(label.encode()) > LABEL_SIZE_MAX for label in member.domains):
        return f"zone, rack and host may have {LABEL_SIZE_MAX} bytes each"
    if any(
        len(a.encode()) > ADDRESS_SIZE_MAX
        for a in (member.cluster_address, member.s3_address)
    ):
        return f"an address may have {ADDRESS_SIZE_MAX} bytes"
    return None


def _slots_fault(layout: Layout) -> str | None:
    expected = 0
    for slots in layout.slot_shards:
        if slots.first != expected or slots.count < 1:
            return f"slot {expected} is kept by no shard or by two"
        if not 1 <= slots.shard <= layout.shard_count:
            return f"slot {slots.first} is kept by shard {slots.shard}, which is none"
        expected += slots.count
    return None if expected == SLOT_COUNT else f"the ranges end at slot {expected}"


# Bytes


def encode(layout: Layout) -> bytes:
    """The bytes of `layout`.  Raises BadLayout if they do not fit a Raft entry."""
    data = _packb(
        (
            FORMAT,
            layout.epoch,
            layout.partition_count,
            [(slots.count, slots.shard) for slots in layout.slot_shards],
            [attrs.astuple(member) for member in layout.members],
            [_pack_table(table) for table in layout.tables],
            _pack_table(layout.voters),
        )
    )
    if len(data) > ENTRY_SIZE_MAX:
        raise BadLayout(
            f"a layout of {len(data)} bytes does not fit an entry of {ENTRY_SIZE_MAX}: "
            f"keep fewer widths than {list(layout.widths)}"
        )
    return data


def decode(data: bytes) -> Layout:
    """Read what `encode` wrote.  Raises CorruptLayout."""
    try:
        layout = _unpack(data)
    except CorruptData:
        raise
    except (ValueError, TypeError, LookupError, msgpack.UnpackException) as error:
        raise CorruptLayout(f"{type(error).__name__}: {error}") from error
    if reason := _fault(layout):
        raise CorruptLayout(reason)
    return layout


def _unpack(data: bytes) -> Layout:
    fields: list[Any] = _unpackb(data)
    if fields[0] != FORMAT:
        raise CorruptLayout(f"format {fields[0]} is unknown; this version reads {FORMAT}")
    _, epoch, partition_count, slots, members, tables, voters = fields
    ranges = []
    first = 0
    for count, shard in slots:
        ranges.append(SlotRange(Slot(first), int(count), ShardId(int(shard))))
        first += count
    return Layout(
        epoch=Epoch(int(epoch)),
        members=tuple(Member(*_typed(member)) for member in members),
        partition_count=int(partition_count),
        slot_shards=tuple(ranges),
        tables=tuple(_unpack_table(table) for table in tables),
        voters=_unpack_table(voters),
    )


_MEMBER_TYPES = (str, int, str, str, str, str, str, str, int)


def _typed(member: list[Any]) -> list[Any]:
    if len(member) != len(_MEMBER_TYPES) or any(
        type(value) is not kind for value, kind in zip(member, _MEMBER_TYPES, strict=True)
    ):
        raise CorruptLayout("a member has wrong fields")
    return member


def _pack_table(table: Table) -> tuple[int, int, bytes]:
    return table.width, len(table.cells), zlib.compress(table.cells, _COMPRESSION_LEVEL)


def _unpack_table(packed: tuple[int, int, bytes]) -> Table:
    width, size, data = packed
    if not (1 <= width <= TABLE_WIDTH_MAX and 0 <= size <= PARTITION_COUNT_MAX * width * 2):
        raise CorruptLayout(f"a table of width {width} and {size} bytes")
    reader = zlib.decompressobj()
    try:
        cells = reader.decompress(
            data, size + 1
        )  # No further, whatever it would unpack to.
    except zlib.error as error:
        raise CorruptLayout(f"a table cannot be unpacked: {error}") from error
    if len(cells) != size or not reader.eof:
        raise CorruptLayout(f"a table has not {size} bytes")
    return Table(width, cells)
