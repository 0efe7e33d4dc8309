"""The Dockerfile, as far as it can be judged without an engine."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

from objstore import config

TEXT = (Path(__file__).parents[2] / "Dockerfile").read_text()


def instructions() -> list[tuple[str, str]]:
    joined = re.sub(r"\\\n\s*", " ", TEXT)
    lines = [line for line in joined.splitlines() if line and not line.startswith("#")]
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines]


def test_every_instruction_is_known_and_the_first_is_from() -> None:
    known = {
        "FROM", "WORKDIR", "COPY", "RUN", "USER", "VOLUME", "EXPOSE", "ENV",
        "HEALTHCHECK", "STOPSIGNAL", "ENTRYPOINT", "CMD",
    }  # fmt: skip
    found = instructions()
    assert found[0][0] == "FROM"
    assert {name for name, _ in found} <= known


def test_the_daemon_is_not_root_and_its_data_is_a_volume() -> None:
    final = [i for i, (name, _) in enumerate(instructions()) if name == "FROM"][-1]
    stage = instructions()[final:]
    assert ("USER", "objstore") in stage
    assert ("VOLUME", "/data") in stage
    assert [name for name, _ in stage].index("USER") > [name for name, _ in stage].index(
        "RUN"
    )


def test_the_commands_are_json_and_python_optimisation_is_off() -> None:
    for name, rest in instructions():
        if name in {"ENTRYPOINT", "CMD"}:
            assert isinstance(json.loads(rest), list)
        if name == "HEALTHCHECK":
            python, flag, module = json.loads(rest[rest.index("[") :])
            assert (python, flag) == ("python", "-m")
            assert importlib.util.find_spec(module) is not None
    assert "PYTHONOPTIMIZE" not in TEXT


def test_the_environment_names_real_keys() -> None:
    (env,) = [rest for name, rest in instructions() if name == "ENV"]
    pairs = dict(pair.split("=", 1) for pair in env.split())
    loaded = config.load(environment=pairs)
    assert loaded.node.data == "/data"


def test_what_is_copied_is_there() -> None:
    root = Path(__file__).parents[2]
    for name, rest in instructions():
        if name == "COPY" and not rest.startswith("--from"):
            for source in rest.split()[:-1]:
                assert (root / source).exists(), source
