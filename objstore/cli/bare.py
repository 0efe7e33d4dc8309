"""The unit that costs are told in: a bare trio+h11 server answering a 4 KiB GET."""

from __future__ import annotations

import http.client
import multiprocessing
import resource
import threading
from multiprocessing.connection import Connection

import h11
import trio

_BODY = bytes(4096)
_REQUESTS = 4000
_CLIENTS = 16


def unit_ms() -> float:
    """CPU milliseconds of one such answer, on this machine, now."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=_serve, args=(theirs,), daemon=True)
    server.start()
    port = ours.recv()
    _request(port, _CLIENTS)  # Warm.
    ours.send("start")
    ours.recv()
    _request(port, _REQUESTS)
    ours.send("stop")
    cpu_s = float(ours.recv())
    server.join()
    return cpu_s * 1000 / _REQUESTS


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
        await trio.to_thread.run_sync(pipe.recv)
        before = _cpu_s()
        pipe.send("started")
        await trio.to_thread.run_sync(pipe.recv)
        pipe.send(_cpu_s() - before)
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
