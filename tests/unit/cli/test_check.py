"""`objstore check` on real folders: whole, damaged, in use, and never changed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from objstore.config import Config, load
from objstore.host.real_host import real_host
from objstore.host.rocks_kv import RocksReader
from objstore.ids import ClusterId, NodeId
from objstore.meta import schema
from objstore.node.daemon import run_node
from objstore.node.identity import Identity, IdentityState, open_data_folder
from objstore.objects.put import put_object
from objstore.raft import wal_format
from tests.unit.objects.capabilities import make_bucket, put_leave
from tests.unit.objects.composition import BytesBody
from tests.unit.objects.test_put_and_get import PLAIN

from .conftest import run


def config_of(folder: Path, **more: object) -> Config:
    overrides: dict[str, object] = {
        "node.data": str(folder),
        "s3.address": "127.0.0.1:0",
        "cluster.address": "127.0.0.1:0",
        "chunks.reserve": "0B",
        "chunks.segment_size": "8MiB",
        "raft.wal_segment_size": "4MiB",
        "meta.inline_size_max": "1KiB",
    }
    return load(overrides=overrides | more)


async def _fill(config: Config) -> None:
    """Run a node for a moment: a bucket, small objects and large ones, and a deletion."""
    stopping = trio.Event()
    async with trio.open_nursery() as nursery:
        parts = await nursery.start(run_node, config, real_host(), stopping)
        record = await make_bucket(parts.store)
        for number in range(6):
            body = BytesBody(b"%d" % number * (100 if number % 2 else 100_000))
            leave = put_leave(record, key=b"k%d" % number)
            await put_object(parts.store, leave, body, PLAIN)
        stopping.set()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a node that ran and was stopped in order."""
    folder = tmp_path_factory.mktemp("node") / "data"
    trio.run(_fill, config_of(folder))
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    target = tmp_path / "data"
    shutil.copytree(made, target)
    return target


def files_of(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    return {
        str(path): (path.stat().st_size, path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def check(folder: Path) -> tuple[int, dict[str, Any]]:
    result = run("check", folder, "--json")
    return result.exit_code, json.loads(result.stdout)


def test_a_whole_folder_is_clean_and_not_changed_in_any_way(folder: Path) -> None:
    before, times = files_of(folder), os.stat(folder / "meta").st_mtime_ns
    code, found = check(folder)
    assert (code, found["clean"], found["problems"]) == (0, True, [])
    assert found["state"] == "member"
    assert found["log"]["entries"] > 33
    assert found["metadata"]["shards"] == 33
    assert found["metadata"]["slots"] > 4
    assert found["metadata"]["indexed_fragments"] == 3
    (drive,) = found["drives"]
    assert (drive["fragments"], drive["bytes"]) == (3, 300_000)
    assert files_of(folder) == before
    assert os.stat(folder / "meta").st_mtime_ns == times


def test_people_are_told_what_was_checked(folder: Path) -> None:
    result = run("check", folder)
    assert result.exit_code == 0
    assert "33 shards recounted" in result.stdout
    assert "3 fragments" in result.stdout
    assert result.stdout.endswith("no problem\n")
    assert "checking log ..." in result.stderr


def test_a_folder_that_is_read_only_can_be_checked(folder: Path) -> None:
    for path in folder.rglob("*"):
        path.chmod(0o500 if path.is_dir() else 0o400)
    assert check(folder)[0] == 0


def test_what_is_no_folder_of_a_node_is_said_so(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        result = run("check", path)
        assert result.exit_code == 4
        assert "hint: " in result.stderr


def test_a_folder_that_a_daemon_has_is_refused(folder: Path) -> None:
    lock = real_host().disks.directory(str(folder)).lock("lock")
    try:
        result = run("check", folder)
    finally:
        lock.close()
    assert result.exit_code == 4
    assert "a daemon runs on this folder" in result.stderr
    assert run("check", folder).exit_code == 0


def flip(path: Path, offset: int) -> None:
    """Flip one bit."""
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes((byte[0] ^ 4,)))


def segment(folder: Path) -> Path:
    (path,) = sorted((folder / "chunks").glob("segment-*"))
    return path


def test_a_rotten_block_is_found_with_file_and_offset(folder: Path) -> None:
    """F06"""
    path = segment(folder)
    place = path.read_bytes().index(b"0" * 5000)
    flip(path, place + 2000)
    code, found = check(folder)
    assert code == 1
    (problem,) = found["problems"]
    assert problem["file"] == str(path)
    assert 0 < problem["offset"] <= place
    assert found["drives"][0]["damaged"] == 1
    words = run("check", folder)
    assert f"PROBLEM  {path} at {problem['offset']}" in words.stdout
    assert words.stdout.endswith("1 PROBLEMS\n")


def wal_segments(folder: Path) -> list[Path]:
    return sorted((folder / "wal").glob("segment-*"))


def test_a_rotten_log_record_is_found_with_file_and_offset(folder: Path) -> None:
    """F06"""
    path = wal_segments(folder)[-1]
    flip(path, wal_format.DATA_OFFSET + 600)
    code, found = check(folder)
    assert code == 1
    first = found["problems"][0]
    assert first["file"] == f"wal/{path.name}"
    assert first["offset"] >= wal_format.DATA_OFFSET
    assert "do not verify" in first["reason"]


def test_a_log_that_is_gone_is_a_problem_and_the_rest_is_checked(folder: Path) -> None:
    """F27"""
    shutil.rmtree(folder / "wal")
    code, found = check(folder)
    assert code == 1
    assert found["problems"][0]["file"] == "wal"
    assert found["drives"][0]["fragments"] == 3


def test_a_log_older_than_the_metadata_is_a_problem(folder: Path) -> None:
    """F28: as after the log's disk was restored from a backup."""
    for path in wal_segments(folder):
        path.unlink()
    code, found = check(folder)
    assert code == 1
    assert any("no record in the log" in p["reason"] for p in found["problems"])


def tables(folder: Path) -> list[Path]:
    return sorted((folder / "meta").glob("*.sst"))


def test_a_rotten_block_of_the_metadata_store_is_found(folder: Path) -> None:
    """F06"""
    path = max(tables(folder), key=lambda it: it.stat().st_size)
    flip(path, 200)
    code, found = check(folder)
    assert code == 1
    told = json.dumps(found["problems"])
    assert path.name in told
    assert "objstore-check" not in told  # The real path, not that of a link.


def test_a_manifest_that_is_gone_is_a_problem(folder: Path) -> None:
    for path in (folder / "meta").glob("MANIFEST-*"):
        path.unlink()
    code, found = check(folder)
    assert code == 1
    assert found["problems"][0]["file"] == "meta"


def test_rows_that_do_not_add_up_are_found(folder: Path) -> None:
    """What checksums do not show: a counter that is not what is counted."""
    store = real_host().disks.key_value_store(
        real_host().disks.directory(str(folder)), "meta"
    )
    key, value = next(
        (key, value)
        for key, value in store.scan(b"", schema.LOCAL_PREFIX)
        if key[6] == schema.Table.COUNTERS and any(value[: -schema.SEAL_SIZE])
    )
    batch = store.batch()
    payload = bytes((value[0], value[1] + 1, *value[2 : -schema.SEAL_SIZE]))
    batch.put(key, schema.seal(schema.logical(key), payload))
    store.write(batch)
    store.close()
    code, found = check(folder)
    assert code == 1
    (problem,) = found["problems"]
    assert problem["reason"].startswith("slot ")
    assert "counted" in problem["reason"]


def test_a_row_with_a_bad_checksum_is_named(folder: Path) -> None:
    store = real_host().disks.key_value_store(
        real_host().disks.directory(str(folder)), "meta"
    )
    batch = store.batch()
    for key, value in list(store.scan(b"", schema.LOCAL_PREFIX))[:2]:
        batch.put(key, value[:-1] + bytes((value[-1] ^ 1,)))
    store.write(batch)
    store.close()
    code, found = check(folder)
    assert code == 1
    assert [p["reason"].endswith("checksum mismatch") for p in found["problems"]] == [
        True,
        True,
    ]


@pytest.mark.parametrize(
    "name", ["node.json", "secrets.json", "layout", "chunks/drive.json"]
)
def test_a_damaged_file_of_identity_is_named(folder: Path, name: str) -> None:
    """F06"""
    path = folder / name
    if name == "layout":
        path.write_bytes(b"\x93nonsense")
    else:
        flip(path, path.stat().st_size // 2)
        path.write_bytes(path.read_bytes()[:-20])
    code, found = check(folder)
    assert code == 1
    assert any(
        p["file"].endswith(name.split("/", maxsplit=1)[0]) for p in found["problems"]
    )


def test_an_identity_that_is_lost_is_a_problem(folder: Path) -> None:
    (folder / "node.json").unlink()
    code, found = check(folder)
    assert code == 1
    assert found["node"] is None
    assert found["metadata"]["shards"] == 33


def test_a_drive_of_another_node_is_a_problem(folder: Path) -> None:
    opened = open_data_folder(real_host().disks, str(folder))
    identity = opened.identity
    assert identity is not None
    opened.save(attrs.evolve(identity, node=NodeId("f" * 16)))
    opened.close()
    code, found = check(folder)
    assert code == 1
    assert any("belongs to node" in problem["reason"] for problem in found["problems"])


def test_a_node_that_never_ran_has_nothing_to_miss(tmp_path: Path) -> None:
    opened = open_data_folder(real_host().disks, str(tmp_path))
    opened.save(Identity(NodeId("a" * 16), ClusterId(""), IdentityState.JOINING))
    opened.close()
    code, found = check(tmp_path)
    assert (code, found["problems"]) == (0, [])
    assert found["note_count"] == 3


def test_drives_elsewhere_are_found_by_the_index_or_by_configuration(
    tmp_path: Path,
) -> None:
    drive = tmp_path / "drive"
    config = config_of(tmp_path / "data", **{"node.drives": str(drive)})
    trio.run(_fill, config)
    code, found = check(tmp_path / "data")
    assert (code, len(found["drives"])) == (0, 1)
    file = tmp_path / "node.toml"
    file.write_text(f'[node]\ndata = "{tmp_path / "data"}"\ndrives = ["{drive}"]\n')
    result = run("check", "--config", file, "--json")
    assert (result.exit_code, len(json.loads(result.stdout)["drives"])) == (0, 1)
    (drive / "drive.json").unlink()
    assert check(tmp_path / "data")[0] == 1


def test_many_findings_are_counted_and_not_all_listed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("objstore.cli.check.FINDINGS_SHOWN_MAX", 1)
    flip(segment(folder), segment(folder).read_bytes().index(b"0" * 5000) + 9)
    flip(segment(folder), segment(folder).read_bytes().index(b"2" * 5000) + 9)
    code, found = check(folder)
    assert (code, found["problem_count"], len(found["problems"])) == (1, 2, 1)
    assert "1 more findings are not shown" in run("check", folder).stdout


@pytest.fixture
def reader(folder: Path) -> Iterator[RocksReader]:
    opened = RocksReader.open(str(folder / "meta"))
    yield opened
    opened.close()


def test_the_reader_of_a_store_reads_as_the_store_does(reader: RocksReader) -> None:
    rows = list(reader.scan(b"", b"\xff" * 8))
    assert rows == sorted(rows)
    key, value = rows[0]
    assert reader.get(key) == value
    assert reader.get(b"none") is None
    assert list(reader.scan(b"", b"\xff" * 8, reverse=True)) == rows[::-1]


def test_there_is_no_reader_of_what_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        RocksReader.open(str(tmp_path))
