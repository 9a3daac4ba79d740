"""Separate one track: two passes over its samples, stems written as they come, and what lies beside them.

Shape suffixes: s draw, k stem, c channel, t sample.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from .. import __version__
from ..audio import files as audio
from ..audio.info import WHOLE, AudioInfo, Part, Samples
from ..audio.tags import Tags, read_tags
from ..audio.whole import has_open_end
from ..inference.domain import Separation
from ..inference.model import Model
from ..inference.settings import Settings
from ..progress import part_of
from ..separation import measure, separate_blocks
from ..spectral import uncertainty
from ..staging import StagedFiles, uninterrupted
from . import ni_stem, stems
from .paths import Job, Output, check_format
from .writer import StagedWriter

__all__ = ["TrackResult", "priors_of", "run", "used_settings"]

KEPT_BYTES = 96 * 2**20  # of samples that are not decoded again: 4 1/2 minutes of stereo at 44.1 kHz

OnProgress = Callable[[float], None]  # called with the seconds of the track that are done
OnStage = Callable[
    [str, float], None
]  # called with what is done before or after that, and its share that is done


@dataclass(frozen=True, slots=True)
class TrackResult:
    """What was written for one track.

    `source` is the input's label; `seconds` is the track's length and `took` how long separating it took.
    `gain_db` is the common gain that kept integer formats from clipping. `paths` and `extras` are those of
    the job, `settings` those of `used_settings`; `notes` say what the outputs could not hold.
    `batch_size` is how many windows fit into memory at a time, None where that is still open.
    """

    source: str
    paths: dict[str, Path]
    extras: dict[str, Path]
    seconds: float
    took: float
    gain_db: float
    silent: bool
    settings: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    batch_size: int | None = None

    @property
    def clipping(self) -> list[str]:
        """What to say of the common gain, in a line, where there is one."""
        return [f"all stems turned down by {-self.gain_db:.2f} dB so that none clips"] if self.gain_db else []


def run(
    job: Job,
    model: Model,
    settings: Settings,
    output: Output,
    *,
    on_progress: OnProgress | None = None,
    on_stage: OnStage | None = None,
    on_stems: Callable[[Samples], None] | None = None,
    on_done: Callable[[TrackResult], None] | None = None,
) -> TrackResult:
    """Separate one track: a first pass for its length and loudness, a second for its stems.

    All outputs get their names together, at the very end. `on_progress` is called with the seconds of the track
    that are separated; `on_stage` as the track is read before that, and as files and page are made after it;
    `on_stems` with the stems (s, k, c, t) as they come; `on_done` with the result, as the outputs get their names: no
    signal comes between.
    Raises DeepsepError as `audio.read_blocks` and the writers do; then nothing of this track is left behind.
    """
    began = time.monotonic()
    info = audio.probe(job.source, job.part)
    check_format(output, info)
    kept: list[Samples] = []
    stage: OnStage = on_stage or (lambda name, share: None)
    blocks = watched(keep(audio.read_part(info), kept), info, stage)
    track = measure(blocks, info.rate)
    groups = [[model.sources.index(s) for s in members] for members in output.stems.values()]
    separation = Separation(track, model, settings, groups, spread=output.uncertainty)
    tags = read_tags(job.source)
    spread = None
    if output.uncertainty:
        spread = uncertainty.SpreadMap(model.domain.spectrum, info.rate, track.samples, list(output.stems))

    def tell(samples: int) -> None:
        if on_progress:
            on_progress(samples / info.rate)

    tell(0)
    sizes = [] if settings.batch_size is None else [settings.batch_size]
    with StagedFiles({**job.paths, **job.extras}, replace=output.overwrite) as staged:
        with ExitStack() as stack:
            writers: list[StagedWriter] = []
            comment = provenance(model, settings, job.part)
            for opened in open_writers(job, output, info, track.samples, tags, comment, staged):
                stack.push(opened)
                writers.append(opened)
            again = iter(kept) if kept else audio.read_part(info)
            separated = separate_blocks(
                again, separation, on_spread=spread.add if spread else None, on_progress=tell,
                on_batch_size=sizes.append,
            )  # fmt: skip
            for stems_skct in separated:
                by_writer = stems_skct.reshape(len(writers), -1, *stems_skct.shape[2:])
                for writer, stems_kct in zip(writers, by_writer, strict=True):
                    writer.write(stems_kct)
                if on_stems:
                    on_stems(stems_skct)
            stage("writing files", 0.0)
            for number, writer in enumerate(writers):
                writer.on_part = part_of(number, len(writers), partial(stage, "writing files"))
        took = time.monotonic() - began
        found = spread.result() if spread else None
        page = write_extras(job, staged, found, model, settings, took, partial(stage, "making the page"))
        notes = [note for writer in writers for note in writer.notes] + [page, memory_note(sizes)]
        if has_open_end(job.source):
            notes.append("the file has no mark at its end: it may be cut short, or a recording of a stream")
        result = TrackResult(
            job.label,
            job.paths,
            job.extras,
            track.samples / info.rate,
            took,
            min(w.gain_db for w in writers),
            track.rms == 0,
            used_settings(settings),
            list(dict.fromkeys(note for note in notes if note)),
            sizes[-1] if sizes else None,
        )
        staged.flush()
        with uninterrupted():
            staged.commit()
            if on_done:
                on_done(result)
    return result


def watched(blocks_ct: Iterable[Samples], info: AudioInfo, stage: OnStage) -> Iterator[Samples]:
    """Give the blocks, and tell the share of the track that has been read, where its length is known."""
    done = 0
    for block in blocks_ct:
        done += block.shape[1]
        stage("reading", done / info.frames if info.frames else 0.0)
        yield block


def memory_note(sizes: Sequence[int]) -> str:
    """What to say of batches that were halved."""
    if len(sizes) < 2:
        return ""
    return f"the GPU's memory was full: windows taken {sizes[-1]} at a time, not {sizes[0]}"


def keep(blocks_ct: Iterable[Samples], kept: list[Samples]) -> Iterator[Samples]:
    """Give the blocks, and leave all of them in `kept`, or none where they take more than `KEPT_BYTES`."""
    size = 0
    for block in blocks_ct:
        size += block.nbytes
        if size <= KEPT_BYTES:
            kept.append(block)
        else:
            kept.clear()
        yield block


def open_writers(
    job: Job, output: Output, info: AudioInfo, total: int, tags: Tags, comment: str, staged: StagedFiles
) -> Iterator[StagedWriter]:
    """One writer for all sound files, or one for each stem file. `total` is the length in samples."""
    if output.format == "stem":
        encoding = ni_stem.Encoding(codec=output.codec, tags=tags, comment=comment)
        for path in job.paths.values():
            yield ni_stem.NiStemWriter(
                path, list(output.stems), info.rate, info.channels, encoding, staged=staged
            )
        return
    yield stems.StemWriter(
        job.paths,
        info.rate,
        info.channels,
        stems.Encoding(
            format=output.format,
            bit_depth=output.bit_depth,
            bitrate=output.bitrate,
            tags=tags,
            comment=comment,
        ),
        frames=total,
        staged=staged,
    )


def write_extras(
    job: Job,
    staged: StagedFiles,
    found: uncertainty.Uncertainty | None,
    model: Model,
    settings: Settings,
    took: float,
    on_part: Callable[[float], None],
) -> str:
    """Write the maps, the picture and the page that go with the stems, which wait in `staged`; return what to note."""
    title = audio.track_name(Path(job.label))
    if found:
        uncertainty.save(staged.temporary["uncertainty"], found)
        uncertainty.draw(staged.temporary["picture"], found, title)
    if "report" in job.extras:
        from .report.page import write_report

        known = found.heard() if found else {}
        return write_report(
            job.extras["report"],
            title=title,
            mix=job.source,
            part=job.part,
            stems={name: staged.temporary[name] for name in job.paths},
            settings=used_settings(settings),
            priors=origins(model),
            uncertainty={n: known[n.rpartition("/")[2]] for n in job.paths} if found else None,
            seconds=took,
            staged=staged,
            on_part=on_part,
        )
    return ""


def origins(model: Model) -> Mapping[str, Any]:
    """Source -> where its prior came from and at which commit, as plain values for the report."""
    return {
        source: {k: v for k, v in asdict(origin).items() if v is not None}
        for source, origin in model.info.origins.items()
    }


def provenance(model: Model, settings: Settings, part: Part = WHOLE) -> str:
    """The comment in every output: what made it, from which priors, at which commit.

    Of a local folder only the name is given: outputs are passed on, and should not show the disk's folders.
    """
    end = "the end" if part.end is None else f"{part.end:g} s"
    which = "" if part == WHOLE else f", {part.start:g} s to {end}"
    return f"deepsep {__version__}, {settings.method}, seed {settings.seed}{which}; priors {priors_of(model)}"


def priors_of(model: Model) -> str:
    """Where a model's priors came from, and their commits: "org/name@commit", or of each source."""
    by_place: dict[str, list[str]] = {}
    for source, origin in model.info.origins.items():
        repo = origin.priors.partition("@")[0]
        place = f"{repo}@{origin.commit}" if origin.commit else Path(origin.priors).name
        by_place.setdefault(place, []).append(source)
    whole = len(by_place) == 1
    return "; ".join(p if whole else f"{', '.join(names)}: {p}" for p, names in by_place.items())


def used_settings(settings: Settings) -> dict[str, Any]:
    """What the result of a separation depends on, by name, as plain values for the report and JSON."""
    used: dict[str, Any] = {"method": settings.method, "seed": settings.seed, "device": settings.device}
    if settings.draws > 1:
        used["samples"] = settings.draws
    if settings.pitches > 1:
        used["pitches"] = settings.pitches
    if settings.method == "sgld":
        used |= {"init": settings.init, **asdict(settings.sgld)}
    return used
