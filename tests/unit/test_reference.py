"""docs/reference says what the code does: the generated pages are up to date."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


def _generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs/generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = before
    return module


GENERATE = _generator()


@pytest.mark.parametrize("name", sorted(GENERATE.PAGES))
def test_the_page_is_what_the_code_makes_now(name: str) -> None:
    page = ROOT / "docs/reference" / name
    assert page.read_text() == GENERATE.PAGES[name](), "run: python docs/generate.py"


def test_every_metric_has_one_line_and_every_line_a_metric() -> None:
    page = (ROOT / "docs/reference/metrics.md").read_text()
    listed = re.findall(r"^- `(\w+)`", page, flags=re.MULTILINE)
    assert sorted(listed) == sorted(GENERATE.metric_lines())
    assert len(listed) > 25


def test_metrics_are_named_by_the_rules() -> None:
    for name, line in GENERATE.metric_lines().items():
        assert re.fullmatch(r"objstore_[a-z0-9]+(_[a-z0-9]+)+", name)
        assert ("(counter" in line) == name.endswith("_total")


def test_labels_come_from_small_closed_sets() -> None:
    """Decision 0005: none may hold a bucket, a key, a user or a client's address."""
    allowed = {"operation", "status", "direction", "phase", "state", "reason", "method"}
    allowed |= {"outcome", "drive", "kind"}
    for name, line in GENERATE.metric_lines().items():
        labels = re.search(r"\(\w+ by ([^)]*)\)", line)
        if labels is not None:
            assert set(re.findall(r"`(\w+)`", labels[1])) <= allowed, name


def test_every_error_says_what_it_means_and_no_code_is_used_twice() -> None:
    kinds = GENERATE.error_classes()
    assert all((kind.__doc__ or "").strip() for kind in kinds)
    codes = list(GENERATE.codec.error_codes())
    assert len(codes) == len(set(codes))


def test_exit_codes_in_the_page_are_those_of_the_code() -> None:
    from objstore.cli import output

    page = (ROOT / "docs/reference/cli.md").read_text()
    listed = {int(code) for code in re.findall(r"^\| (\d) \|", page, flags=re.MULTILINE)}
    used = {output.FAILED, output.UNREACHABLE, output.UNUSABLE, output.NOT_BUILT}
    assert listed == used | {0, 2}
