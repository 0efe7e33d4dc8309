"""The shim strikes what the daemon does: the log's asynchronous writes, too."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import shim
from tests.shim import Fault

pytestmark = pytest.mark.slow

# Says how often the loop went round while the write was under way, and how that ended.
PROGRAM = """
import sys, trio
from objstore.host.real_disk import RealDisks

async def main():
    folder = RealDisks().directory(sys.argv[1])
    file = folder.open("log", create=True)
    file.allocate(65536, zeros=True)
    file.sync()
    direct = folder.open_direct("log")
    if direct is None:
        print("none")
        return
    print("open", flush=True)
    sys.stdin.readline()
    rounds = 0
    async def count():
        nonlocal rounds
        while True:
            await trio.sleep(0.01)
            rounds += 1
    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        try:
            await direct.write(4096, b"a" * 4096)
            print(rounds, 0, file.read_at(4096, 4096) == b"a" * 4096)
        except OSError as error:
            print(rounds, error.errno, False)
        nursery.cancel_scope.cancel()

trio.run(main)
"""


def written(folder: Path, fault: Fault) -> tuple[int, int, bool]:
    """(rounds of the loop meanwhile, errno, whether it is there) of one write."""
    faults = shim.build(folder)
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | faults.environment,
        text=True,
    )
    with process:
        assert process.stdout is not None
        if process.stdout.readline() != "open\n":
            pytest.skip("this file system has no direct files")
        faults.set(fault)
        rounds, code, is_there = process.communicate("go\n", timeout=60)[0].split()
    assert [strike.path for strike in faults.strikes()] == [str(folder / "log")]
    return int(rounds), int(code), is_there == "True"


@pytest.mark.parametrize("operation", ["write", "sync"])
def test_a_write_of_the_log_fails(tmp_path: Path, operation: str) -> None:
    fault = Fault(operation, "*/log", errno.EIO, count=1)  # type: ignore[arg-type]
    _, code, is_there = written(tmp_path, fault)
    assert (code, is_there) == (errno.EIO, False)


def test_a_write_of_the_log_is_late_and_the_loop_goes_on(tmp_path: Path) -> None:
    rounds, code, is_there = written(tmp_path, Fault("sync", "*/log", delay_ms=1000))
    assert (code, is_there) == (0, True)
    assert rounds >= 5  # A hundred, on a machine with nothing else to do.
