"""Many tracks on a Ray cluster: a worker for each GPU, or for some CPUs each, that loads the priors once.

Workers are plain Ray actors, one track at a time each; only paths travel. A track whose worker dies goes to the next
free worker, and is given up after `TRIES`. docs/scale.md says why this is not Ray Data.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DeepsepError
from .bars import EVERY, time_left
from .batch import Batch, attempt, settings_after
from .common import say, set_threads

if TYPE_CHECKING:
    from ..inference.model import Model
    from ..output.paths import Job, Output
    from ..output.tracks import TrackResult

__all__ = ["Order", "absolute", "run_on_ray"]

REACH = 10  # seconds until a cluster that does not answer is not there
TRIES = 3  # of a track whose workers die, and of workers that die before they are ready


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """What every worker is told once: which priors, how to separate, where to write, which folder has the claims."""

    priors: str
    replaced: dict[str, str]
    sources: list[str] | None
    offline: bool
    settings: dict[str, Any]  # of `api.settings_for`, but for the device
    output: Output
    claims: Path | None
    log: Path | None
    device: str
    threads: int


class Worker:
    """What runs in a process of the cluster."""

    def __init__(self, order: Order) -> None:
        self.order = order

    def prepare(self) -> None:
        """Load the priors. Raises DeepsepError."""
        from .. import api
        from ..output.library import Claims, RunLog

        order = self.order
        set_threads(order.threads)
        self.model = api.load_priors(
            order.priors, order.replaced, sources=order.sources, device=order.device, offline=order.offline
        )
        self.settings = api.settings_for(self.model, device=order.device, **order.settings)
        self.claims = Claims(order.claims) if order.claims else None
        self.log = RunLog(order.log) if order.log else None

    def separate(self, job: Job) -> TrackResult | str | None:
        """Separate a track: see `attempt`."""
        result = attempt(job, self.model, self.settings, self.order.output, self.claims, self.log)
        self.settings = settings_after(self.settings, result)
        return result


def absolute(job: Job) -> Job:
    """The same track by paths that do not depend on the working directory, which is another in each worker."""

    def full(paths: dict[str, Path]) -> dict[str, Path]:
        return {name: path.absolute() for name, path in paths.items()}

    return replace(job, source=job.source.absolute(), paths=full(job.paths), extras=full(job.extras))


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """Ray, connected to a cluster: that of an address, else the one at hand, else a new one on this machine.

    Raises DeepsepError where there is none.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault(
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0"
    )  # workers without a GPU are told so by --device
    import ray

    try:
        host, colon, port = address.rpartition(":")
        if colon and "://" not in address:  # Ray itself tries for minutes
            socket.create_connection((host, int(port)), REACH).close()
        ray.init(address or None, logging_level=logging.ERROR, log_to_driver=False)
    except (OSError, ValueError, RuntimeError) as error:
        why = str(error).strip().partition("\n")[0].rstrip(".")
        raise DeepsepError(f"--ray {address}: no cluster can be reached ({why})") from None
    try:
        with redirect_stdout(sys.stderr):  # Ray tells of dead workers on stdout, which is for machines
            yield ray
    finally:
        ray.shutdown()


def run_on_ray(batch: Batch, jobs: Sequence[Job], model: Model, order: Order, address: str) -> None:
    """Separate every track on a cluster; `batch` hears of each once. typer.Exit on Ctrl-C.

    Raises DeepsepError where there is no cluster, and where its workers cannot start.
    """
    if not jobs:
        return
    try:
        with connected(address) as ray:
            Pool(ray, batch, jobs, order).run()
    except KeyboardInterrupt:
        line = f"interrupted: {len(batch.done)} of {len(jobs)} tracks are done; the same command again does the others"
        raise batch.interrupted(line, model) from None


class Pool:
    """The workers of a run, the tracks that are left, and who is at which."""

    def __init__(self, ray: Any, batch: Batch, jobs: Sequence[Job], order: Order) -> None:
        self.ray, self.batch, self.jobs = ray, batch, jobs
        self.left = deque(range(len(jobs)))
        self.tries = [0] * len(jobs)
        self.at_work: dict[
            Any, tuple[Any, int | None]
        ] = {}  # what is waited for -> worker, track or None to start
        self.failed_starts = 0
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        gpu = order.device in ("auto", "cuda") and any(machine.get("GPU", 0) >= 1 for machine in machines)
        if order.device == "cuda" and not gpu:
            raise DeepsepError("--ray: the cluster has no GPU; use --device cpu")
        self.order = replace(order, device="cuda" if gpu else "cpu")
        share = {"CPU": order.threads, "GPU": 1} if gpu else {"CPU": order.threads}
        room = sum(min(int(machine.get(k, 0) // n) for k, n in share.items()) for machine in machines)
        if not room:
            beside = " beside a GPU" if gpu else ""
            raise DeepsepError(
                f"--ray: no machine of the cluster has {order.threads} CPUs{beside}; use a lower --threads"
            )
        self.actor = ray.remote(Worker).options(num_cpus=order.threads, num_gpus=share.get("GPU", 0))
        self.workers = min(len(jobs), room)

    def run(self) -> None:
        """Give each free worker a track until none is left."""
        began = told = time.monotonic()
        for _ in range(self.workers):
            self.start()
        with self.batch.bar(len(self.jobs)) as advance:
            while self.left or any(number is not None for _, number in self.at_work.values()):
                ready, _ = self.ray.wait(list(self.at_work), timeout=EVERY)
                for reference in ready:
                    self.receive(reference)
                done = len(self.jobs) - len(self.left) - sum(n is not None for _, n in self.at_work.values())
                advance(done)
                now = time.monotonic()
                if now - told >= EVERY and not self.batch.quiet and not self.batch.terminal:
                    told = now
                    left = time_left(done, len(self.jobs), now - began)
                    say(f"{done} of {len(self.jobs)} tracks" + (f", {left} left" if left else ""))

    def start(self) -> None:
        """Start a worker."""
        worker = self.actor.remote(self.order)
        self.at_work[worker.prepare.remote()] = worker, None

    def receive(self, reference: Any) -> None:
        """Take what a worker gives, and give it the next track; replace one that has died."""
        worker, number = self.at_work.pop(reference)
        try:
            result = self.ray.get(reference)
        except self.ray.exceptions.RayTaskError as error:
            if number is None:
                cause = error.cause
                raise DeepsepError(f"--ray: a worker cannot start: {cause or error}") from None
            label = self.jobs[number].label
            self.batch.fail(label, f"{label}: {type(error.cause).__name__}: {error.cause}")
        except self.ray.exceptions.RayError:  # it has died, or Ray ended it for want of memory
            self.bury(number)
            return
        else:
            if number is not None:
                self.take(number, result)
        self.failed_starts = 0
        if self.left:
            following = self.left.popleft()
            self.at_work[worker.separate.remote(self.jobs[following])] = worker, following

    def take(self, number: int, result: TrackResult | str | None) -> None:
        """Take what became of a track."""
        if result is None and self.tries[number]:
            self.batch.skipped += 1  # a worker that died had just finished it
            return
        self.batch.hear(self.jobs[number].label, result, table=False)
        if not isinstance(result, str) and result:
            self.batch.done.append(result)

    def bury(self, number: int | None) -> None:
        """A worker has died: another takes its place, its track waits for the next that is free."""
        if number is None:
            self.failed_starts += 1
            if self.failed_starts >= TRIES * self.workers:
                raise DeepsepError("--ray: workers die as they start; is there too little memory?")
        else:
            self.tries[number] += 1
            if self.tries[number] < TRIES:
                self.left.appendleft(number)
            else:
                label = self.jobs[number].label
                self.batch.fail(label, f"{label}: {TRIES} workers died at it; is there too little memory?")
        self.start()
