"""The scoreboards of all tests, told once more at the end of a run.

Tests print them (`tests.cluster.scoreboard`); pytest shows what passing tests print only
when asked to.
"""

from __future__ import annotations

from typing import Any


def pytest_terminal_summary(terminalreporter: Any) -> None:
    lines = [
        f"{report.nodeid.rpartition('::')[2]}\n    {line.removeprefix('scoreboard: ')}"
        for report in terminalreporter.stats.get("passed", [])
        for line in report.capstdout.splitlines()
        if line.startswith("scoreboard: ")
    ]
    if lines:
        terminalreporter.section("scoreboards")
        for line in lines:
            terminalreporter.write_line(line)
