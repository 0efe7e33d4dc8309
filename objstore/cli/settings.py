"""How a command finds its configuration: file, environment, flags."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from objstore import config as configuration
from objstore.cli.output import UNUSABLE, Failure
from objstore.config import Config
from objstore.errors import ConfigError


def read_config(path: str | None, overrides: Mapping[str, object] | None = None) -> Config:
    """Load `path` (None: no file), the environment, then overrides.  Raises Failure."""
    text = ""
    if path is not None:
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise Failure(
                f"{path}: cannot be read: {error}",
                hint="conf/objstore.toml shows every key",
                code=UNUSABLE,
            ) from error
    try:
        return configuration.load(
            text,
            path=path or "the configuration",
            environment=os.environ,
            overrides=overrides,
        )
    except ConfigError as error:
        raise Failure(
            str(error), hint="conf/objstore.toml shows every key", code=UNUSABLE
        ) from error


def parse_overrides(settings: tuple[str, ...]) -> dict[str, str]:
    """`--set KEY=VALUE` flags.  Raises Failure."""
    overrides = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise Failure(
                f"--set {setting}: not KEY=VALUE",
                hint="for example --set chunks.chunk_size=8MiB",
                code=2,
            )
        overrides[key.strip()] = value.strip()
    return overrides
