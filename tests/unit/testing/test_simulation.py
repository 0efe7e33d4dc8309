from __future__ import annotations

import time

import pytest
import trio

from objstore.host.network import Address, ClientTls, ServerTls
from objstore.ids import ClusterId, NodeId
from objstore.testing import simulation
from objstore.testing.host import HostCrashed, SimulatedWorld
from objstore.testing.simulation import Trace, run_simulation

CLUSTER = ClusterId("c" * 32)
NODES = {"a": NodeId("a" * 16), "b": NodeId("b" * 16), "c": NodeId("c" * 16)}


def small_cluster(seed: int) -> Trace:
    """Three hosts that write, talk under TLS, are cut off and crash."""
    trace = Trace()

    async def program() -> None:
        world = SimulatedWorld(seed)
        world.fabric.default.jitter_s = 0.05
        founder = world.host("a")
        now_ms = founder.clock.utc_now_ms()
        authority = founder.pki.create_authority(CLUSTER, now_ms=now_ms, days=10)

        async def node(name):
            async def serve(host):
                identity = host.pki.issue(
                    authority, CLUSTER, NODES[name], now_ms=now_ms, days=5
                )
                root = host.disks.directory("/data", create=True)
                trace.note(f"{name} finds {root.names()}")
                worker = host.threads.worker("wal")
                listener = await host.network.listen(
                    Address(name, 80), tls=ServerTls(lambda: identity, mutual=True)
                )

                async def answer(stream):
                    try:
                        data = await stream.receive_some(100)
                        trace.note(f"{name} hears {stream.peer_node} say {data!r}")
                        file = root.open(host.entropy.token(8).hex(), create=True)
                        file.write_at(0, data)
                        await worker.run(file.sync)
                        await stream.send_all(b"ok")
                        await stream.aclose()
                    except trio.BrokenResourceError:
                        trace.note(f"{name} broken")

                async def ask():
                    while True:
                        await trio.sleep(host.entropy.random.random())
                        other = host.entropy.random.choice(sorted(NODES))
                        try:
                            with trio.fail_after(1):
                                stream = await host.network.connect(
                                    Address(other, 80), tls=ClientTls(identity)
                                )
                                await stream.send_all(host.entropy.token(4))
                                reply = await stream.receive_some(100)
                            trace.note(f"{name} got {reply!r} of {other}")
                        except (OSError, trio.BrokenResourceError, trio.TooSlowError) as e:
                            trace.note(f"{name} {type(e).__name__}")

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(ask)
                    while True:
                        nursery.start_soon(answer, await listener.accept())

            while True:
                try:
                    await world.run(name, serve)
                except HostCrashed:
                    trace.note(f"{name} crashed")
                    await trio.sleep(1)
                    if not world.is_up(name):
                        world.restart(name)

        async with trio.open_nursery() as nursery:
            for name in NODES:
                nursery.start_soon(node, name)
            await trio.sleep(5)
            world.cut("a", "b")
            await trio.sleep(5)
            world.heal_all()
            world.crash("c")
            await trio.sleep(5)
            world.kill("a")
            await trio.sleep(5)
            nursery.cancel_scope.cancel()

    run_simulation(seed, program)
    return trace


@pytest.mark.slow
def test_one_seed_gives_one_trace_and_another_seed_another():
    first, again, other = small_cluster(1), small_cluster(1), small_cluster(2)
    assert first.digest() == again.digest() != other.digest()


def test_tasks_run_in_an_order_from_the_seed():
    def order(seed):
        ran = []

        async def program():
            async def task(number):
                await trio.sleep(0)
                ran.append(number)

            async with trio.open_nursery() as nursery:
                for number in range(10):
                    nursery.start_soon(task, number)

        run_simulation(seed, program)
        return tuple(ran)

    assert order(1) == order(1)
    assert len({order(seed) for seed in range(10)}) > 5


def test_waiting_costs_no_time():
    began = time.monotonic()

    async def program():
        await trio.sleep(3 * 24 * 3600)
        return trio.current_time()

    assert run_simulation(1, program) == 3 * 24 * 3600
    assert time.monotonic() - began < 60


def test_a_simulation_that_waits_for_ever_ends():
    with pytest.raises(trio.TooSlowError):
        run_simulation(1, trio.sleep_forever, time_limit_s=100)


def test_the_error_of_a_simulation_is_its_callers():
    async def program():
        raise KeyError("x")

    with pytest.raises(KeyError):
        run_simulation(1, program)


def test_trio_is_left_as_it_was_found():
    async def program():
        pass

    loop = trio._core._run
    state = loop._r.getstate()
    before = loop._ALLOW_DETERMINISTIC_SCHEDULING
    run_simulation(1, program)
    assert before == loop._ALLOW_DETERMINISTIC_SCHEDULING
    assert loop._r.getstate() == state


def test_tasks_that_wake_each_other_for_ever_are_found_out(monkeypatch):
    monkeypatch.setattr(simulation, "PASSES_MAX", 1000)

    async def program():
        while True:
            await trio.lowlevel.checkpoint()

    with pytest.raises(simulation.Livelock, match="for ever"):
        run_simulation(1, program)
