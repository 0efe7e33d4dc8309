"""`objstore sim`: whole clusters on virtual time, from seeds."""

from __future__ import annotations

import logging
import multiprocessing
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator

import attrs
import click
import structlog
import trio

from objstore.cli.output import FAILED, print_json, say
from objstore.config import Config
from objstore.host.host import Host
from objstore.node.daemon import run_node
from objstore.testing.cluster.faults import FAULTS
from objstore.testing.cluster.program import RunningNode
from objstore.testing.cluster.simulation import Plan, Report, simulate
from objstore.testing.mutants.catching import MUTANTS, Catch, catch


@click.command("sim")
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--seeds", metavar="A..B", help="Many seeds, B among them, instead of one.")
@click.option(
    "--processes", type=click.IntRange(1), default=os.cpu_count(), help="For --seeds."
)
@click.option("--nodes", type=click.IntRange(1, 9), default=3, show_default=True)
@click.option(
    "--steps", type=click.IntRange(0), default=60, show_default=True, help="Of 250 ms."
)
@click.option(
    "--faults",
    default=",".join(FAULTS),
    show_default=True,
    help='Comma separated; "" for none.',
)
@click.option("--unbounded", is_flag=True, help="Any disk may rot: only safety is checked.")
@click.option("--mutants", is_flag=True, help="Plant known bugs: is each one found?")
@click.option("--verbose", is_flag=True, help="Print what happens, in virtual time.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def command(
    seed: int,
    seeds: str | None,
    processes: int,
    nodes: int,
    steps: int,
    faults: str,
    unbounded: bool,
    mutants: bool,
    verbose: bool,
    as_json: bool,
) -> None:
    """Run whole clusters on virtual time, with faults, and check what they answer.

    A seed that fails prints what was wrong and the command that replays it, and exits 1.
    """
    if mutants:
        _hunt(processes, as_json=as_json)
        return
    plan = Plan(
        seed=seed,
        nodes=nodes,
        steps=steps,
        faults=_parse_faults(faults),
        bounded=not unbounded,
    )
    if seeds is None:
        reports: Iterable[Report] = [run_plan(plan, verbose=verbose)]
    else:
        plans = [attrs.evolve(plan, seed=each) for each in _parse_seeds(seeds)]
        reports = _run_all(plans, processes)
    failed = False
    for report in reports:
        _print(report, as_json=as_json)
        failed |= bool(report.violations)
    if failed:
        raise SystemExit(FAILED)


def run_plan(plan: Plan, *, verbose: bool = False) -> Report:
    """Run one simulation, in this process."""
    _set_up_log(verbose=verbose)
    return simulate(plan, run_program, on_note=say if verbose else None)


def _hunt(processes: int, *, as_json: bool) -> None:
    """Plant every mutant, one at a time and several processes beside each other."""
    context = multiprocessing.get_context("spawn")
    catches: list[Catch] = []
    with context.Pool(processes, maxtasksperchild=1) as pool:
        for caught in pool.imap_unordered(_catch, MUTANTS):
            catches.append(caught)
            end = "caught" if caught.caught else "GOT AWAY"
            line = f"{caught.name}: {end}, {len(caught.seeds)} seeds: {caught.words[:200]}"
            say(line) if as_json else print(line, flush=True)
    escaped = [caught.name for caught in catches if not caught.caught]
    if as_json:
        fields = ("name", "caught", "seeds")
        shown = [{name: getattr(each, name) for name in fields} for each in catches]
        print_json({"mutants": shown})
    else:
        print(f"{len(catches) - len(escaped)} of {len(catches)} mutants were caught")
    if escaped:
        raise SystemExit(FAILED)


def _catch(name: str) -> Catch:
    _set_up_log(verbose=False)
    return catch(name, run_program)


def _run_all(plans: Iterable[Plan], processes: int) -> Iterator[Report]:
    """Run each in a process of its own kind, several at a time; in order."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes) as pool:
        yield from pool.imap(run_plan, plans)


def _parse_seeds(text: str) -> range:
    first, dots, last = text.partition("..")
    if not (dots and first.isdigit() and last.isdigit()):
        raise click.BadParameter(f"{text!r} is not A..B", param_hint="--seeds")
    return range(int(first), int(last) + 1)


async def run_program(
    config: Config,
    host: Host,
    stopping: trio.Event,
    started: Callable[[RunningNode], None],
) -> None:
    """The node, as the simulation runs it."""

    class Started:
        def started(self, value: RunningNode) -> None:
            started(value)

    await run_node(config, host, stopping, task_status=Started())  # type: ignore[arg-type]


def _parse_faults(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if unknown := sorted(set(names) - FAULTS.keys()):
        raise click.BadParameter(
            f"{', '.join(unknown)}: there are {', '.join(FAULTS)}", param_hint="--faults"
        )
    return names


def _set_up_log(*, verbose: bool) -> None:
    def stamp(_: object, __: str, event: structlog.typing.EventDict) -> object:
        event["at"] = f"{trio.current_time():.3f}"
        return event

    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            stamp,  # type: ignore[list-item]
            structlog.processors.format_exc_info,
            structlog.processors.KeyValueRenderer(key_order=["at", "event"]),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.INFO if verbose else logging.CRITICAL
        ),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def replay_command(plan: Plan) -> str:
    """The one command that runs a plan again."""
    words = ["objstore", "sim", "--seed", str(plan.seed)]
    usual = Plan(seed=plan.seed)
    if plan.nodes != usual.nodes:
        words += ["--nodes", str(plan.nodes)]
    if plan.steps != usual.steps:
        words += ["--steps", str(plan.steps)]
    if plan.faults != usual.faults:
        words += ["--faults", ",".join(plan.faults)]
    if not plan.bounded:
        words.append("--unbounded")
    return shlex.join(words)


def _print(report: Report, *, as_json: bool) -> None:
    plan = report.plan
    for violation in report.violations:
        say(str(violation))
    if report.violations:
        say(f"replay: {replay_command(plan)}")
    if as_json:
        print_json(
            {
                "seed": plan.seed,
                "steps": report.steps,
                "operations": report.operations,
                "trace_hash": report.trace_hash,
                "violations": [attrs.asdict(each) for each in report.violations],
            }
        )
        return
    struck = ", ".join(f"{count} {name}" for name, count in sorted(report.strikes.items()))
    print(
        f"seed {plan.seed}: {report.steps} steps, {report.virtual_s:.0f} s of virtual time,"
        f" {report.operations} operations; faults: {struck or 'none'};"
        f" {len(report.violations)} violations; trace {report.trace_hash}"
    )
