"""From files to files: which outputs each input has, all checked before any work, and one track's two passes.

Shape suffixes: k stem, c audio channel, t sample.
"""

from __future__ import annotations

import glob
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from . import audio, ni_stem, separation, stems
from .errors import DeepsepError
from .loudness import Loudness
from .model import Model
from .separation import Settings

__all__ = ["PATTERN", "Done", "Job", "Output", "expand_inputs", "output_stems", "plan", "run"]

PATTERN = "{track}/{stem}.{ext}"

OnProgress = Callable[[float], None]  # seconds of the track that are done


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """What is written, and where. `stems` maps each output's name to the sources it sums."""

    folder: Path
    stems: dict[str, list[str]]
    pattern: str = PATTERN
    format: str = "wav"
    bit_depth: str = "float"
    bitrate: int = 320
    codec: str = "aac"
    overwrite: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """One track and its outputs: stem -> file, or {"mix": file} for a stem file."""

    source: Path
    paths: dict[str, Path]


@dataclass(frozen=True, slots=True)
class Done:
    """What was written for one track. gain_db is the common gain that kept integer formats from clipping."""

    source: Path
    paths: dict[str, Path]
    seconds: float
    took: float
    gain_db: float
    silent: bool
    settings: dict[str, Any] = field(default_factory=dict)


def expand_inputs(inputs: Sequence[str], *, recursive: bool = False) -> list[Path]:
    """Files for what was typed: files, folders (their audio files; deeper with `recursive`), glob patterns.

    Raises DeepsepError for what does not exist, a folder without `recursive` that holds no audio, or an empty glob.
    """
    found: list[Path] = []
    for item in inputs:
        path = Path(item).expanduser()
        if path.is_dir():
            pattern = "**/*" if recursive else "*"
            inside = sorted(
                p for p in path.glob(pattern) if p.suffix.lower() in audio.AUDIO_SUFFIXES and p.is_file()
            )
            if not inside:
                hint = "" if recursive else "; --recursive looks in its subfolders"
                raise DeepsepError(f"{item} is a folder without audio files{hint}")
            found += inside
        elif path.exists() or not glob.has_magic(item):
            found.append(path)
        else:
            matched = sorted(Path(p) for p in glob.glob(str(path), recursive=True))
            if not matched:
                raise DeepsepError(f"{item}: no file matches")
            found += [p for p in matched if p.is_file()]
    return list(dict.fromkeys(found))


def output_stems(
    sources: Sequence[str], only: Sequence[str] | None = None, two_stems: str | None = None
) -> dict[str, list[str]]:
    """Output name -> sources it sums: all of them, some of them, or one and the rest ("no_vocals")."""
    for name in [*(only or ()), *([two_stems] if two_stems else [])]:
        if name not in sources:
            raise DeepsepError(f"unknown source {name!r}; these priors have {', '.join(sources)}")
    if two_stems:
        rest = [s for s in sources if s != two_stems]
        if not rest:
            raise DeepsepError(f"--two-stems {two_stems}: there is no other source to make no_{two_stems} of")
        return {two_stems: [two_stems], f"no_{two_stems}": rest}
    return {s: [s] for s in sources if not only or s in only}


def plan(
    files: Sequence[Path], output: Output, *, priors: str = "", skip_existing: bool = False
) -> list[Job]:
    """Every output of every track, checked before any work. Tracks whose outputs all exist are left out on
    `skip_existing`.

    Raises DeepsepError as `stems.plan_paths` does, and where two tracks would write one file.
    """
    jobs: list[Job] = []
    taken: dict[Path, Path] = {}
    for source in files:
        if output.format == "stem":
            names, ext = ["mix"], "stem.mp4"
            pattern = output.pattern if output.pattern != PATTERN else "{track}.{ext}"
        else:
            names, ext, pattern = list(output.stems), output.format, output.pattern
        replacing = output.overwrite or skip_existing
        paths = stems.plan_paths(
            source, output.folder, pattern, names, ext, overwrite=replacing, priors=priors
        )
        for path in paths.values():
            if path in taken and taken[path] != source:
                raise DeepsepError(
                    f"{taken[path]} and {source} would both write {path}; add {{parent}} to --filename"
                )
            taken[path] = source
        if not (skip_existing and all(p.exists() for p in paths.values())):
            jobs.append(Job(source, paths))
    return jobs


def run(
    job: Job, model: Model, settings: Settings, output: Output, *, on_progress: OnProgress | None = None
) -> Done:
    """Separates one track: a first pass for its length and loudness, a second for its stems.

    Raises DeepsepError as `audio.read_blocks` and the writers do; then nothing of this track is left behind.
    """
    began = time.monotonic()
    info = audio.probe(job.source)
    names = list(output.stems)
    if output.format == "stem":
        ni_stem.check(names, info.channels, codec=output.codec)
    else:
        stems.check_format(output.format, info.rate, info.channels)
    loudness = Loudness()
    for block in audio.read_blocks(job.source):
        loudness.hear(block)
    total, rms = loudness.samples, loudness.rms
    tags = audio.tags(job.source)
    rows = [[model.sources.index(s) for s in members] for members in output.stems.values()]
    writer: stems.StemWriter | ni_stem.NiStemWriter
    if output.format == "stem":
        writer = ni_stem.NiStemWriter(
            job.paths["mix"], names, info.rate, info.channels, codec=output.codec, tags=tags
        )
    else:
        writer = stems.StemWriter(
            job.paths, info.rate, info.channels,
            format=output.format, bit_depth=output.bit_depth, bitrate=output.bitrate, frames=total,
        )  # fmt: skip
    done = 0
    with writer:
        for piece in separation.separate_blocks(
            audio.read_blocks(job.source), info.rate, rms, total, model, settings
        ):
            writer.write(np.stack([piece[row].sum(0) for row in rows]))
            done += piece.shape[-1]
            if on_progress:
                on_progress(done / info.rate)
    if output.format != "stem":
        for path in job.paths.values():
            audio.write_tags(path, tags)
    took = time.monotonic() - began
    used = {"method": settings.method, "init": settings.init, "seed": settings.seed}
    return Done(job.source, job.paths, total / info.rate, took, writer.gain_db, rms == 0, used)
