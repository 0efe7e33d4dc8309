"""conf/: what operators copy can be read by what reads it, and names what exists."""

from __future__ import annotations

import configparser
import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

from objstore.config import load
from objstore.metrics import REGISTRY
from objstore.node.joining import member_of

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"
NODES = sorted((CONF / "three-nodes").glob("*.toml"))


@pytest.mark.parametrize("path", NODES, ids=lambda path: path.name)
def test_a_preset_loads(path: Path) -> None:
    config = load(path.read_text(), path=path.name)
    number = path.stem.removeprefix("node")
    assert config.cluster.advertise == f"10.0.0.1{number}:7000"
    assert config.s3.advertise == f"10.0.0.1{number}:9000"


def test_the_presets_make_one_cluster_over_three_racks() -> None:
    configs = [load(path.read_text()) for path in NODES]
    assert [bool(config.cluster.join) for config in configs] == [False, True, True]
    founder = configs[0].cluster.advertise
    assert all(config.cluster.join in {(), (founder,)} for config in configs)
    members = [member_of("a" * 16, config, weight=1) for config in configs]  # type: ignore[arg-type]
    assert len({member.rack for member in members}) == 3
    assert len({member.cluster_address for member in members}) == 3


# ---- systemd --------------------------------------------------------------------------


def test_the_unit_runs_serve_with_a_file_and_does_not_restart_in_vain() -> None:
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(CONF / "objstore.service")
    assert unit.sections() == ["Unit", "Service", "Install"]
    service = unit["Service"]
    assert re.fullmatch(r"/\S+/objstore serve --config /\S+\.toml", service["ExecStart"])
    assert service["Restart"] == "on-failure"
    assert service["RestartPreventExitStatus"] == "4"
    assert service["User"] != "root"
    assert int(service["LimitNOFILE"]) >= 10_000
    # A stop waits for requests, by http.drain_timeout and some steps behind it.
    assert int(service["TimeoutStopSec"]) * 1000 >= 3 * load().http.drain_timeout_ms
    data = load(NODES[0].read_text()).node.data
    assert data == f"/var/lib/{service['StateDirectory']}"


# ---- alerts ---------------------------------------------------------------------------


def read_rules(text: str) -> list[dict[str, Any]]:
    """The rules of the file; it keeps to a subset of YAML that is read by lines."""
    rules: list[dict[str, Any]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        match = re.fullmatch(r"( *)(- )?(\w+):(?: (.+))?", line)
        assert match, f"line {number}: {line}"
        indent, dash, key, value = match.groups()
        if dash and len(indent) == 6:
            rules.append({})
        if len(indent) + len(dash or "") == 8:
            rules[-1][key] = _scalar(value)
        elif len(indent) == 10:
            rules[-1].setdefault("texts", {})[key] = _scalar(value)
    return rules


def _scalar(value: str | None) -> str:
    if value is None:
        return ""
    if value.startswith("'"):
        assert value.endswith("'")
        assert "'" not in value[1:-1]
        return value[1:-1]
    assert not re.search(r"[:#] |[&*!|>%@`]", value) or value.startswith("{"), value
    return value


RULES = read_rules((CONF / "alerts.yml").read_text())


def series() -> set[str]:
    """Every name that a scrape may have."""
    names = {"up"}
    for collected in REGISTRY._collector_to_names.values():
        names |= set(collected)
    return names


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_a_rule_asks_for_metrics_that_exist_and_says_what_to_do(
    rule: dict[str, Any],
) -> None:
    expression = rule["expr"]
    asked = set(re.findall(r"\b(?:objstore|process)_\w+", expression))
    assert asked or "up{" in expression
    assert asked <= series()
    assert expression.count("(") == expression.count(")")
    assert re.fullmatch(r"\{severity: (page|ticket)\}", rule["labels"])
    assert set(rule["texts"]) == {"summary", "action"}
    assert re.fullmatch(r"\d+[smh]", rule.get("for", "0s"))
    heading = re.search(r'operations\.md, "([^"]+)"', rule["texts"]["action"])
    if heading is not None:
        page = (ROOT / "docs/operations.md").read_text()
        assert f"## {heading[1]}\n" in page


def test_rules_have_names_of_their_own() -> None:
    names = [rule["alert"] for rule in RULES]
    assert len(names) == len(set(names)) > 10


@pytest.mark.skipif(importlib.util.find_spec("yaml") is None, reason="no PyYAML here")
def test_a_yaml_reader_reads_the_same() -> None:
    import yaml

    document = yaml.safe_load((CONF / "alerts.yml").read_text())
    (group,) = document["groups"]
    assert [(r["alert"], r["expr"]) for r in group["rules"]] == [
        (rule["alert"], rule["expr"]) for rule in RULES
    ]


def test_labels_in_rules_have_the_values_that_the_code_gives() -> None:
    text = (CONF / "alerts.yml").read_text()
    assert set(re.findall(r'state="(\w+)"', text)) <= {"alive", "suspect", "dead", "left"}
    assert set(re.findall(r'kind="(\w+)"', text)) <= {"total", "free", "live"}
