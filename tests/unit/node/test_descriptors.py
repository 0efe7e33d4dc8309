"""Descriptors: connections never take what storage needs."""

import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from objstore.chunks import driver
from objstore.chunks.format import NONCE_SIZE, SegmentHeader
from objstore.chunks.segment import create_segment
from objstore.host.real_disk import RealDisks
from objstore.ids import DriveId
from objstore.node.descriptors import Shares, share


def test_where_there_are_enough_the_asked_bounds_hold():
    shares = share(65_536, drives=4, connections_max=4096, links_max=4096)
    assert shares == Shares(clients=4096, peers=4096)


def test_with_the_usual_small_limit_storage_keeps_its_own():
    shares = share(1024, drives=1, connections_max=4096, links_max=4096)
    assert 200 <= shares.clients <= 500
    assert 1024 - shares.clients - shares.peers > 500


@given(st.integers(16, 1 << 20), st.integers(1, 64))
def test_connections_leave_room_for_files_whatever_the_limit(limit, drives):
    shares = share(limit, drives=drives, connections_max=4096, links_max=4096)
    assert min(shares.clients, shares.peers) >= 1
    assert shares.clients + shares.peers <= limit - limit // 4
    assert shares.clients <= limit // 2


def test_a_drives_share_is_what_its_open_files_take(tmp_path: Path):
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    directory = RealDisks().directory(str(tmp_path))
    before = count()
    files = [
        create_segment(
            directory, SegmentHeader(DriveId("ab" * 8), number, bytes(NONCE_SIZE), 0), 4096
        )
        for number in range(4)
    ]
    taken = count() - before
    for file in files:
        file.close()
    assert taken * driver.OPEN_FILES_MAX <= driver.DESCRIPTORS_MAX * len(files)
    fewer = share(4096, drives=8, connections_max=4096, links_max=4096)
    assert 4096 - fewer.clients - fewer.peers >= 8 * driver.DESCRIPTORS_MAX
