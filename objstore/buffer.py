"""Bytes in any of the forms that hold them: one name for all three."""

from __future__ import annotations

Buffer = bytes | bytearray | memoryview
