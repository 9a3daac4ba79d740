"""The process that separates: python -m deepsep.app.worker, orders on stdin, events on stdout, a JSON line each.

It keeps the last model, so that ten songs load it once. An order is {"separate": {...}}, as `jobs` makes it, or
{"cancel": id}. When stdin ends, so does the process. It ignores Ctrl-C, which is the server's.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import BUNDLED, from_dict
from ..errors import DeepsepError, is_out_of_memory, refusal
from .wishes import Wishes, check_pictures

if TYPE_CHECKING:
    from ..audio.info import AudioInfo
    from ..inference.model import Model
    from ..output.paths import Job, Output
    from ..output.tracks import TrackResult

__all__ = ["main"]

PATIENCE = 3.0  # seconds that a separation has to clear up, when the server is gone

Say = Callable[..., None]


class Cancelled(Exception):
    """The song is no longer wanted."""


def main() -> None:
    """Take orders until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not come between the events
    lock = threading.Lock()

    def say(event: str, id: str = "", **facts: object) -> None:
        with lock, suppress(OSError):  # the server may be gone
            print(json.dumps({"event": event, "id": id, **facts}), file=channel, flush=True)

    orders: queue.Queue[dict[str, Any] | None] = queue.Queue()
    unwanted: set[str] = set()
    threading.Thread(target=listen, args=(orders, unwanted), daemon=True).start()
    with suppress(DeepsepError):  # an installation without them
        model_of(BUNDLED)
    while (order := orders.get()) is not None:
        id = str(order["id"])
        try:
            say("done", id, result=separate(order, partial(check_wanted, id, unwanted), say))
        except Cancelled:
            say("cancelled", id)
        except (DeepsepError, OSError, UnicodeError, MemoryError, RuntimeError) as error:
            say("failed", id, error=reason(error).replace(order["source"], order["label"]))


def listen(orders: queue.Queue[dict[str, Any] | None], unwanted: set[str]) -> None:
    """Sort what the server sends; at its end, have the process end."""
    for line in sys.stdin.buffer:
        message = json.loads(line)
        if "cancel" in message:
            unwanted.add(message["cancel"])
        else:
            unwanted.discard(message["separate"]["id"])  # it was cancelled once, too late
            orders.put(message["separate"])
    unwanted.add("")
    orders.put(None)
    timer = threading.Timer(PATIENCE, os._exit, [1])
    timer.daemon = True
    timer.start()


def check_wanted(id: str, unwanted: set[str]) -> None:
    """Raise Cancelled for a song that was cancelled, and where the server is gone."""
    if id in unwanted or "" in unwanted:
        unwanted.discard(id)
        raise Cancelled


@lru_cache(maxsize=1)
def model_of(priors: str) -> Model:
    """The priors, loaded once as long as songs ask for the same."""
    from .. import api

    return api.load_priors(priors, offline=True)


def separate(order: dict[str, Any], check: Callable[[], None], say: Say) -> dict[str, Any]:
    """Separate one song as the command line does; gives what `Song.result` holds.

    `order` has the song's "id", "label" and "wishes", its "source" file, and the folders of the results ("folder")
    and of the player's sound ("sounds"). `check` raises Cancelled when the song is no longer wanted.
    """
    from .. import api
    from ..audio.files import probe, read_blocks
    from ..output import paths, tracks
    from .listening import Listening

    id, source, folder = order["id"], Path(order["source"]), Path(order["folder"])
    wishes = from_dict(Wishes, order["wishes"])
    if wishes.uncertainty:
        check_pictures()
    model = model_of(wishes.priors)
    several = wishes.samples if wishes.samples > 1 else None
    settings = api.settings_for(model, method=wishes.method, draws=several, uncertainty=wishes.uncertainty)
    output = paths.Output(
        folder=folder, stems=paths.output_stems(model.sources, wishes.stems or None, wishes.two_stems),
        format=wishes.format, bit_depth=wishes.bit_depth, bitrate=wishes.bitrate, codec=wishes.codec,
        draws=wishes.samples, uncertainty=wishes.uncertainty,
    )  # fmt: skip
    (job,) = paths.plan([paths.Input(source, order["label"])], output)
    info = probe(source)
    frames = info.frames or sum(block.shape[1] for block in read_blocks(source))
    check_disk(folder, info, frames, output)
    names = [*output.stems]
    if several:
        names = [f"sample-{number}/{stem}" for number in range(1, several + 1) for stem in output.stems]
    listening = Listening(
        Path(order["sounds"]), info, frames, names,
        on_ready=lambda ready: say("ready", id, ready=ready), on_drawn=lambda: say("drawn", id),
    )  # fmt: skip
    say("began", id, seconds=frames / info.rate, method=settings.method)

    def progress(seconds: float) -> None:
        check()
        say("progress", id, done=seconds)

    def feed(stems_skct: Any) -> None:
        check()
        listening.feed(stems_skct)

    try:
        check()
        result = tracks.run(job, model, settings, output, on_progress=progress, on_stems=feed)
    except BaseException:
        listening.stop()
        raise
    try:
        listening.finish(maps_of(job, names))
    except OSError as error:  # the results are there
        result.notes.append(f"it cannot be played here ({error.strerror})")
    return result_of(result, job, output, folder, tracks.provenance(model, settings))


def check_disk(folder: Path, info: AudioInfo, frames: int, output: Output) -> None:
    """Raise DeepsepError unless there is room for a song's stems, twice where they wait to be encoded."""
    from .uploads import check_room

    stems = len(output.stems) * output.draws + 1
    waits = (output.format, output.bit_depth) != ("wav", "float")
    check_room(folder, frames * info.channels * stems * (8 if waits else 6))


def maps_of(job: Job, names: list[str]) -> dict[str, Any]:
    """The uncertainty of each stem as it is heard, where it was asked for."""
    from ..spectral import uncertainty

    if "uncertainty" not in job.extras:
        return {}
    known = uncertainty.load(job.extras["uncertainty"]).heard()
    return {name: known[name.rpartition("/")[2]] for name in names}


def result_of(result: TrackResult, job: Job, output: Output, folder: Path, comment: str) -> dict[str, Any]:
    """What the page and the downloads need to know of what was written."""
    files = {**job.paths, **job.extras}
    return {
        "files": {name: path.relative_to(folder).as_posix() for name, path in files.items()},
        "stems": [*output.stems],
        "comment": comment,
        "took": result.took,
        "silent": result.silent,
        "notes": result.notes + result.clipping,
    }


def reason(error: BaseException) -> str:
    """What went wrong, in a line for a person; raises again what no person can mend."""
    if is_out_of_memory(error):
        return "not enough memory; close other programs, or cut the song in parts"
    if isinstance(error, UnicodeError):
        return "its name is no valid text; rename it"
    if isinstance(error, OSError):
        return str(refusal(error.filename or "a file", error, "used"))
    if isinstance(error, DeepsepError):
        return str(error)
    raise error


if __name__ == "__main__":
    main()
