"""What callgrind counted between two phases of a bench that runs under it.

A bench calls `os.getppid` where a phase begins and where it ends, and runs with
`--dump-before=getppid`: so each phase is a part of the output file.
"""

from __future__ import annotations

import re
from pathlib import Path


def thousands(out: Path, phase: int) -> float:
    """Thousand instructions of a phase, numbered from 0, in the output file `out`."""
    # Parts are numbered from 1: odd ones are of what is between the phases.
    text = Path(f"{out}.{2 * phase + 2}").read_text(encoding="utf-8")
    found = re.search(r"^(?:totals|summary): (\d+)", text, re.MULTILINE)
    assert found is not None, "no output of callgrind"
    return int(found[1]) / 1000
