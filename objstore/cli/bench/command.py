"""`objstore bench`: what operations cost on a running cluster.

Rates and latencies are of this machine at this moment; CPU per operation, summed over
the nodes' processes, is the figure to compare.  One *unit* is the CPU of a bare trio+h11
server answering a 4 KiB GET, measured in the same run, so that figures travel: between the
steps, as what a machine gives may change by a third within minutes.
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import Any

import attrs
import click

from objstore.cli.bare import BareServer
from objstore.cli.bench import disk, generator, processes
from objstore.cli.bench.outcome import Outcome
from objstore.cli.bench.plan import OPERATIONS, SIZES, Step, steps
from objstore.cli.load import Client, Target
from objstore.cli.output import UNUSABLE, Column, Failure, print_json, print_table, say
from objstore.units import MiB, format_size, parse_size

_UNITS_FIRST = 3  # Measured before the first step; one more after each.
_COLUMNS = [
    Column("operation", "operation"),
    Column("size", "size"),
    Column("workers", "workers"),
    Column("rate/s", "rate"),
    Column("MB/s", "mb_s"),
    Column("p50 ms", "p50_ms"),
    Column("p99 ms", "p99_ms"),
    Column("CPU ms", "cpu_ms"),
    Column("units", "units"),
    Column("each node's", "cpu_ms_each"),
    Column("disk B/B", "write_amplification"),
    Column("RSS MiB", "peak_rss_mib"),
    Column("RssAnon each", "peak_anon_mib_each"),
    Column("failed", "failed"),
]


@attrs.frozen
class _Cluster:
    """A running cluster, as cluster.json of `objstore dev` tells of it."""

    target: Target
    pids: list[int]
    data: list[str]

    @property
    def is_tls(self) -> bool:
        return self.target.urls[0].startswith("https:")


@click.group("bench", invoke_without_command=True)
@click.option("--cluster", "cluster_file", metavar="FILE", help="cluster.json of dev.")
@click.option("--operations", default=",".join(OPERATIONS), show_default=True)
@click.option("--sizes", default=",".join(map(format_size, SIZES)), show_default=True)
@click.option("--scale", default=1.0, show_default=True, help="Of all counts.")
@click.option("--processes", default=2, show_default=True, help="Of the generator.")
@click.option("--json", "as_json", is_flag=True)
@click.pass_context
def command(
    ctx: click.Context,
    cluster_file: str | None,
    operations: str,
    sizes: str,
    scale: float,
    processes: int,
    as_json: bool,
) -> None:
    """Measure a running dev cluster; with `disk` the disk, with `ring` the ring."""
    if ctx.invoked_subcommand is not None:
        return
    if cluster_file is None:
        raise Failure(
            "bench needs --cluster DIR/cluster.json",
            hint="objstore dev --nodes 3 --data DIR writes it",
            code=2,
        )
    plan = steps(
        _operations(operations),
        _sizes(sizes),
        run=f"bench-{time.time_ns()}",
        scale=scale,
    )
    cluster = _read_cluster(cluster_file)
    _make_bucket(cluster.target)
    transport = "TLS" if cluster.is_tls else "plain HTTP"
    say(f"{len(plan)} steps over {transport}")
    rows = []
    with BareServer() as server:
        units = [server.unit_ms() for _ in range(_UNITS_FIRST)]
        for step in plan:
            rows.append(_measure(cluster, step, processes))
            units.append(server.unit_ms())
    unit_ms = statistics.median(units)
    for row in rows:
        row["units"] = round(row["cpu_ms"] / unit_ms, 1)
    say(
        f"one unit is {unit_ms:.3f} ms of CPU here: the median of {len(units)}, measured "
        f"between the steps, {min(units):.3f} to {max(units):.3f}"
    )
    if as_json:
        print_json({"unit_ms": unit_ms, "tls": cluster.is_tls, "rows": rows})
    else:
        print_table(rows, _COLUMNS)
        say("CPU and units are of all nodes, an operation; of cas, a key of 32 writers")
    if failed := sum(int(row["failed"]) for row in rows):
        raise Failure(f"{failed} operations were not answered as they should be")


@command.command("disk")
@click.argument("folder", type=click.Path(exists=True, file_okay=False))
@click.option("--size", default="256MiB", show_default=True, help="Written at most.")
@click.option("--json", "as_json", is_flag=True)
def disk_command(folder: str, size: str, as_json: bool) -> None:
    """How fast the disk under FOLDER takes what must survive a crash."""
    rows = disk.measure(folder, _size(size))
    if as_json:
        print_json({"rows": rows})
        return
    titles = ["sync every", "written", "MB/s", "syncs/s", "sync p50 ms", "sync p99 ms"]
    print_table(rows, [Column(*pair) for pair in zip(titles, rows[0], strict=True)])


@command.command()
@click.option("--json", "as_json", is_flag=True)
def ring(as_json: bool) -> None:
    """How even the ring is and how little it moves, for 10 to 1,000 nodes."""
    from objstore.ring import report

    rows = report.measure(time.process_time)
    if as_json:
        print_json({"rows": rows})
    else:
        print_table(rows, [Column(title, key) for title, key in report.COLUMNS])


# ---- arguments ------------------------------------------------------------------------


def _operations(text: str) -> list[str]:
    wanted = [name.strip() for name in text.split(",") if name.strip()]
    if unknown := set(wanted) - set(OPERATIONS):
        raise Failure(f"unknown operations: {', '.join(sorted(unknown))}", code=2)
    return wanted


def _sizes(text: str) -> list[int]:
    return [_size(part) for part in text.split(",")]


def _size(text: str) -> int:
    try:
        return parse_size(text.strip())
    except ValueError as error:
        raise Failure(str(error), code=2) from error


def _read_cluster(path: str) -> _Cluster:
    try:
        cluster = json.loads(Path(path).read_text())
        target = Target(
            urls=tuple(node["s3"] for node in cluster["nodes"]),
            access_key=cluster["access_key"],
            secret_key=cluster["secret_key"],
            region=cluster["region"],
            bucket="bench",
            ca_file=cluster.get("ca_file"),
        )
        pids = [int(node["pid"]) for node in cluster["nodes"]]
        return _Cluster(target, pids, [node["data"] for node in cluster["nodes"]])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Failure(f"{path} tells of no cluster: {error!r}", code=UNUSABLE) from error


def _make_bucket(target: Target) -> None:
    status, body = Client(target, target.urls[0]).request("PUT", f"/{target.bucket}")
    if status != 200:
        raise Failure(f"the bucket {target.bucket} cannot be made: {status} {body!r}")


# ---- measuring ------------------------------------------------------------------------


def _measure(cluster: _Cluster, step: Step, generator_processes: int) -> dict[str, Any]:
    if step.is_filled_first:  # Not to be charged to the step.
        filled = generator.fill(cluster.target, step, processes=generator_processes)
        if filled.failed:
            return _row(step, filled)
    cpu_before: list[float] = []
    with processes.MemoryPeaks(cluster.pids) as peaks:
        written_before = processes.written(cluster.data[0])
        outcome = generator.run(
            cluster.target,
            step,
            processes=generator_processes,
            on_start=lambda: cpu_before.extend(map(processes.cpu_ms, cluster.pids)),
        )
    cpu_after = [processes.cpu_ms(pid) for pid in cluster.pids]
    return _row(
        step,
        outcome,
        cpu=[after - b for after, b in zip(cpu_after, cpu_before, strict=True)],
        written=processes.written(cluster.data[0]) - written_before,
        peaks=peaks,
    )


def _row(
    step: Step,
    outcome: Outcome,
    *,
    cpu: list[float] | None = None,
    written: int = 0,
    peaks: processes.MemoryPeaks | None = None,
) -> dict[str, Any]:
    each = [ms / step.count for ms in cpu or ()]
    anonymous = [memory.anonymous for memory in peaks.peaks] if peaks else []
    elapsed = outcome.elapsed or 1.0
    row: dict[str, Any] = {
        "operation": step.operation,
        "size": format_size(step.size),
        "workers": step.workers,
        "count": step.count,
        "rate": round(step.count / elapsed, 1),
        "mb_s": round(outcome.moved / elapsed / 1e6, 1),
        "p50_ms": round(outcome.percentile(0.5) * 1000, 2),
        "p99_ms": round(outcome.percentile(0.99) * 1000, 2),
        "cpu_ms": round(sum(each), 3),
        "units": None,  # Once the unit is known.
        "cpu_ms_each": "/".join(f"{ms:.2f}" for ms in each),
        "write_amplification": None,
        "peak_rss_mib": round(peaks.peak_of_all / MiB) if peaks else None,
        "peak_anon_mib_each": "/".join(f"{size / MiB:.0f}" for size in anonymous),
        "failed": outcome.failed,
        "statuses": outcome.statuses,
    }
    if outcome.stored:
        row["write_amplification"] = round(written / outcome.stored, 1)
    if step.operation == "cas":
        row["ms_per_key"] = round(elapsed * 1000 / step.count, 1)
    return row
