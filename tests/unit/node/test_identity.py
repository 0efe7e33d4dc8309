"""A data folder is one node: what it keeps, and the folders that are refused (F06g, F27)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from objstore.errors import ConfigError
from objstore.host.real_disk import RealDisks
from objstore.ids import ClusterId, NodeId
from objstore.node.identity import (
    DataFolder,
    Identity,
    IdentityState,
    Secrets,
    open_data_folder,
)

DISKS = RealDisks()
SECRETS = Secrets(b"ca", b"cert", b"key", bytes(range(32)), "token", "AK", "SK", ("h:1",))


def member_folder(path: Path) -> DataFolder:
    folder = open_data_folder(DISKS, str(path))
    for name in ("wal", "meta"):
        folder.directory.folder(name, create=True)
    identity = Identity(
        NodeId("0123456789abcdef"), ClusterId("c" * 32), IdentityState.MEMBER
    )
    folder.start(identity)
    folder.save_secrets(SECRETS)
    return folder


def test_a_new_folder_is_nobody(tmp_path: Path) -> None:
    folder = open_data_folder(DISKS, str(tmp_path / "new"))
    assert folder.identity is None


def test_every_start_is_counted_before_anything_else(tmp_path: Path) -> None:
    member_folder(tmp_path).close()
    folder = open_data_folder(DISKS, str(tmp_path))
    assert folder.identity is not None
    assert folder.identity.start_count == 1
    assert folder.start(folder.identity).start_count == 2
    assert json.loads((tmp_path / "node.json").read_text())["identity"]["start_count"] == 2


def test_secrets_come_back_as_they_were_and_only_the_owner_may_read_them(
    tmp_path: Path,
) -> None:
    folder = member_folder(tmp_path)
    assert folder.load_secrets() == SECRETS
    assert (tmp_path / "secrets.json").stat().st_mode & 0o077 == 0
    assert "token" not in repr(SECRETS)


def test_two_daemons_cannot_use_one_folder(tmp_path: Path) -> None:
    folder = member_folder(tmp_path)
    with pytest.raises(ConfigError, match="another daemon"):
        open_data_folder(DISKS, str(tmp_path))
    folder.close()
    open_data_folder(DISKS, str(tmp_path)).close()


def test_any_flipped_bit_of_the_identity_is_found(tmp_path: Path) -> None:
    member_folder(tmp_path).close()
    file = tmp_path / "node.json"
    good = file.read_bytes()
    start = good.index(b'"identity"')
    for offset in range(start, len(good)):
        damaged = bytearray(good)
        damaged[offset] ^= 1
        if bytes(damaged).split() == good.split():
            continue
        file.write_bytes(bytes(damaged))
        try:
            folder = open_data_folder(DISKS, str(tmp_path))
        except ConfigError:
            continue
        folder.close()
        # Only white space may change unnoticed.
        assert json.loads(bytes(damaged)) == json.loads(good), offset


@pytest.mark.parametrize("gone", ["wal", "meta"])
def test_an_emptied_disk_under_an_old_id_is_refused(tmp_path: Path, gone: str) -> None:
    member_folder(tmp_path).close()
    (tmp_path / gone).rmdir()
    with pytest.raises(ConfigError, match="must not vote"):
        open_data_folder(DISKS, str(tmp_path))


def test_a_log_without_an_identity_is_refused(tmp_path: Path) -> None:
    member_folder(tmp_path).close()
    (tmp_path / "node.json").unlink()
    with pytest.raises(ConfigError, match="identity was lost"):
        open_data_folder(DISKS, str(tmp_path))


def test_a_node_that_left_does_not_return(tmp_path: Path) -> None:
    folder = member_folder(tmp_path)
    assert folder.identity is not None
    left = Identity(folder.identity.node, folder.identity.cluster, IdentityState.LEFT)
    folder.save(left)
    folder.close()
    with pytest.raises(ConfigError, match="has left"):
        open_data_folder(DISKS, str(tmp_path))


def test_a_later_format_is_refused_with_what_to_do(tmp_path: Path) -> None:
    member_folder(tmp_path).close()
    document = json.loads((tmp_path / "node.json").read_text())
    document["format"] = 2
    (tmp_path / "node.json").write_text(json.dumps(document))
    with pytest.raises(ConfigError, match=r"format 2.*hint"):
        open_data_folder(DISKS, str(tmp_path))


def test_damaged_secrets_are_told(tmp_path: Path) -> None:
    folder = member_folder(tmp_path)
    (tmp_path / "secrets.json").write_text("{}")
    with pytest.raises(ConfigError, match="damaged"):
        folder.load_secrets()
    (tmp_path / "secrets.json").unlink()
    with pytest.raises(ConfigError, match="missing"):
        folder.load_secrets()
