"""What all tests share.

Hypothesis tries the same examples in every run of `make test`.  New examples are looked
for by `make test-full` (HYPOTHESIS_PROFILE=explore): a find there is a bug to fix, not a
red build of somebody else's change.

A test that fails beside running clusters tells what their nodes last complained of: their
folders may be gone before anybody looks.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import settings

from tests import harness

_COMPLAINTS = ('"level": "error"', '"level": "critical"', "objstore:", "hint:")
_COMPLAINTS_TOLD = 10  # Of each node.

settings.register_profile("fixed", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: Any, call: Any) -> Generator[None, Any, Any]:
    report = yield
    if call.excinfo is not None and report.failed:
        harness.failures.append(item.nodeid)
        for cluster in harness.running:
            for node in cluster.nodes:
                said = node.log.read_text(errors="replace").splitlines()
                said = [line for line in said if any(c in line for c in _COMPLAINTS)]
                if said:
                    text = "\n".join(said[-_COMPLAINTS_TOLD:])
                    report.sections.append((f"complaints of node{node.number}", text))
    return report
