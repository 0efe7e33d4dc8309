"""Configuration: one frozen part per package, read from TOML, environment and flags.

    conf/objstore.toml      every key, its default, its unit, what a larger value costs
    OBJSTORE_SECTION_KEY    the same key by environment, e.g. OBJSTORE_S3_ADDRESS
    --set section.key=value the same by flag

Later ones win.  An unknown key or a value that cannot be used stops the start, naming
key, line and what is allowed.  Each part of the system gets its own piece, never the whole.
The commented file is generated from the fields below (`render_default_file`); a test
compares.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from objstore import limits
from objstore.errors import ConfigError
from objstore.units import (
    GiB,
    KiB,
    MiB,
    format_duration_ms,
    format_size,
    parse_duration_ms,
    parse_size,
)

ENVIRONMENT_PREFIX = "OBJSTORE_"


@attrs.frozen
class Kind:
    """How a value is written, read and shown."""

    allowed: str  # For the error message.
    parse: Callable[[object], Any]  # Raises ValueError.
    render: Callable[[Any], str]  # As TOML.


def _quoted(text: object) -> str:
    escaped = str(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _parse_text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("not a string")  # noqa: TRY004 - one error type for all kinds.
    return value


def _parse_whole(value: object) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit():
        return int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError("not a whole number")
    return value


def _parse_flag(value: object) -> bool:
    if isinstance(value, str) and value in {"true", "false"}:
        return value == "true"
    if not isinstance(value, bool):
        raise ValueError("neither true nor false")  # noqa: TRY004
    return value


def _parse_texts(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return tuple(item.strip() for item in value.split(",") if item.strip())
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError("not a list of strings")
    return tuple(value)


def _choice(*names: str) -> Kind:
    def parse(value: object) -> str:
        if value not in names:
            raise ValueError("not one of them")
        return str(value)

    return Kind("one of " + ", ".join(names), parse, _quoted)


def _address(value: object) -> str:
    text = _parse_text(value)
    host, colon, port = text.rpartition(":")
    if not (colon and host and port.isascii() and port.isdigit() and int(port) <= 65_535):
        raise ValueError("not HOST:PORT")
    return text


def _address_or_empty(value: object) -> str:
    return "" if value == "" else _address(value)


TEXT = Kind("a string", _parse_text, _quoted)
WHOLE = Kind("a whole number, 0 or more", _parse_whole, str)
FLAG = Kind("true or false", _parse_flag, lambda value: str(value).lower())
TEXTS = Kind(
    "a list of strings", _parse_texts, lambda value: f"[{', '.join(map(_quoted, value))}]"
)
SIZE = Kind(
    'a size such as "64MiB" (B, KiB, MiB, GiB, TiB)',
    lambda value: parse_size(_parse_text(value)),
    lambda value: _quoted(format_size(value)),
)
DURATION = Kind(
    'a duration such as "500ms" (ms, s, m, h, d)',
    lambda value: parse_duration_ms(_parse_text(value)),
    lambda value: _quoted(format_duration_ms(value)),
)
ADDRESS = Kind("HOST:PORT", _address, _quoted)
OPTIONAL_ADDRESS = Kind('HOST:PORT, or ""', _address_or_empty, _quoted)


def _key(kind: Kind, default: Any, text: str) -> Any:
    return attrs.field(default=default, metadata={"kind": kind, "text": text})


@attrs.frozen(kw_only=True)
class NodeConfig:
    """This node: its folders, and its place among failure domains."""

    data: str = _key(TEXT, "data", "Folder of the node's identity, log and metadata.")
    drives: tuple[str, ...] = _key(
        TEXTS,
        (),
        "Folders of chunk drives, one a physical drive. Empty: DATA/chunks alone.",
    )
    zone: str = _key(TEXT, "default", "Failure domains, widest first: zone > rack > host.")
    rack: str = _key(TEXT, "default", "Nodes of one rack may fail together.")
    host: str = _key(TEXT, "", 'Nodes of one host may fail together. "": each its own.')
    weight: int = _key(
        WHOLE, 0, "Share of the data, in GiB of capacity. 0: the drives' size at the join."
    )


@attrs.frozen(kw_only=True)
class S3Config:
    """The front door."""

    address: str = _key(ADDRESS, "127.0.0.1:9000", "Where people and programs connect.")
    advertise: str = _key(
        OPTIONAL_ADDRESS, "", 'Address that others are told. "": the listening one.'
    )
    region: str = _key(TEXT, "us-east-1", "Region that signatures must name.")
    domains: tuple[str, ...] = _key(
        TEXTS, (), "Base domains of virtual-hosted buckets (BUCKET.DOMAIN)."
    )
    tls: str = _key(
        _choice("off", "files", "cluster"),
        "off",
        "off; files: the two below; cluster: a certificate of the cluster's own CA.",
    )
    tls_certificate: str = _key(
        TEXT, "", "PEM file, leaf first; read again when it changes."
    )
    tls_key: str = _key(TEXT, "", "PEM file of its private key.")
    tls_names: tuple[str, ...] = _key(
        TEXTS, ("localhost", "127.0.0.1"), "Names and IPs in a certificate of tls=cluster."
    )
    part_size_min: int = _key(
        SIZE,
        limits.PART_SIZE_MIN,
        "Of every part of an upload but the last. Smaller than AWS's: more rows an object.",
    )


@attrs.frozen(kw_only=True)
class ClusterConfig:
    """Between nodes."""

    address: str = _key(ADDRESS, "127.0.0.1:7000", "Port of rpc (TCP) and gossip (UDP).")
    advertise: str = _key(
        OPTIONAL_ADDRESS, "", 'Address that peers are told. "": the listening one.'
    )
    join: tuple[str, ...] = _key(
        TEXTS, (), "Cluster addresses of nodes to join. Empty at first start: found one."
    )
    token: str = _key(TEXT, "", "Join token; better by OBJSTORE_CLUSTER_TOKEN.")


@attrs.frozen(kw_only=True)
class AuthConfig:
    """Who may ask."""

    max_staleness_ms: int = _key(
        DURATION, 5_000, "Keys confirmed longer ago are not used: 503 instead."
    )
    root_access_key: str = _key(TEXT, "", "Root key at the founding; empty: made.")
    root_secret_key: str = _key(TEXT, "", "Its secret; better by environment.")
    metrics_token: bool = _key(FLAG, False, "Ask for the admin token at /-/metrics too.")


@attrs.frozen(kw_only=True)
class MetaConfig:
    """Metadata."""

    inline_size_max: int = _key(
        SIZE, 16 * KiB, "Objects up to this ride in the log: one sync, larger log."
    )
    flush_interval_ms: int = _key(
        DURATION, 60_000, "How often applied rows are flushed; longer: slower restarts."
    )
    flush_size: int = _key(SIZE, 32 * MiB, "Rows in memory before a flush; costs memory.")


@attrs.frozen(kw_only=True)
class RaftConfig:
    """Consensus."""

    heartbeat_interval_ms: int = _key(DURATION, 100, "Shorter: more idle traffic.")
    election_timeout_ms: int = _key(
        DURATION, 1_000, "Shorter: quicker failover, more false elections."
    )
    wal_segment_size: int = _key(SIZE, 16 * MiB, "Log files, written with zeros ahead.")


@attrs.frozen(kw_only=True)
class GossipConfig:
    """Failure detection."""

    probe_interval_ms: int = _key(
        DURATION, 500, "Shorter: quicker detection, more packets."
    )
    probe_timeout_ms: int = _key(DURATION, 250, "Must be below the interval.")


@attrs.frozen(kw_only=True)
class ChunksConfig:
    """Bytes on drives."""

    chunk_size: int = _key(SIZE, 64 * MiB, "Objects are cut into chunks of this size.")
    segment_size: int = _key(SIZE, 256 * MiB, "Preallocated files that hold fragments.")
    reserve: int = _key(
        SIZE, 1 * GiB, "Free space a drive keeps; writes that need it get 507."
    )
    redundancy: str = _key(TEXT, "replicate:3", "How new buckets keep data.")


@attrs.frozen(kw_only=True)
class WriteConfig:
    """Writing chunks."""

    straggler_timeout_ms: int = _key(
        DURATION, 3_000, "An owner silent this long is replaced by a stand-in."
    )


@attrs.frozen(kw_only=True)
class ReadConfig:
    """Reading chunks."""

    hedge_after_ms: int = _key(
        DURATION, 500, "Ask another copy when one is silent so long."
    )


@attrs.frozen(kw_only=True)
class RepairConfig:
    """Mending and freeing."""

    grace_ms: int = _key(
        DURATION, 300_000, "A node dead this long loses its votes to another."
    )
    free_delay_ms: int = _key(
        DURATION, 300_000, "Released chunks stay this long for reads in progress."
    )
    interval_ms: int = _key(DURATION, 2_000, "Pause between rounds when nothing is to do.")
    rate: int = _key(SIZE, 64 * MiB, "Bytes a second that mending may copy, per node.")


@attrs.frozen(kw_only=True)
class MemoryConfig:
    """Memory."""

    in_flight: int = _key(
        SIZE, 192 * MiB, "Bytes of bodies held at once; what does not fit waits, then 503."
    )


@attrs.frozen(kw_only=True)
class HttpConfig:
    """Client connections."""

    connections_max: int = _key(WHOLE, 4096, "More wait in the listen queue.")
    header_timeout_ms: int = _key(DURATION, 10_000, "For a request's head to arrive.")
    idle_timeout_ms: int = _key(DURATION, 60_000, "Between requests of a connection.")
    body_timeout_ms: int = _key(DURATION, 30_000, "Without a byte read or written.")
    drain_timeout_ms: int = _key(DURATION, 10_000, "For requests in progress at a stop.")
    request_timeout_ms: int = _key(
        DURATION, 6_000, "For all metadata of one request, retries among it; then 503."
    )
    parser: str = _key(
        _choice("quick", "h11"), "quick", "Reads plain heads itself, or leaves all to h11."
    )


@attrs.frozen(kw_only=True)
class LogConfig:
    """Logging, to stderr."""

    level: str = _key(_choice("debug", "info", "warning", "error"), "info", "Least level.")
    format: str = _key(_choice("json", "console"), "json", "json, or for a terminal.")


@attrs.frozen(kw_only=True)
class Config:
    """All of it; `node.py` hands each part its own piece."""

    node: NodeConfig = NodeConfig()
    s3: S3Config = S3Config()
    cluster: ClusterConfig = ClusterConfig()
    auth: AuthConfig = AuthConfig()
    meta: MetaConfig = MetaConfig()
    raft: RaftConfig = RaftConfig()
    gossip: GossipConfig = GossipConfig()
    chunks: ChunksConfig = ChunksConfig()
    write: WriteConfig = WriteConfig()
    read: ReadConfig = ReadConfig()
    repair: RepairConfig = RepairConfig()
    memory: MemoryConfig = MemoryConfig()
    http: HttpConfig = HttpConfig()
    log: LogConfig = LogConfig()


def _written_name(field: attrs.Attribute[Any]) -> str:
    """The key in a file: durations are written with their unit, so without `_ms`."""
    if field.metadata["kind"] is DURATION:
        return field.name.removesuffix("_ms")
    return field.name


def _parts() -> dict[str, Any]:
    """Each section's class."""
    return {part.name: type(part.default) for part in attrs.fields(Config)}


def _keys() -> dict[str, tuple[str, attrs.Attribute[Any]]]:
    """section.key as written -> (section, field)."""
    return {
        f"{name}.{_written_name(field)}": (name, field)
        for name, section in _parts().items()
        for field in attrs.fields(section)
    }


@attrs.frozen
class _Setting:
    """A value before it is understood, and where it stands."""

    key: str
    value: object
    where: str


def load(
    text: str = "",
    *,
    path: str = "the configuration",
    environment: Mapping[str, str] | None = None,
    overrides: Mapping[str, object] | None = None,
) -> Config:
    """Read TOML `text`, then the environment, then overrides ("section.key": value).

    Raises ConfigError naming key, line and what is allowed.
    """
    settings = [*_from_toml(text, path)]
    settings += _from_environment(environment or {})
    settings += [
        _Setting(key, value, f"--set {key}") for key, value in (overrides or {}).items()
    ]
    parts: dict[str, dict[str, Any]] = {name: {} for name in _parts()}
    keys = _keys()
    for setting in settings:
        if setting.key not in keys:
            raise ConfigError(
                f"{setting.where}: unknown key {setting.key!r}{_nearest(setting.key, keys)}"
            )
        section, field = keys[setting.key]
        kind: Kind = field.metadata["kind"]
        try:
            parts[section][field.name] = kind.parse(setting.value)
        except ValueError as error:
            raise ConfigError(
                f"{setting.where}: {setting.key} = {setting.value!r} cannot be used: "
                f"it must be {kind.allowed}"
            ) from error
    config = Config(**{name: section(**parts[name]) for name, section in _parts().items()})
    _check(config, {setting.key: setting.where for setting in settings}, path)
    return config


def _check(config: Config, places: Mapping[str, str], path: str) -> None:
    """Relations between keys, and bounds.  places: where each key is set, if it is."""

    def require(holds: bool, sentence: str, *keys: str) -> None:
        if not holds:
            where = next((places[key] for key in keys if key in places), path)
            raise ConfigError(f"{where}: {sentence}")

    require(
        config.gossip.probe_timeout_ms < config.gossip.probe_interval_ms,
        "gossip.probe_timeout must be below gossip.probe_interval",
        "gossip.probe_timeout",
        "gossip.probe_interval",
    )
    require(
        3 * config.raft.heartbeat_interval_ms <= config.raft.election_timeout_ms,
        "raft.election_timeout must be at least three times raft.heartbeat_interval",
        "raft.election_timeout",
        "raft.heartbeat_interval",
    )
    require(
        config.meta.inline_size_max <= limits.INLINE_SIZE_LIMIT,
        f"meta.inline_size_max may be {format_size(limits.INLINE_SIZE_LIMIT)} at most",
        "meta.inline_size_max",
    )
    require(
        limits.BLOCK_SIZE <= config.chunks.chunk_size <= limits.CHUNK_SIZE_MAX,
        f"chunks.chunk_size must be {format_size(limits.BLOCK_SIZE)} to "
        f"{format_size(limits.CHUNK_SIZE_MAX)}",
        "chunks.chunk_size",
    )
    require(
        config.memory.in_flight >= 16 * MiB,
        "memory.in_flight must be at least 16MiB: a request holds several blocks",
        "memory.in_flight",
    )
    require(
        config.repair.rate >= limits.BLOCK_SIZE,
        f"repair.rate must be at least {format_size(limits.BLOCK_SIZE)}: mending would"
        " never end",
        "repair.rate",
    )
    require(
        1 <= config.s3.part_size_min <= limits.PART_SIZE_MAX,
        f"s3.part_size_min must be 1B to {format_size(limits.PART_SIZE_MAX)}",
        "s3.part_size_min",
    )
    require(
        config.s3.tls != "files" or bool(config.s3.tls_certificate and config.s3.tls_key),
        "s3.tls = files needs s3.tls_certificate and s3.tls_key",
        "s3.tls",
    )
    require(
        not config.cluster.join or bool(config.node.data),
        "node.data must name a folder",
        "node.data",
    )


def _from_toml(text: str, path: str) -> list[_Setting]:
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error
    settings = []
    for section, content in document.items():
        where = f"{path}, line {_line_of(text, section, None)}"
        if not isinstance(content, dict):
            raise ConfigError(f"{where}: key {section!r} stands outside a [section]")
        settings += [
            _Setting(
                f"{section}.{key}", value, f"{path}, line {_line_of(text, section, key)}"
            )
            for key, value in content.items()
        ]
    return settings


def _line_of(text: str, section: str, key: str | None) -> int:
    """The line (from 1) where a section, or a key in it, is written."""
    current = ""
    for number, line in enumerate(text.splitlines(), start=1):
        header = re.match(r"\s*\[([^\]]+)\]", line)
        if header:
            current = header[1].strip()
            if key is None and current == section:
                return number
        name = line.partition("=")[0].strip().strip('"')
        if key is None and not current and name == section:
            return number
        if key is not None and (
            (current == section and name == key) or name == f"{section}.{key}"
        ):
            return number
    return 1


def _from_environment(environment: Mapping[str, str]) -> list[_Setting]:
    names = {
        ENVIRONMENT_PREFIX + key.replace(".", "_").upper(): key for key in sorted(_keys())
    }
    sections = tuple(f"{ENVIRONMENT_PREFIX}{name.upper()}_" for name in _parts())
    settings = []
    for name, value in environment.items():
        if name in names:
            settings.append(_Setting(names[name], value, f"environment {name}"))
        elif name.startswith(sections):
            raise ConfigError(
                f"environment {name}: no such key{_nearest(name, list(names))}"
            )
    return settings


def _nearest(name: str, known: Mapping[str, object] | list[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def render_default_file() -> str:
    """conf/objstore.toml: every key, commented, at its default."""
    lines = [
        "# objstore: every key at its default. Uncomment what you change.",
        "# By environment: OBJSTORE_SECTION_KEY; by flag: --set section.key=value.",
    ]
    for name, section in _parts().items():
        summary = (section.__doc__ or "").strip().splitlines()[0]
        lines += ["", f"# {summary}", f"[{name}]"]
        for field in attrs.fields(section):
            kind: Kind = field.metadata["kind"]
            lines += [
                f"# {field.metadata['text']} ({kind.allowed})",
                f"# {_written_name(field)} = {kind.render(field.default)}",
            ]
    return "\n".join(lines) + "\n"


def render_file(values: Mapping[str, object]) -> str:
    """A TOML file that sets just these keys ("section.key" -> parsed value)."""
    keys = _keys()
    by_section: dict[str, list[str]] = {}
    for key, value in values.items():
        section, field = keys[key]
        rendered = field.metadata["kind"].render(value)
        by_section.setdefault(section, []).append(f"{_written_name(field)} = {rendered}")
    return "\n".join(
        f"[{section}]\n" + "\n".join(lines) + "\n" for section, lines in by_section.items()
    )


def parse_value(key: str, text: str) -> object:
    """What `--set key=text` means; relations to other keys are left to `load`.

    Raises ConfigError.
    """
    keys = _keys()
    if key not in keys:
        raise ConfigError(f"--set {key}: unknown key{_nearest(key, keys)}")
    kind: Kind = keys[key][1].metadata["kind"]
    try:
        return kind.parse(text)
    except ValueError as error:
        raise ConfigError(f"--set {key}={text}: it must be {kind.allowed}") from error
