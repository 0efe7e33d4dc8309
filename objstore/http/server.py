"""The HTTP server: a listener, its connections, their deadlines, a graceful stop.

accept (while fewer than connections_max) --> one task a Connection
full: of those without a request, the ones that have waited longest are closed
timer, twice a second: cancels connections that let us wait for too long
drain(): stop accepting, close the idle, give the others until a deadline
"""

from __future__ import annotations

from heapq import nsmallest

import structlog
import trio

from objstore import metrics
from objstore.config import HttpConfig
from objstore.host.clock import Clock, next_beat_s
from objstore.host.network import Address, Listener, Network, ServerTls, Stream
from objstore.http.connection import (
    Connection,
    Handler,
    RefusalHandler,
    Timeouts,
    plain_refusal,
)
from objstore.http.dates import format_http_date

log = structlog.get_logger()

# Looking for connections to close takes a while, so it pays to close more than one: of
# those that are idle a share, as their clients may well come again.
_EVICTED_IDLE_SHARE = 64
_TIMER_S = 0.5  # Coarse: deadlines are tens of seconds, and no connection pays for one.


class HttpServer:
    """Serves `handler` on one address."""

    def __init__(
        self,
        network: Network,
        address: Address,
        handler: Handler,
        *,
        clock: Clock,
        tls: ServerTls | None = None,
        config: HttpConfig | None = None,
        refuse: RefusalHandler = plain_refusal,
    ) -> None:
        """refuse: answers a head that cannot be read, which `handler` never sees."""
        self._network = network
        self._address = address
        self._handler = handler
        self._refuse = refuse
        self._clock = clock
        self._tls = tls
        self._config = config or HttpConfig()
        self._timeouts = Timeouts(
            head_s=self._config.header_timeout_ms / 1000,
            idle_s=self._config.idle_timeout_ms / 1000,
            body_s=self._config.body_timeout_ms / 1000,
        )
        self._connections: set[Connection] = set()
        self._has_begun = trio.Event()  # Set at a connection's begin.
        self._places = trio.Semaphore(self._config.connections_max)
        self._accepting = trio.CancelScope()
        self._serving = trio.CancelScope()
        self._emptied = trio.Event()
        self._date_s = -1
        self._date = ""

    async def run(
        self, *, task_status: trio.TaskStatus[Address] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Listen and serve until cancelled or drained; started() gives the address.

        Raises OSError where it cannot listen.  If cancelled, requests are cut off.
        """
        listener = await self._network.listen(self._address, tls=self._tls)
        log.info("http.listener_opened", address=str(listener.address))
        try:
            with self._serving:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._watch_deadlines)
                    task_status.started(listener.address)
                    await self._accept(listener, nursery)
                    await self._finish()
                    nursery.cancel_scope.cancel()
        finally:
            self._emptied.set()
        log.info("http.listener_closed", address=str(listener.address))

    async def drain(self) -> None:
        """Stop accepting and return once every request is answered or given up."""
        self._accepting.cancel()
        with trio.move_on_after(self._config.drain_timeout_ms / 1000) as scope:
            await self._emptied.wait()
        if scope.cancelled_caught:
            log.warning("http.requests_cut", requests=len(self._connections))
            self._serving.cancel()

    async def _accept(self, listener: Listener, nursery: trio.Nursery) -> None:
        try:
            with self._accepting:
                while True:
                    if not self._places.value:
                        self._make_room()
                        await self._places.acquire()
                    else:
                        self._places.acquire_nowait()
                    stream = await listener.accept()
                    nursery.start_soon(self._serve, self._begin(stream))
        finally:
            await listener.aclose()

    def _make_room(self) -> None:
        """Close connections that have no request, the idle only if there are no others.

        Not the idle alone, or who opens enough connections and says nothing, or little
        and slowly, locks everybody else out (F34).
        """
        now = trio.current_time()
        waiting = [it for it in self._connections if it.may_be_evicted(now)]
        evicted = [it for it in waiting if it.phase != "idle"]
        if not evicted:
            count = max(1, self._config.connections_max // _EVICTED_IDLE_SHARE)
            evicted = nsmallest(count, waiting, key=lambda it: it.deadline)
        for connection in evicted:
            log.debug("http.connection_evicted", phase=connection.phase)
            metrics.HTTP_EVICTED.inc()
            connection.scope.cancel()

    async def _finish(self) -> None:
        """Let requests in progress end; `drain` says for how long."""
        for connection in list(self._connections):
            connection.drain()
        if self._connections:
            await self._emptied.wait()

    def _begin(self, stream: Stream) -> Connection:
        connection = Connection(
            stream,
            self._handler,
            timeouts=self._timeouts,
            date=self.date,
            secure=self._tls is not None,
            refuse=self._refuse,
            by_h11=self._config.parser == "h11",
        )
        self._connections.add(connection)
        self._has_begun.set()
        metrics.HTTP_CONNECTIONS.set(len(self._connections))
        return connection

    async def _serve(self, connection: Connection) -> None:
        try:
            await connection.run()
        except Exception as error:
            log.exception("http.connection_failed", reason=str(error))
        finally:
            self._connections.discard(connection)
            metrics.HTTP_CONNECTIONS.set(len(self._connections))
            self._places.release()
            if self._accepting.cancel_called and not self._connections:
                self._emptied.set()

    async def _watch_deadlines(self) -> None:
        while True:
            if not self._connections:
                self._has_begun = trio.Event()
                await self._has_begun.wait()
            await trio.sleep_until(next_beat_s(_TIMER_S))
            if self._places.statistics().tasks_waiting:
                self._make_room()
            now = trio.current_time()
            for connection in list(self._connections):
                if connection.is_expired(now) and not connection.scope.cancel_called:
                    log.debug("http.connection_expired", phase=connection.phase)
                    metrics.HTTP_EXPIRED.labels(connection.phase).inc()
                    connection.scope.cancel()

    def date(self) -> str:
        """Now, as the header Date says it."""
        now_s = self._clock.utc_now_ms() // 1000
        if now_s != self._date_s:
            self._date_s = now_s
            self._date = format_http_date(now_s * 1000)
        return self._date
