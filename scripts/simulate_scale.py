"""Prints the table of docs/scale.md: what libraries of a thousand to ten million songs take, and what limits them.

Usage: python scripts/simulate_scale.py

The figures under "measured" come from `python scripts/benchmark.py library`, those under "assumed" from nobody: change
them to what your machines do. Each worker is played through: it starts, plans, separates its songs and now and then
dies, which costs the song that it was at and another start. The random numbers are the same in every run.
"""

from __future__ import annotations

import heapq
import math
import random
from typing import NamedTuple

# measured, on one core of the machine that docs/scale.md names, songs of 4 minutes
SONG = 8.5  # s, with the encoder
START = 3.3  # s until a process separates its first song
FIND, PLAN = 0.05e-3, 0.42e-3  # s a song, to list the library and to plan the outputs
RAY_START = 20.0  # s until a cluster's first workers run
HAND_OUT = 0.7e-3  # s of the directing process for each song
FLAC = 52.9e6  # bytes of its four stems, 16 bit
JOB = 2.1e3  # bytes of the planning process's memory for each song that it plans
LISTED = 0.6e3  # of that for each song of the library, while shards are dealt out

# assumed
SPREAD = 0.3  # of songs' lengths: standard deviation by mean
LIFE = (
    500 * 3600.0
)  # s that a worker lives on average: machines that fail, memory that is full, nodes taken back
REQUEUE = 60.0  # s until a scheduler has started a worker again
DISK = 1e9  # bytes/s that a shared file system takes from all workers together


class Setup(NamedTuple):
    """Where a library is separated: by how many workers, and whether they share one queue or have a shard each."""

    name: str
    workers: int
    queue: bool


SETUPS = [
    Setup("one machine, 16 cores, `--ray`", 16, True),
    Setup("SLURM array, 256 tasks of a core, `--shard`", 256, False),
    Setup("Ray cluster, 64 machines of 16 cores", 1024, True),
]
LIBRARIES = [1_000, 100_000, 10_000_000]


class Played(NamedTuple):
    """A run that was played through: seconds until the last worker ends, seconds of work that count, deaths."""

    ends: float
    work: float
    deaths: int


def separating(songs: float, random_numbers: random.Random) -> tuple[float, float, int]:
    """Seconds that one worker is at so many songs, seconds of that that count, and how often it dies."""
    work = max(0.0, songs * SONG + random_numbers.gauss(0, 1) * SONG * SPREAD * math.sqrt(songs))
    left, spent, deaths = work, 0.0, 0
    while (life := random_numbers.expovariate(1 / LIFE)) < left:
        left -= life
        spent += life + SONG / 2 + REQUEUE + START  # half a song again
        left += SONG / 2
        deaths += 1
    return spent + left, work, deaths


def play(setup: Setup, songs: int) -> Played:
    """Separate a library."""
    numbers = random.Random(0)
    if not setup.queue:  # each task lists the library and plans its shard, then is alone with it
        ends, total, deaths = 0.0, 0.0, 0
        mean = songs / setup.workers
        for _ in range(setup.workers):
            own = max(0.0, round(numbers.gauss(mean, math.sqrt(mean))))
            spent, work, died = separating(own, numbers)
            ends = max(ends, START + songs * FIND + own * PLAN + spent)
            total, deaths = total + work, deaths + died
        return Played(ends, total, deaths)
    # one process plans all, then hands out a song at a time, here in bunches to whoever is free first
    begins = START + RAY_START + songs * (FIND + PLAN)
    free = [begins] * min(setup.workers, songs)
    bunch = max(1, songs // (200 * setup.workers))
    total, deaths, handed, left = 0.0, 0, begins, songs
    while left:
        now = min(bunch, left)
        left -= now
        handed += now * HAND_OUT
        spent, work, died = separating(now, numbers)
        heapq.heappush(free, max(heapq.heappop(free), handed - now * HAND_OUT) + spent)
        total, deaths = total + work, deaths + died
    return Played(max(*free, handed), total, deaths)


def limits(setup: Setup, songs: int, played: Played) -> str:
    """What keeps a run from being faster: the disk, and what of the workers' time is the largest part beside it."""
    planning = songs * (FIND + PLAN if setup.queue else FIND)
    begins = START + (RAY_START if setup.queue else 0)
    parts = {
        "cores": played.work / setup.workers,
        "planning": planning,
        "start": begins,
        "handing out": songs * HAND_OUT if setup.queue else 0.0,
        "largest shard": 0.0
        if setup.queue
        else played.ends - planning - begins - played.work / setup.workers,
    }
    largest = max(parts, key=lambda name: parts[name])
    return f"disk, then {largest}" if songs * FLAC / DISK > played.ends else largest


def table() -> str:
    """The table, as Markdown."""
    lines = [
        "| songs | where | hours, workers | hours, disk | core hours | deaths | stems | planning | limits |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for songs in LIBRARIES:
        for setup in SETUPS:
            played = play(setup, songs)
            shard = songs / (1 if setup.queue else setup.workers)
            planned = shard * JOB + (songs - shard) * LISTED
            cells = [
                f"{songs:,}",
                setup.name,
                hours(played.ends),
                hours(songs * FLAC / DISK),
                f"{setup.workers * played.ends / 3600:,.0f}",
                f"{played.deaths}",
                f"{songs * FLAC / 1e12:,.2f} TB",
                f"{planned / 1e6:,.0f} MB",
                limits(setup, songs, played),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def hours(seconds: float) -> str:
    """Seconds as hours, two digits of them or all before the point."""
    return f"{seconds / 3600:,.0f}" if seconds > 36_000 else f"{seconds / 3600:.2g}"


if __name__ == "__main__":
    print(table())
