"""One sample fetched by several processes that see the mirror's directory."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from tempfile import TemporaryDirectory
from textwrap import fill

from tcgamirror.system.parallel import usable_cores
from tests.bench.figures import LINE, in_turn, number, table
from tests.bench.network import DELAY, RATE, shaped
from tests.bench.ours import PROGRAM
from tests.bench.plan import Plan
from tests.gdc.answers import Host
from tests.gdc.report import Record

SHARDS = (1, 2, 4)
REPETITIONS = 3
MPP = 15
HOSTS: Sequence[Host] = ("bucket", "api")


@dataclass(frozen=True, slots=True)
class Fetched:
    """A sample that was fetched. seconds: from the first start to the end of the collection."""

    seconds: float
    served: Sequence[Record]


def section(plan: Plan) -> str:
    prose = (
        f"{plan.sharded} slides of {plan.trials[0].kind.name}, {DELAY * 1000:g} ms a request, "
        f"{RATE / 1e6:g} MB/s a connection, by `range`. One process is `fetch`. N shards are N "
        f"processes `fetch --shard` on this machine of {usable_cores()} cores, then the `fetch` "
        "that collects. The hosts' connections are the mirror's, divided by N."
    )
    columns = ("way", "s", "times one process", "MB", *(f"requests to the {h}" for h in HOSTS))
    return "\n\n".join(["## Shards", fill(prose, LINE), table(columns, _rows(plan))])


def _rows(plan: Plan) -> Iterator[Sequence[str]]:
    runs = {"one process": partial(_fetched, plan, None)}
    runs |= {f"shards: {each}": partial(_fetched, plan, each) for each in SHARDS}
    results = in_turn(runs, REPETITIONS, lambda fetched: fetched.seconds)
    alone = results["one process"].seconds
    for way, fetched in results.items():
        moved = sum(record.bytes_sent for record in fetched.served) / 1e6
        hosts = [record.host for record in fetched.served]
        figures = (number(each) for each in (fetched.seconds, fetched.seconds / alone, moved))
        yield way, *figures, *(f"{hosts.count(host):,}" for host in HOSTS)


def _fetched(plan: Plan, shards: int | None) -> Fetched:
    """Fetch by shards, or by one process. Raises RuntimeError if one of them fails."""
    kind = plan.trials[0].kind
    with shaped(kind.listing(plan.sharded)) as gdc, TemporaryDirectory() as folder:
        program = [*PROGRAM, "--mirror", f"{folder}/mirror"]
        sample = ("--slides", str(plan.sharded), "--mpp", str(MPP))
        where = ("--api", gdc.api, "--bucket", gdc.bucket)
        for command in (("init", *sample, *where), ("refresh",), ("sample",)):
            _ended(_started(program, *command))
        gdc.clear()
        begun = time.monotonic()
        if shards is not None:
            running = [
                _started(program, "fetch", "--shard", f"{each}/{shards}")
                for each in range(1, shards + 1)
            ]
            for process in running:
                _ended(process)
        _ended(_started(program, "fetch"))
        return Fetched(time.monotonic() - begun, gdc.served)


def _started(program: Sequence[str], *command: str) -> subprocess.Popen[bytes]:
    # Progress and the count of collected slides are not of interest.
    quiet = subprocess.DEVNULL
    return subprocess.Popen([*program, *command], stdout=quiet, stderr=quiet)


def _ended(process: subprocess.Popen[bytes]) -> None:
    if process.wait():
        raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
