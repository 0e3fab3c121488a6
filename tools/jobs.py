"""Running measurements side by side, one process a core, with outcomes in the order asked for."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tools import console
from tools.measure import Job

if TYPE_CHECKING:
    from emulator.chip import Chip

# The module whose compiled code takes longest, by kind of chip: no cache folder means that it is compiled now.
ENGINES = {"lpu": "emulator/lpu/kernel.py", "gpu": "emulator/gpu/engine.py"}
COMPILE_SECONDS = {"lpu": 25, "gpu": 50}  # rough, for the announcement only


def announce_compilation(kinds: set[str]) -> bool:
    """Say that an engine will be compiled first, when its compiled code is not in the cache; whether it will. Raises
    ValueError, with nothing said, when the count of processes is none."""
    from isa.jit import ROOT, cache_root, source_hash

    jobs_wanted()
    cold = set()
    for kind in kinds:
        folder = cache_root() / source_hash(ROOT / ENGINES[kind])
        if not any(folder.rglob("*.nbc")):
            cold.add(kind)
    if cold:
        seconds = max(COMPILE_SECONDS[kind] for kind in cold)  # side by side
        console.message(f"compiling the emulator, once, about {seconds} s")
    return bool(cold)


class JobFailed(Exception):
    """A machine refused what our own compiler made: a fault of this project, told with its place."""


Work = Callable[..., dict[str, Any]]  # of a Job and what to call after each step; at the top of a module


def attempt(job: Job, on_step: Callable[[int, int], None] | None = None, work: Work | None = None) -> dict[str, Any]:
    """`work` (default: `measure`), with a chip that cannot run the (checked) job told as an entry instead of an
    exception.

    Machine errors become JobFailed, which can travel from one process to another.
    """
    from emulator.gpu.errors import MachineError
    from emulator.lpu.errors import ScheduleError
    from tools.measure import measure

    try:
        return (work or measure)(job, on_step)
    except ValueError as error:
        return {"chip": job.chip, "error": str(error), "chips_needed": getattr(error, "chips_needed", None)}
    except (MachineError, ScheduleError) as error:
        raise JobFailed(f"{job.model} on {job.chip}: {error}") from None


def attempt_all(jobs: Sequence[Job], work: Work | None = None) -> list[dict[str, Any]]:
    """`attempt` one job after the other."""
    return [attempt(job, work=work) for job in jobs]


def run_jobs(jobs: Sequence[Job], title: str, cold: bool = False, work: Work | None = None) -> list[dict[str, Any]]:
    """The outcome of every job, in order: of `attempt` with `work`. Raises what the first failing job raised.

    Jobs share nothing, so the outcome does not depend on how many run at once. cold: engines must
    be compiled; then one process does all jobs of a chip, so that nothing is compiled twice.
    """
    groups: dict[str, list[int]] = {}
    for n, job in enumerate(jobs):
        groups.setdefault(job.chip if cold else str(n), []).append(n)
    workers = min(len(groups), os.cpu_count() or 1, jobs_wanted())
    with console.Progress(title) as progress:
        if workers <= 1 or getattr(sys.modules["__main__"], "__file__", None) is None:
            outcomes = []
            for n, job in enumerate(jobs):
                what = f"{job.model} on {job.chip}" + (f" ({n + 1} of {len(jobs)})" if len(jobs) > 1 else "")

                def on_step(done: int, total: int, what: str = what) -> None:
                    progress.step(done, total, what)

                outcomes.append(attempt(job, on_step, work))
        else:
            outcomes = _parallel(jobs, list(groups.values()), workers, progress, work)
        progress.failed = all("error" in outcome for outcome in outcomes)
        return outcomes


def jobs_wanted() -> int:
    """Most processes at once: DECODELAB_JOBS, where it is set. Raises ValueError unless it is a count."""
    text = os.environ.get("DECODELAB_JOBS", "64")
    if not re.fullmatch("0*[1-9][0-9]{0,5}", text):
        raise ValueError(f"DECODELAB_JOBS={text}: must be how many processes may run at once, at least 1")
    return int(text)


def _parallel(
    jobs: Sequence[Job], groups: list[list[int]], workers: int, progress: console.Progress, work: Work | None
) -> list[dict[str, Any]]:
    from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
    from multiprocessing import get_context

    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
    try:
        futures = [pool.submit(attempt_all, [jobs[n] for n in group], work) for group in groups]
        pending = set(futures)
        while pending:
            done, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
            for future in done:
                future.result()  # raises what the job raised
            progress.step(len(groups) - len(pending), len(groups))
        found = {n: outcome for group, future in zip(groups, futures) for n, outcome in zip(group, future.result())}
        return [found[n] for n in range(len(jobs))]
    except BaseException:  # an interrupt too: what still runs is of no use
        for process in list((pool._processes or {}).values()):
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def kinds_of(chips: Sequence[Chip]) -> set[str]:
    """Kinds of machine that take part."""
    return {chip.kind for chip in chips}
