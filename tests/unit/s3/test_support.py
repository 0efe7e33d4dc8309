"""docs/s3.md says what the server does."""

from pathlib import Path

from objstore.s3.model import operations
from objstore.s3.operations.registry import OPERATIONS
from objstore.s3.support import render

PAGE = Path(__file__).parents[3] / "docs" / "s3.md"


def test_the_page_is_what_the_table_says():
    # To write it anew: python -c "from objstore.s3.support import render; print(render(), end='')"
    assert PAGE.read_text() == render()


def test_every_operation_that_is_built_is_one_that_s3_has():
    assert OPERATIONS.keys() <= operations().keys()
