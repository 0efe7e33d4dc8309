"""Our figures beside the peers', as docs/performance.md shows them.

    objstore bench --cluster DIR/cluster.json --json > report.json
    python tests/bench/peers_table.py report.json --write docs/performance.md

Without --write it prints the table.  CPU is told in units: the peers were measured on a
machine whose unit was 0.12 ms, ours on the one of the report.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PEERS_UNIT_MS = 0.12
BEGIN, END = "<!-- table: begin -->\n", "<!-- table: end -->\n"
PEERS = ["Garage 2.5 ×3, no fsync", "the same with fsync", "MinIO ×4, EC 2+2"]

# What it is called, (operation, size) of the bench; for each peer (what a client sees, CPU
# in ms or None), as measured with s3load: 16 workers, 4 KiB, if not said otherwise.
ROWS: list[tuple[str, tuple[str, str], list[tuple[str, float | None]]]] = [
    ("put", ("put", "4KiB"),
     [("787/s, p99 58 ms", 2.27), ("174/s, p99 145 ms", 6.96), ("249/s, p99 350 ms", 5.58)]),
    ("put, 1 worker", ("put-1", "4KiB"),
     [("21/s, p50 47 ms", None), ("22/s, p50 51 ms", None), ("22/s, p50 5 ms", None)]),
    ("get", ("get", "4KiB"),
     [("380/s, p50 44 ms", 0.74), ("382/s, p50 44 ms", None), ("1,272/s, p50 12 ms", 1.40)]),
    ("head", ("head", "4KiB"),
     [("11,825/s", 0.10), ("10,591/s", 0.12), ("1,819/s", 0.96)]),
    ("delete", ("delete", "4KiB"),
     [("1,582/s", 1.14), ("252/s", 4.26), ("635/s", 2.74)]),
    ("list, a page of 1,000", ("list", "4KiB"),
     [("20/s", 9.25), ("20/s", 9.25), ("17/s", 75)]),
    ("mixed (45 get, 30 head, 15 put, 10 delete)", ("mixed", "4KiB"),
     [("689/s", 1.66), ("427/s", 2.96), ("585/s", 2.68)]),
    ("put 1 MiB, 8 workers", ("put", "1MiB"),
     [("124/s", 15.0), ("80/s", 20.8), ("121/s", 14.2)]),
    ("get 1 MiB, 8 workers", ("get", "1MiB"),
     [("839/s", 1.8), ("851/s", None), ("231/s", 7.8)]),
    ("put 64 MiB, 2 workers", ("put", "64MiB"),
     [("161 MB/s", 816), ("132 MB/s", 954), ("416 MB/s", 286)]),
    ("get 64 MiB, 2 workers", ("get", "64MiB"),
     [("944 MB/s", 76), ("899 MB/s", None), ("771 MB/s", 136)]),
    ("64 KiB range of 64 MiB, 8 workers", ("range", "64MiB"),
     [("1,187/s", 1.26), ("1,123/s", None), ("441/s", 4.1)]),
    ("create if absent, 32 writers a key", ("cas", "4KiB"),
     [("32 winners", None), ("32 winners", None), ("1 winner, 660 ms a key", None)]),
]  # fmt: skip
PEAKS = ("memory of all nodes, peak of the run", ["397 MiB", "376 MiB", "2,067 MiB"])


def lines(report: dict[str, Any] | None) -> Iterator[str]:
    """The table; without a report our column says that nothing was measured yet."""
    found = (
        {} if report is None else {(r["operation"], r["size"]): r for r in report["rows"]}
    )
    titles = ["operation", *PEERS, "objstore ×3, replicate:3, fsync"]
    yield "| " + " | ".join(titles) + " |"
    yield "|" + "---|" * len(titles)
    for title, step, peers in ROWS:
        shown = [_peer(seen, cpu_ms) for seen, cpu_ms in peers]
        yield "| " + " | ".join([title, *shown, _ours(found.get(step))]) + " |"
    peak = max((row["peak_rss_mib"] or 0 for row in found.values()), default=0)
    ours = f"{peak} MiB" if peak else "-"
    yield "| " + " | ".join([PEAKS[0], *PEAKS[1], ours]) + " |"


def _peer(seen: str, cpu_ms: float | None) -> str:
    return seen if cpu_ms is None else f"{seen}, {_units(cpu_ms / PEERS_UNIT_MS)}"


def _units(units: float) -> str:
    return f"{units:,.0f} units" if units >= 20 else f"{units:.1f} units"


def _ours(row: dict[str, Any] | None) -> str:
    if row is None:
        return "-"
    assert row["failed"] == 0, "a run with failures shows nothing"
    if row["operation"] == "cas":
        return f"1 winner, {row['ms_per_key']:.0f} ms a key"
    rate = f"{row['mb_s']:,.0f} MB/s" if row["size"] == "64MiB" else f"{row['rate']:,.0f}/s"
    if row["operation"] == "range":
        rate = f"{row['rate']:,.0f}/s"
    latency = f"p50 {row['p50_ms']:.1f} ms, p99 {row['p99_ms']:.0f} ms"
    return f"{rate}, {latency}, {_units(row['units'])}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("report", type=Path, nargs="?", help="of objstore bench --json")
    parser.add_argument("--write", type=Path, help="the page whose table to replace")
    arguments = parser.parse_args()
    report = None if arguments.report is None else json.loads(arguments.report.read_text())
    table = "\n".join(lines(report)) + "\n"
    if arguments.write is None:
        print(table, end="")
        return
    before, _, rest = arguments.write.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    arguments.write.write_text(before + BEGIN + table + END + after)


if __name__ == "__main__":
    main()
