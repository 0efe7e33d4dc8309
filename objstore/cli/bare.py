"""The unit that costs are told in: a bare trio+h11 server answering a 4 KiB GET."""

from __future__ import annotations

import http.client
import multiprocessing
import resource
import threading
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Self

import h11
import trio

_BODY = bytes(4096)
_REQUESTS = 1600
_CLIENTS = 16
_END_S = 5


class BareServer:
    """Such a server, in a process of its own: a context."""

    def __enter__(self) -> Self:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        self._port = self._pipe.recv()
        _request(self._port, _REQUESTS)  # Warm.
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.close()
        self._process.join(_END_S)
        self._process.kill()

    def unit_ms(self) -> float:
        """CPU milliseconds of one answer, on this machine, now."""
        before = self._cpu_s()
        _request(self._port, _REQUESTS)
        return (self._cpu_s() - before) * 1000 / _REQUESTS

    def _cpu_s(self) -> float:
        self._pipe.send("how much?")
        return float(self._pipe.recv())


def _request(port: int, count: int) -> None:
    def work() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        for _ in range(count // _CLIENTS):
            connection.request("GET", "/")
            connection.getresponse().read()
        connection.close()

    threads = [threading.Thread(target=work) for _ in range(_CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _serve(pipe: Connection) -> None:
    trio.run(_serve_async, pipe)


async def _serve_async(pipe: Connection) -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    pipe.send(listeners[0].socket.getsockname()[1])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, _answer, listeners)
        with suppress(EOFError):
            while True:
                await trio.to_thread.run_sync(pipe.recv)
                pipe.send(_cpu_s())
        nursery.cancel_scope.cancel()


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def _answer(stream: trio.SocketStream) -> None:
    connection = h11.Connection(h11.SERVER)
    headers = [("Content-Length", str(len(_BODY)))]
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await stream.receive_some(65536))
        elif isinstance(event, h11.EndOfMessage):
            answer = connection.send(h11.Response(status_code=200, headers=headers))
            answer += connection.send(h11.Data(data=_BODY))
            answer += connection.send(h11.EndOfMessage())
            await stream.send_all(answer)
            connection.start_next_cycle()
        elif isinstance(event, h11.ConnectionClosed):
            return
