"""Structured logging: stable event names, everything else is keys.

Events are `package.thing_happened`; keys come from one list (docs/reference/events.md).
Output goes to stderr, JSON or for a console.  Secrets and object bytes never.
"""

from __future__ import annotations

import json
import logging
import sys
from typing import Literal

import structlog

LogFormat = Literal["json", "console"]

# Made once: json.dumps would make one for each line.
_ENCODER = json.JSONEncoder(default=str)


def _to_json(event: object, **_: object) -> str:
    return _ENCODER.encode(event)


def configure(*, level: str, format: LogFormat, node: str | None = None) -> None:  # noqa: A002
    """Set up the process's log; `node` is bound to every line."""
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer(_to_json)
        if format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        # Looking all this up anew would cost as much as a line itself.
        cache_logger_on_first_use=True,
    )
    if node is not None:
        structlog.contextvars.bind_contextvars(node=node)
