"""Descriptors: connections never take what storage needs."""

from hypothesis import given
from hypothesis import strategies as st

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
