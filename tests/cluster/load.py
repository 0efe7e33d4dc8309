"""What clients do while faults come and go: hot registers, and unique keys of all sizes.

with Load(cluster, "bucket", seed=7) as load:
    load.board.wait_for_acks(100)
    with load.board.away(1):
        ...                         a fault
load.judge()                        when all is whole again
"""

from __future__ import annotations

from typing import Self

import attrs

from tests.cluster.registers import Registers
from tests.cluster.scoreboard import SLOWEST_S, Scoreboard
from tests.cluster.workload import SIZES, Workload, target_of, verify
from tests.harness import Cluster


@attrs.define
class Load:
    """Registers and unique keys on one scoreboard, until the block ends."""

    cluster: Cluster
    bucket: str
    seed: int
    clients: int = 6  # Of registers.
    writers: int = 3  # Of unique keys.
    sizes: tuple[int, ...] = SIZES
    nodes: tuple[int, ...] = ()  # Asked; none: all.
    pause_s: float = 0.0
    board: Scoreboard = attrs.Factory(Scoreboard)
    registers: Registers = attrs.field(init=False)
    workload: Workload = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.registers = Registers(
            target_of(self.cluster, self.bucket),
            self.board,
            seed=self.seed,
            clients=self.clients,
            nodes=self.nodes,
            pause_s=self.pause_s,
        )
        self.workload = Workload(
            self.cluster,
            self.bucket,
            writers=self.writers,
            seed=self.seed,
            sizes=self.sizes,
            nodes=self.nodes,
            board=self.board,
        )

    def __enter__(self) -> Self:
        self.registers.__enter__()
        self.workload.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.registers.stop()
        self.workload.__exit__(kind)
        self.registers.__exit__(kind)

    def judge(self, *, slowest_s: float | None = SLOWEST_S, **more: object) -> None:
        """Read all again, check the history, tell the figures; fails if any is bad."""
        self.registers.check()
        verify(self.cluster, self.bucket, self.workload)
        self.board.judge(slowest_s=slowest_s, ops=self.registers.operations, **more)
