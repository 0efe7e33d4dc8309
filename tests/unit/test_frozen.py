"""`objstore.frozen`: as `attrs.frozen` in all but the guard, which mypy keeps."""

import textwrap
from pathlib import Path

import attrs
import pytest
from mypy import api

from objstore.frozen import frozen


@attrs.frozen
class Guarded:
    number: int
    name: str = "n"


@frozen
class Plain:
    number: int
    name: str = "n"


def test_values_are_equal_and_hash_by_their_fields() -> None:
    assert Plain(1) == Plain(1) != Plain(2)
    assert len({Plain(1), Plain(1), Plain(2)}) == 2
    assert repr(Plain(1)) == repr(Guarded(1)).replace("Guarded", "Plain")


def test_there_is_no_other_attribute_and_no_dict() -> None:
    value = Plain(1)
    assert not hasattr(value, "__dict__")
    with pytest.raises(AttributeError):
        value.other = 1  # type: ignore[attr-defined]


def test_mypy_finds_an_assignment(tmp_path: Path) -> None:
    source = tmp_path / "assigns.py"
    source.write_text(
        textwrap.dedent(
            """
            from objstore.frozen import frozen

            @frozen
            class Value:
                number: int

            Value(1).number = 2
            """
        )
    )
    found, _, status = api.run(["--cache-dir", str(tmp_path / "cache"), str(source)])
    assert status == 1
    assert 'Property "number" defined in "Value" is read-only' in found
