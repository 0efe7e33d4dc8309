"""`objstore bench`: what operations cost on a running cluster.

Rates and latencies are of this machine at this moment; CPU per operation, summed over
the nodes' processes, is the figure to compare.  One *unit* is the CPU of a bare trio+h11
server answering a 4 KiB GET, measured in the same run, so that figures travel.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import click

from objstore.cli import bare
from objstore.cli.load import CAS_WRITERS, Client, Job, Outcome, Target, run
from objstore.cli.output import UNUSABLE, Column, Failure, print_json, print_table, say
from objstore.units import format_size, parse_size

_OPERATIONS = ("put", "get", "head", "list", "mixed", "cas", "delete")
_LIST_SHARE = 50  # A list operation costs about as much as this many others.
_TICKS = os.sysconf("SC_CLK_TCK")

_COLUMNS = [
    Column("operation", "operation"),
    Column("size", "size"),
    Column("rate/s", "rate"),
    Column("p50 ms", "p50_ms"),
    Column("p99 ms", "p99_ms"),
    Column("CPU ms/op", "cpu_ms"),
    Column("units", "units"),
    Column("per node", "cpu_ms_per_node"),
    Column("disk B/B", "write_amplification"),
    Column("peak MiB", "peak_mib"),
    Column("failed", "failed"),
]


@click.group("bench", invoke_without_command=True)
@click.option("--cluster", "cluster_file", metavar="FILE", help="cluster.json of dev.")
@click.option("--operations", default=",".join(_OPERATIONS), show_default=True)
@click.option("--sizes", default="4KiB", show_default=True, help="Comma separated.")
@click.option("--count", default=2000, show_default=True, help="Operations of each kind.")
@click.option("--workers", default=16, show_default=True)
@click.option("--processes", default=2, show_default=True, help="Of the generator.")
@click.option("--json", "as_json", is_flag=True)
@click.pass_context
def command(
    ctx: click.Context,
    cluster_file: str | None,
    operations: str,
    sizes: str,
    count: int,
    workers: int,
    processes: int,
    as_json: bool,
) -> None:
    """Measure a running dev cluster, or with `ring` the ring itself."""
    if ctx.invoked_subcommand is not None:
        return
    if cluster_file is None:
        raise Failure(
            "bench needs --cluster DIR/cluster.json",
            hint="objstore dev --nodes 3 --data DIR writes it",
            code=2,
        )
    cluster = _read_cluster(cluster_file)
    wanted = [name.strip() for name in operations.split(",") if name.strip()]
    if unknown := set(wanted) - set(_OPERATIONS):
        raise Failure(f"unknown operations: {', '.join(sorted(unknown))}", code=2)
    unit_ms = bare.unit_ms()
    say(f"one unit is {unit_ms:.3f} ms of CPU here")
    target = _target(cluster)
    _make_bucket(target)
    data = str(cluster["nodes"][0]["data"])
    rows = []
    for size in (parse_size(text) for text in sizes.split(",")):
        for operation in wanted:
            job = _job(operation, size, count, workers, processes)
            rows.append(_measure(target, job, _pids(cluster), data, unit_ms))
    if as_json:
        print_json({"unit_ms": unit_ms, "rows": rows})
    else:
        print_table(rows, _COLUMNS)


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


def _read_cluster(path: str) -> dict[str, Any]:
    try:
        cluster = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise Failure(f"{path}: {error}", code=UNUSABLE) from error
    assert isinstance(cluster, dict)
    return cluster


def _target(cluster: dict[str, Any]) -> Target:
    return Target(
        urls=tuple(node["s3"] for node in cluster["nodes"]),
        access_key=cluster["access_key"],
        secret_key=cluster["secret_key"],
        region=cluster["region"],
        bucket="bench",
        ca_file=cluster.get("ca_file"),
    )


def _make_bucket(target: Target) -> None:
    status, body = Client(target, target.urls[0]).request("PUT", f"/{target.bucket}")
    if status != 200:
        raise Failure(f"the bucket {target.bucket} cannot be made: {status} {body!r}")


def _job(operation: str, size: int, count: int, workers: int, processes: int) -> Job:
    prefix = f"{format_size(size)}"
    if operation == "list":
        return Job(
            operation,
            size,
            max(10, count // _LIST_SHARE),
            workers,
            processes,
            prefix,
            count,
        )
    if operation == "cas":
        prefix += f"-{time.time_ns()}"
        return Job(operation, size, count, CAS_WRITERS, processes, prefix)
    return Job(operation, size, count, workers, processes, prefix, count)


def _pids(cluster: dict[str, Any]) -> list[int]:
    return [int(node["pid"]) for node in cluster["nodes"]]


def _measure(
    target: Target, job: Job, pids: list[int], data: str, unit_ms: float
) -> dict[str, Any]:
    cpu_before = [_cpu_ms(pid) for pid in pids]
    written_before = _written(data)
    outcome: Outcome = run(target, job)
    cpu = [_cpu_ms(pid) - before for pid, before in zip(pids, cpu_before, strict=True)]
    written = _written(data) - written_before
    cpu_ms = sum(cpu) / job.count
    stored = outcome.statuses.get(200, 0) * job.size if job.operation == "put" else 0
    winners = outcome.statuses.get(200, 0)
    failed = outcome.failed
    if job.operation == "cas" and winners != -(-job.count // CAS_WRITERS):
        failed = max(failed, 1)  # A key with no winner, or with two.
    return {
        "operation": job.operation,
        "size": format_size(job.size),
        "rate": round(job.count / outcome.elapsed, 1),
        "p50_ms": round(outcome.percentile(0.5) * 1000, 2),
        "p99_ms": round(outcome.percentile(0.99) * 1000, 2),
        "cpu_ms": round(cpu_ms, 3),
        "units": round(cpu_ms / unit_ms, 1),
        "cpu_ms_per_node": "/".join(f"{ms / job.count:.2f}" for ms in cpu),
        "write_amplification": round(written / stored, 1) if stored else None,
        "peak_mib": round(sum(_peak_mib(pid) for pid in pids)),
        "failed": failed,
        "statuses": outcome.statuses,
    }


def _cpu_ms(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 1000 / _TICKS


def _written(data: str) -> int:
    """Bytes written so far to the device that holds `data`, by anybody.

    Not the processes' write_bytes: that counts whole large folios of the page cache where
    a part was dirtied, thirty times what reaches the device.
    """
    device = Path(data).stat().st_dev
    stat = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat")
    return int(stat.read_text().split()[6]) * 512 if stat.exists() else 0


def _peak_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0
