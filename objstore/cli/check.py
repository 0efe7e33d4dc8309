"""`objstore check`: verify every record of a stopped node's folder, changing nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import attrs
import click

from objstore.cli.node_folder import Finding, FolderCheck
from objstore.cli.options import json_option
from objstore.cli.output import FAILED, UNUSABLE, Failure, print_json, say
from objstore.cli.settings import read_config
from objstore.host.disk import Directory, File
from objstore.host.kv import View
from objstore.host.real_host import real_host
from objstore.host.rocks_kv import RocksReader
from objstore.units import human_size

# More are counted and not listed: a drive that is damaged all over would fill a screen.
FINDINGS_SHOWN_MAX = 1000
_SIGNS_OF_A_NODE = {"node.json", "secrets.json", "wal", "meta"}
_LOCK = "lock"


@click.command("check")
@click.argument("data_dir", required=False)
@click.option(
    "--config",
    "config_path",
    metavar="FILE",
    help="A node's file, to take the folder and the drives from.",
)
@json_option
def command(data_dir: str | None, config_path: str | None, as_json: bool) -> None:
    """Verify every record of a stopped node's folder, changing nothing.

    Reads the identity, the log, the metadata and every block of every drive.  Exit code
    0: all is well; 1: problems were found; 4: not a node's folder, or one in use.
    """
    path, drives = _what_to_check(data_dir, config_path)
    directory = _open_folder(path)
    stores: list[RocksReader] = []

    def open_store(folder: Directory) -> View:
        stores.append(RocksReader.open(f"{folder.path}/meta"))
        return stores[-1]

    checking = FolderCheck(
        directory,
        open_store=open_store,
        open_drive=real_host().disks.directory,
        drives=drives,
        on_part=_say_nothing if as_json else _say_part,
    )
    found = _Found(shown=not as_json)
    with _locked(directory):
        try:
            for finding in checking.run():
                found.take(finding)
        finally:
            for store in stores:
                store.close()
    summary = _summary(checking, found)
    if as_json:
        print_json(summary)
    else:
        print("\n".join(_words(checking, found)))
    if found.problem_count:
        raise SystemExit(FAILED)


def _say_part(part: str) -> None:
    say(f"checking {part} ...")


def _say_nothing(part: str) -> None:
    del part


@attrs.define
class _Found:
    """What was found: all counted, the first ones kept."""

    shown: bool  # Printed as they come.
    kept: list[Finding] = attrs.Factory(list)
    problem_count: int = 0
    note_count: int = 0

    def take(self, finding: Finding) -> None:
        if finding.is_problem:
            self.problem_count += 1
        else:
            self.note_count += 1
        if len(self.kept) < FINDINGS_SHOWN_MAX:
            self.kept.append(finding)
            if self.shown:
                print(_line(finding), flush=True)


def _line(finding: Finding) -> str:
    where = finding.file
    if finding.offset is not None:
        where += f" at {finding.offset}"
    return f"{'PROBLEM' if finding.is_problem else 'note   '}  {where}: {finding.reason}"


def _what_to_check(
    data_dir: str | None, config_path: str | None
) -> tuple[str, tuple[str, ...]]:
    """(folder, drives named beside it)."""
    if config_path is None and data_dir is None:
        config_path = os.environ.get("OBJSTORE_CONFIG")
        if config_path is None:
            raise Failure(
                "which folder?", hint="objstore check DATA_DIR, or --config FILE", code=2
            )
    if config_path is None:
        assert data_dir is not None
        return data_dir, ()
    node = read_config(config_path).node
    return data_dir or node.data, node.drives


def _open_folder(path: str) -> Directory:
    """Raises Failure where there is nothing of a node."""
    try:
        directory = real_host().disks.directory(path)
        names = set(directory.names())
    except OSError as error:
        raise Failure(
            f"{path}: cannot be read: {error.strerror or error}",
            hint="a node's folder is what node.data names",
            code=UNUSABLE,
        ) from error
    if not names & _SIGNS_OF_A_NODE:
        raise Failure(
            f"{path} is not a node's folder",
            hint="a node's folder is what node.data names, and holds a node.json",
            code=UNUSABLE,
        )
    return directory


@contextmanager
def _locked(directory: Directory) -> Iterator[None]:
    """Keep daemons off the folder meanwhile.  Raises Failure where one runs on it.

    A folder without a lock file has never had a daemon, and gets none from us; one on a
    file system that cannot be written cannot have one either.
    """
    lock: File | None = None
    if directory.exists(_LOCK):
        try:
            lock = directory.lock(_LOCK)
        except BlockingIOError as error:
            raise Failure(
                f"{directory.path}: a daemon runs on this folder",
                hint="stop it first: a check needs a folder that does not change",
                code=UNUSABLE,
            ) from error
        except OSError as error:
            say(f"the lock cannot be taken ({error.strerror or error}); going on without")
    try:
        yield
    finally:
        if lock is not None:
            lock.close()


def _summary(checking: FolderCheck, found: _Found) -> dict[str, object]:
    identity, counts = checking.identity, checking.counts
    return {
        "folder": checking.directory.path,
        "node": None if identity is None else identity.node,
        "cluster": None if identity is None else identity.cluster,
        "state": None if identity is None else str(identity.state),
        "clean": found.problem_count == 0,
        "log": {"segments": counts.log_segments, "entries": counts.log_entries},
        "metadata": {
            "shards": counts.shards,
            "slots": counts.slots,
            "rows": counts.rows,
            "indexed_fragments": counts.indexed_fragments,
        },
        "drives": [
            {
                "id": None if drive.identity is None else drive.identity.drive,
                "segments": drive.segments,
                "fragments": drive.live,
                "bytes": drive.live_size,
                "deleted": drive.dead,
                "damaged": drive.damaged,
                "junk_bytes": drive.junk_size,
            }
            for drive in counts.drives
        ],
        "problem_count": found.problem_count,
        "problems": [_finding(f) for f in found.kept if f.is_problem],
        "note_count": found.note_count,
        "notes": [_finding(f) for f in found.kept if not f.is_problem],
    }


def _finding(finding: Finding) -> dict[str, object]:
    return {"file": finding.file, "offset": finding.offset, "reason": finding.reason}


def _words(checking: FolderCheck, found: _Found) -> Iterator[str]:
    identity, counts = checking.identity, checking.counts
    if identity is not None:
        yield f"node      {identity.node} of cluster {identity.cluster or '(none yet)'}"
    yield f"log       {counts.log_segments} segments, {counts.log_entries} entries"
    yield (
        f"metadata  {counts.rows} rows verified; {counts.slots} slots of"
        f" {counts.shards} shards recounted"
    )
    for drive in counts.drives:
        name = "?" if drive.identity is None else drive.identity.drive
        yield (
            f"drive     {name}: {drive.live} fragments ({human_size(drive.live_size)})"
            f" in {drive.segments} segments, {drive.dead} deleted, {drive.damaged} damaged"
        )
    hidden = found.problem_count + found.note_count - len(found.kept)
    if hidden:
        yield f"{hidden} more findings are not shown"
    if found.problem_count:
        yield f"{found.problem_count} PROBLEMS"
    else:
        yield "no problem"
