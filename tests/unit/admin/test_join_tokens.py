"""Join tokens: their form, and that their secret shows nowhere by accident."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objstore.admin.tokens import Token
from objstore.errors import InvalidRequest

HEX = "0123456789abcdef"


def digits(count: int) -> st.SearchStrategy[str]:
    return st.text(HEX, min_size=count, max_size=count)


tokens = st.builds(Token, digits(64), digits(16), digits(32))


@given(tokens)
def test_a_token_that_is_written_is_read_again(token: Token) -> None:
    assert Token.parse(str(token)) == token
    assert Token.parse(f"  {token}\n") == token


@given(tokens)
def test_the_secret_is_not_in_the_repr_nor_kept_as_it_is(token: Token) -> None:
    assert "secret" not in repr(token)
    assert token.secret_hash() == hashlib.sha256(token.secret.encode()).digest()


@given(st.text() | tokens.map(lambda token: str(token)[:-1]))
def test_anything_else_is_refused_with_a_hint(text: str) -> None:
    with pytest.raises(InvalidRequest, match="objstore node token"):
        Token.parse(text)


@given(tokens, st.integers(0, 119))
def test_no_character_of_a_token_may_be_of_another_kind(token: Token, place: int) -> None:
    text = str(token)
    place %= len(text)
    with pytest.raises(InvalidRequest):
        Token.parse(text[:place] + "_" + text[place + 1 :])
