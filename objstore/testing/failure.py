"""Errors as an operating system raises them."""

from __future__ import annotations

import errno


def os_error(code: int, path: str | None = None) -> OSError:
    """The OSError, of the subclass that Python has for it, of an errno."""
    name = errno.errorcode.get(code, "unknown error")
    return OSError(code, f"simulated {name}", path)
