"""Silence: who is left alone, and for how long."""

from __future__ import annotations

from objstore.errors import NotFound
from objstore.ids import NodeId
from objstore.meta.silence import SILENT_MAX_S, Silence
from objstore.rpc.call import DeadlineExceeded, PeerFailed, PeerUnavailable

ONE, OTHER = NodeId("a" * 16), NodeId("b" * 16)


def silent(at: float, *, after_s: float = 3.0) -> Silence:
    silence = Silence()
    error = DeadlineExceeded(ONE, "no answer in time", unknown=True)
    silence.note(ONE, error, at - after_s, at)
    return silence


def test_who_did_not_answer_is_left_alone_for_a_while() -> None:
    silence = silent(10.0)
    assert silence.is_silent(ONE, 10.0)
    assert not silence.is_silent(OTHER, 10.0)
    assert silence.is_silent(ONE, 10.0 + SILENT_MAX_S - 0.01)


def test_who_fails_at_once_is_soon_tried_again() -> None:
    silence = silent(10.0, after_s=0.001)
    assert silence.is_silent(ONE, 10.05)
    assert silence.may_try(ONE, 10.11)


def test_one_caller_tries_again_while_the_others_do_not() -> None:
    silence = silent(10.0)
    later = 10.0 + SILENT_MAX_S
    assert silence.may_try(ONE, later)
    assert not silence.may_try(ONE, later)
    assert silence.may_try(OTHER, later)
    assert silence.may_try(OTHER, later)


def test_any_word_ends_it() -> None:
    for error in (NotFound("no"), PeerFailed(ONE, "a bug", unknown=True)):
        silence = silent(10.0)
        silence.note(ONE, error, 10.0, 10.1)
        assert not silence.is_silent(ONE, 10.2)
    silence = silent(10.0)
    silence.forget(ONE)
    assert not silence.is_silent(ONE, 10.2)


def test_that_a_relay_could_not_reach_a_third_node_is_a_word_of_the_relay() -> None:
    silence = silent(10.0)
    silence.note(ONE, PeerUnavailable(OTHER, "refused", unknown=False), 10.0, 10.1)
    assert not silence.is_silent(ONE, 10.2)
    assert not silence.is_silent(OTHER, 10.2)
