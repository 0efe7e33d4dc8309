"""Numbers of the rpc layer.  No operator needs to touch them, tests do."""

from __future__ import annotations

import attrs

from objstore.limits import CALLS_IN_FLIGHT_MAX, FRAME_SIZE_MAX
from objstore.units import KiB, MiB


@attrs.frozen(kw_only=True)
class RpcConfig:
    """How links between nodes behave."""

    connect_timeout_ms: int = 3_000  # Connect, TLS and hello together.
    # How long a call waits for a connect after one that failed: long enough where the peer
    # is back, and where it is beyond a black hole nobody else waits three seconds for it.
    reconnect_wait_ms: int = 500
    backoff_min_ms: int = 50  # Pause after a first failed connect, doubled up to:
    backoff_max_ms: int = 1_000  # Short, as a node that is back should be seen at once.
    ping_interval_ms: int = 2_000  # A link silent for so long is asked whether it lives,
    ping_timeout_ms: int = 3_000  # and given up when it stays silent for so long (F20).
    idle_timeout_ms: int = 600_000  # A link that nobody used for so long is closed.
    bulk_links: int = 2  # Per peer, beside the control link.
    calls_in_flight_max: int = CALLS_IN_FLIGHT_MAX  # Per link; more wait.
    # Payload bytes of requests in flight on a link; more wait.  Four blocks for each of
    # a few streams keep a link full.
    bytes_in_flight_max: int = 16 * MiB
    queue_size_max: int = 8 * MiB  # Bytes waiting to be sent on a link.
    cast_size_max: int = 4 * MiB  # Casts beyond so many waiting bytes are dropped.
    links_max: int = 4_096  # Accepted connections.
    hello_timeout_ms: int = 5_000  # Accepted: TLS and hello together.
    # Connections without a certificate, and those that have not said hello (F32).
    strangers_max: int = 64
    stranger_life_ms: int = 30_000
    stranger_frame_size_max: int = 64 * KiB
    stranger_calls_max: int = 4

    def __attrs_post_init__(self) -> None:
        assert self.bytes_in_flight_max >= FRAME_SIZE_MAX
        assert self.cast_size_max <= self.queue_size_max
        assert self.backoff_min_ms <= self.backoff_max_ms
