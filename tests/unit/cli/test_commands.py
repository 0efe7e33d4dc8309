"""The commands as people and scripts meet them: help, mistakes, exit codes, JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from objstore.cli.main import _COMMANDS, main

from .conftest import Api, run

NODE = {"id": "n1", "state": "alive", "s3": "http://h:1", "cluster": "h:2", "drives": []}
BUCKET = {"name": "photos", "objects": 3, "bytes": 2048, "redundancy": "replicate:3"}
KEY = {"name": "a [b]", "access_key": "OSX", "is_root": False, "canonical_id": "c" * 64}
STATUS = {
    "cluster": "c",
    "epoch": 4,
    "writable": True,
    "below_promise": {"objects": 2, "bytes": 4096},
    "metadata": {"voters": 3, "shards": 33, "shards_below": 1},
    "repair": {"queued": 5},
    "problems": ["node n2 is dead"],
    "nodes": [NODE | {"drives": [{"path": "/d", "free": 1 << 30, "reason": "I/O error"}]}],
}


def commands(group: click.Group, *before: str) -> list[tuple[str, ...]]:
    """Every command, as typed."""
    found: list[tuple[str, ...]] = []
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        path = (*before, name)
        found.append(path)
        if isinstance(command, click.Group):
            found += commands(command, *path)
    return found


@pytest.mark.parametrize("path", [(), *commands(main)], ids=" ".join)
def test_every_command_has_help(path: tuple[str, ...]) -> None:
    result = run(*path, "--help")
    assert result.exit_code == 0
    assert result.stdout.startswith("Usage: ")
    summary = result.stdout.split("\n\n")[1].strip()
    assert summary.endswith((".", ")", "token.", "join.")) or "\n" in summary


def test_help_is_quick_because_commands_are_loaded_late() -> None:
    code = (
        "import sys; from objstore.cli.main import main\n"
        "main(['--help'], standalone_mode=False)\n"
        "sys.exit('trio' in sys.modules or 'attrs' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in _COMMANDS:
        assert f"  {name} ".encode() in done.stdout


@pytest.mark.parametrize("name", _COMMANDS)
def test_an_unknown_flag_is_bad_usage(name: str) -> None:
    result = run(name, "--no-such-flag")
    assert result.exit_code == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ("status",),
        ("node", "leave", "--config", "x"),
        ("key", "create"),
        ("serve", "--set", "no-equals-sign"),
        ("dev", "--data", "x", "--nodes", "0"),
        ("dev", "--data", "x", "--nodes", "65"),
        ("dev", "--data", "x", "--nodes", "three"),
        ("check",),
        ("nonsense",),
    ],
    ids=" ".join,
)
def test_what_is_typed_wrongly_is_bad_usage(arguments: tuple[str, ...]) -> None:
    assert run(*arguments).exit_code == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[gossip]\nprobe_intervl = "1s"', ["line 2", "probe_intervl", "probe_interval"]),
        ("[s3", ["not TOML"]),
        ('[repair]\nrate = "0B"', ["repair.rate"]),
    ],
)
def test_a_configuration_that_cannot_be_used_names_the_place(
    tmp_path: Path, text: str, words: list[str]
) -> None:
    path = tmp_path / "node.toml"
    path.write_text(text)
    for command in (["status"], ["serve"]):
        result = run(*command, "--config", path)
        assert result.exit_code == 4
        assert result.stderr.startswith("objstore: ")
        assert "\nhint: " in result.stderr
        for word in words:
            assert word in result.stderr


def test_a_configuration_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    result = run("status", "--config", tmp_path / "none.toml")
    assert result.exit_code == 4
    assert "none.toml" in result.stderr


def test_serve_refuses_an_unknown_key_before_it_makes_anything(tmp_path: Path) -> None:
    data = tmp_path / "data"
    result = run("serve", "--data", data, "--set", "chunks.chunk_sise=1MiB")
    assert result.exit_code == 4
    assert "chunks.chunk_size" in result.stderr
    assert not data.exists()


def test_without_a_token_the_command_says_where_to_get_one(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text(f'[node]\ndata = "{tmp_path}"\n')
    result = run("status", "--config", path)
    assert result.exit_code == 4
    assert "OBJSTORE_ADMIN_TOKEN" in result.stderr
    assert result.stderr.count("hint:") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("node", "drain"),
        ("node", "remove"),
        ("node", "drain", "some-id", "--config", "absent.toml", "--json"),
        ("node", "remove", "some-id", "--config", "absent.toml", "--json"),
    ],
)
def test_what_is_not_built_says_so(arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert result.exit_code == 5
    assert "not built yet" in result.stderr
    assert "hint: " in result.stderr


def test_nobody_there_is_an_exit_code_of_its_own(config: Path, api: Api) -> None:
    text = config.read_text().replace(api.address, "127.0.0.1:1")
    config.write_text(text)
    result = run("status", "--config", config)
    assert result.exit_code == 3
    assert "no answer from http://127.0.0.1:1" in result.stderr


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, 1), (401, 1), (404, 1), (409, 1), (500, 1), (501, 5), (503, 3), (507, 1)],
)
def test_what_the_node_refuses_becomes_sentence_hint_and_exit_code(
    config: Path, api: Api, status: int, code: int
) -> None:
    api.status, api.answer = status, {"message": "it is so", "hint": "do that"}
    result = run("node", "leave", "abc", "--config", config)
    assert result.exit_code == code
    assert result.stderr == "objstore: it is so\nhint: do that\n"
    assert result.stdout == ""


def test_an_answer_that_is_no_json_is_told_by_its_status(config: Path, api: Api) -> None:
    api.status, api.answer = 502, b"<html>Bad gateway</html>"
    result = run("key", "list", "--config", config)
    assert (result.exit_code, "502" in result.stderr) == (1, True)


READING: list[tuple[tuple[str, ...], Any]] = [
    (("status",), STATUS),
    (("node", "list"), {"nodes": [NODE]}),
    (("node", "token"), {"token": "obj1.x", "join": "h:7000"}),
    (("node", "leave", "n1"), {"left": "n1", "was_told": True}),
    (("bucket", "list"), {"buckets": [BUCKET]}),
    (("bucket", "info", "photos"), BUCKET),
    (("key", "list"), {"keys": [KEY]}),
    (("key", "create", "--name", "a"), KEY | {"secret_key": "s3cr3t"}),
]


@pytest.mark.parametrize(("arguments", "answer"), READING, ids=lambda it: str(it)[:24])
def test_json_is_one_line_that_says_all_that_the_node_said(
    config: Path, api: Api, arguments: tuple[str, ...], answer: Any
) -> None:
    api.answer = answer
    result = run(*arguments, "--config", config, "--json")
    assert result.exit_code == 0
    assert result.stdout.count("\n") == 1
    assert json.loads(result.stdout) == answer
    assert api.asked[0][3] == "Bearer the-token"


@pytest.mark.parametrize(("arguments", "answer"), READING, ids=lambda it: str(it)[:24])
def test_tables_are_for_people(
    config: Path, api: Api, arguments: tuple[str, ...], answer: Any
) -> None:
    api.answer = answer
    result = run(*arguments, "--config", config)
    assert result.exit_code == 0
    assert "\x1b" not in result.stdout
    assert "{" not in result.stdout


def test_status_begins_with_whether_data_is_safe(config: Path, api: Api) -> None:
    api.answer = STATUS
    page = run("status", "--config", config).stdout
    assert "writable  yes" in page
    assert "2 objects (4 KiB) have fewer good copies than promised" in page
    assert "1 of 33 shards have fewer" in page
    assert "problem   node n2 is dead" in page
    assert "drive /d: I/O error" in page


def test_a_secret_alone_is_on_stdout_for_scripts(config: Path, api: Api) -> None:
    api.answer = KEY | {"secret_key": "s3cr3t"}
    result = run("key", "create", "--name", "a [b]", "--config", config)
    assert result.stdout.splitlines()[-1] == "s3cr3t"
    assert "a [b]" in result.stdout  # Brackets are no markup.


def test_names_are_quoted_on_their_way(config: Path, api: Api) -> None:
    api.answer = BUCKET
    run("bucket", "info", "a/b?c", "--config", config)
    run("key", "delete", "../x y", "--config", config)
    assert [path for _, path, _, _ in api.asked] == [
        "/-/admin/v1/buckets/a%2Fb%3Fc",
        "/-/admin/v1/keys/..%2Fx%20y",
    ]


def test_a_bucket_without_counters_is_shown_all_the_same(config: Path, api: Api) -> None:
    api.answer = {"buckets": [BUCKET | {"bytes": None, "objects": None, "problem": "why"}]}
    result = run("bucket", "list", "--config", config)
    assert (result.exit_code, "why" in result.stdout) == (0, True)


def test_token_flags_reach_the_node(config: Path, api: Api) -> None:
    api.answer = {"token": "t", "join": "h:1"}
    run("node", "token", "--expires", "2h", "--uses", 3, "--config", config)
    assert api.asked[0][2] == {"expires_in_ms": 7_200_000, "uses": 3}
    assert run("node", "token", "--expires", "soon", "--config", config).exit_code == 2


def test_the_configuration_may_be_named_by_environment(
    config: Path, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OBJSTORE_CONFIG", str(config))
    api.answer = {"keys": []}
    assert run("key", "list").exit_code == 0


def test_a_wildcard_address_is_reached_on_this_machine() -> None:
    from objstore.cli.client import s3_url
    from objstore.config import load

    assert s3_url(load(overrides={"s3.address": "0.0.0.0:9"})) == "http://127.0.0.1:9"
    told = load(overrides={"s3.advertise": "s3.example.com:80"})
    assert s3_url(told) == "http://s3.example.com:80"


def test_a_certificate_that_cannot_be_read_is_said_so(config: Path) -> None:
    text = 'tls = "files"\ntls_certificate = "/none.pem"\ntls_key = "/none.key"\n'
    config.write_text(config.read_text() + text)
    result = run("status", "--config", config)
    assert (result.exit_code, "/none.pem" in result.stderr) == (4, True)


def test_only_the_servers_own_certificate_is_trusted_by_file(tmp_path: Path) -> None:
    """Names are not compared then; whatever stands behind it in the file is not asked."""
    from objstore.cli.client import _leaf_of

    block = "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n"
    path = tmp_path / "chain.pem"
    path.write_text(block.format("leaf") + block.format("intermediate"))
    assert "intermediate" not in _leaf_of(str(path))
    assert _leaf_of(str(path)).strip() == block.format("leaf").strip()


def test_a_failing_seed_is_shown_with_the_command_that_replays_it(monkeypatch):
    from objstore.cli import sim
    from objstore.testing.cluster.evidence import Violation
    from objstore.testing.cluster.simulation import Report

    def simulate(plan, program, **_):
        return Report(plan, plan.steps, 9, "hash", (Violation("loss", "gone"),), {}, 1.0)

    monkeypatch.setattr(sim, "simulate", simulate)
    monkeypatch.setattr(sim, "_set_up_log", lambda **_: None)
    given = [
        "--seed",
        "7",
        "--nodes",
        "5",
        "--faults",
        "cut,rot_log",
        "--unbounded",
        "--json",
    ]
    done = run("sim", *given)
    assert done.exit_code == 1
    replay = "objstore sim --seed 7 --nodes 5 --faults cut,rot_log --unbounded"
    assert f"replay: {replay}\n" in done.stderr
    shown = json.loads(done.stdout.splitlines()[-1])
    assert shown["violations"] == [{"checker": "loss", "what": "gone"}]


@pytest.mark.parametrize("caught", [True, False])
def test_mutants_exit_1_where_one_gets_away(monkeypatch, caught):
    from objstore.cli import sim
    from objstore.testing.mutants.catching import Catch

    class Pool:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def imap_unordered(self, _, names):
            return [Catch(name, caught, (1, 2), "words") for name in names]

    class Context:
        def Pool(self, *_, **__):  # noqa: N802
            return Pool()

    monkeypatch.setattr(sim, "MUTANTS", ["vote-twice"])
    monkeypatch.setattr(sim.multiprocessing, "get_context", lambda _: Context())
    done = run("sim", "--mutants", "--json")
    assert done.exit_code == (0 if caught else 1)
    shown = json.loads(done.stdout.splitlines()[-1])
    entry = {"name": "vote-twice", "caught": caught, "seeds": [1, 2]}
    assert shown == {"mutants": [entry]}
