"""Structured logging: stable event names, everything else is keys.

Events are `package.thing_happened`; keys come from one list (docs/reference/events.md).
Output goes to stderr, JSON or for a console.  Secrets and object bytes never.
"""

from __future__ import annotations

import logging
import sys
from typing import Literal

import structlog

LogFormat = Literal["json", "console"]


def configure(*, level: str, format: LogFormat, node: str | None = None) -> None:  # noqa: A002
    """Set up the process's log; `node` is bound to every line."""
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer(default=str)
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
        cache_logger_on_first_use=False,
    )
    if node is not None:
        structlog.contextvars.bind_contextvars(node=node)
