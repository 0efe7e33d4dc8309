from __future__ import annotations

import os
import subprocess
import sys

import pytest

SCRIPT = """
import os
from objstore.host.real_host import prefer_batches
{before}
prefer_batches()
print(os.sched_getscheduler(0))
"""


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="Linux alone has it")
@pytest.mark.parametrize(
    ("before", "policy"),
    [
        ("", "SCHED_BATCH"),
        # An operator's choice stays.
        ("os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))", "SCHED_IDLE"),
    ],
)
def test_a_node_does_not_interrupt_others_unless_told_otherwise(before, policy):
    script = SCRIPT.format(before=before)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == getattr(os, policy)
