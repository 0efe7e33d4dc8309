"""Bytes in any of the forms that hold them: one name for what is read and not kept."""

from __future__ import annotations

Buffer = bytes | bytearray | memoryview
