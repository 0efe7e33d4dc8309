"""Schemes: reading, bounds, quorums, sizes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objstore.ec.scheme import WIDTH_MAX, BadScheme, Scheme
from objstore.errors import ConfigError, InvalidRequest

schemes = st.one_of(
    st.builds(lambda copies: Scheme(1, copies - 1), st.integers(1, WIDTH_MAX)),
    st.integers(2, WIDTH_MAX - 1).flatmap(
        lambda k: st.builds(lambda m: Scheme(k, m), st.integers(1, WIDTH_MAX - k))
    ),
)


@pytest.mark.parametrize(
    ("text", "k", "m"),
    [("replicate:1", 1, 0), ("replicate:3", 1, 2), ("ec:4+2", 4, 2), ("ec:28+4", 28, 4)],
)
def test_written_form_names_data_and_parity(text: str, k: int, m: int) -> None:
    scheme = Scheme.parse(text)
    assert (scheme.k, scheme.m, scheme.width, scheme.read_quorum) == (k, m, k + m, k)
    assert str(scheme) == text


@given(schemes)
def test_written_form_reads_back(scheme: Scheme) -> None:
    assert Scheme.parse(str(scheme)) == scheme


@pytest.mark.parametrize(
    "text",
    [
        "",
        "replicate",
        "replicate:0",
        "replicate:33",
        "replicate:-1",
        "replicate:3 ",
        "Replicate:3",
        "ec:4",
        "ec:4+0",
        "ec:0+2",
        "ec:1+2",  # One thing has one name.
        "ec:30+3",
        "ec:4+2+1",
        "ec:99999999999999999999+2",
        "replicate:³",
        "replicate:٣",
    ],
)
def test_what_cannot_be_is_refused_wherever_it_was_written(text: str) -> None:
    with pytest.raises(BadScheme) as caught:
        Scheme.parse(text)
    assert isinstance(caught.value, ConfigError)
    assert isinstance(caught.value, InvalidRequest)


@pytest.mark.parametrize(
    ("text", "quorum"),
    [
        ("replicate:1", 1),
        ("replicate:2", 2),
        ("replicate:3", 2),
        ("replicate:4", 3),
        ("replicate:5", 3),
        ("ec:2+1", 3),
        ("ec:4+2", 5),
        ("ec:6+3", 8),
        ("ec:10+4", 12),
    ],
)
def test_write_quorum_with_all_places(text: str, quorum: int) -> None:
    scheme = Scheme.parse(text)
    assert scheme.write_quorum(scheme.width) == quorum


@pytest.mark.parametrize(
    ("text", "places", "quorum"),
    [
        ("replicate:3", 2, 2),
        ("replicate:3", 1, 1),
        ("ec:4+2", 5, 5),
        ("ec:4+2", 4, 4),
        ("ec:4+2", 3, 4),  # More than there are: it cannot be written at all.
    ],
)
def test_small_cluster_lowers_the_floor_but_never_below_k(
    text: str, places: int, quorum: int
) -> None:
    assert Scheme.parse(text).write_quorum(places) == quorum


@given(schemes, st.integers(0, WIDTH_MAX))
def test_write_quorum_can_always_be_read_and_grows_with_places(
    scheme: Scheme, places: int
) -> None:
    quorum = scheme.write_quorum(places)
    assert scheme.k <= quorum <= scheme.width
    assert quorum <= scheme.write_quorum(places + 1)


@given(schemes, st.integers(0, 10_000))
def test_fragments_hold_the_data_and_little_more(scheme: Scheme, size: int) -> None:
    fragment = scheme.fragment_size(size)
    assert size <= fragment * scheme.k < size + scheme.k


def test_fragment_of_a_chunk_is_the_sum_of_its_blocks() -> None:
    scheme = Scheme(4, 2)
    assert scheme.chunk_fragment_size(2 * 1000 + 7, block_size=1000) == 2 * 250 + 2
    assert scheme.chunk_fragment_size(0, block_size=1000) == 0
