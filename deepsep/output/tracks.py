"""From files to files: which outputs each input has, all checked before any work, and one track's two passes.

Shape suffixes: k stem, c audio channel, t sample.
"""

from __future__ import annotations

import glob
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .. import __version__, separation
from ..audio import files as audio
from ..audio.info import AudioInfo
from ..audio.loudness import Loudness
from ..audio.tags import Tags, read_tags
from ..errors import DeepsepError
from ..models.folder import Model
from ..spectral import uncertainty
from ..spectral.infer import Settings
from . import ni_stem, stems

__all__ = [
    "Done",
    "Input",
    "Job",
    "Output",
    "default_pattern",
    "expand_inputs",
    "output_stems",
    "plan",
    "run",
    "used_settings",
]

EXTRAS = {"uncertainty": "uncertainty.npz", "picture": "uncertainty.png", "report": "report.html"}

Writer = stems.StemWriter | ni_stem.NiStemWriter
OnProgress = Callable[[float], None]  # seconds of the track that are done


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """What is written, and where. `stems` maps each output's name to the sources it sums."""

    folder: Path
    stems: dict[str, list[str]]
    pattern: str | None = None  # by default what `default_pattern` says
    format: str = "wav"
    bit_depth: str = "float"
    bitrate: int = 320
    codec: str = "aac"
    overwrite: bool = False
    samples: int = 1  # plausible separations of each track
    uncertainty: bool = False
    report: bool = False


@dataclass(frozen=True, slots=True)
class Input:
    """A file to separate, what to call it when talking to people, and its length where that is known."""

    path: Path
    label: str
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """One track and its outputs: stem -> file, or {"mix": file} for a stem file; "sample-1/vocals", sampled.

    `extras` are what lies beside the stems: "uncertainty", "picture", "report".
    """

    source: Path
    paths: dict[str, Path]
    extras: dict[str, Path] = field(default_factory=dict)
    label: str = ""
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """What was written for one track. gain_db is the common gain that kept integer formats from clipping."""

    source: str
    paths: dict[str, Path]
    extras: dict[str, Path]
    seconds: float
    took: float
    gain_db: float
    silent: bool
    settings: dict[str, Any] = field(default_factory=dict)


# --- what is typed -> files ----------------------------------------------------------------------------


def expand_inputs(
    inputs: Sequence[str], *, recursive: bool = False, avoid: Path | None = None
) -> tuple[list[Path], list[DeepsepError]]:
    """Files for what was typed: files, folders (their audio files; deeper with `recursive`), glob patterns.

    Each file once; what lies in the folder `avoid` (the outputs) only when it was named itself. Also returns
    what is wrong with what was typed: a folder or a pattern without audio.
    """
    found: list[Path] = []
    problems: list[DeepsepError] = []
    for item in inputs:
        path = Path(item if os.path.lexists(item) else os.path.expanduser(item))
        try:
            if path.is_dir():
                found += in_folder(path, recursive, avoid)
            elif os.path.lexists(path) or not glob.has_magic(item):
                found.append(path)
            else:
                found += matching(str(path), recursive, avoid)
        except (DeepsepError, OSError, ValueError) as error:
            problems.append(error if isinstance(error, DeepsepError) else DeepsepError(f"{item}: {error}"))
    unique: dict[str, Path] = {}
    for path in found:  # one folder may be reached on two ways; a link of another name is another track
        unique.setdefault(place(Path(os.path.realpath(path.parent), path.name)), path)
    return list(unique.values()), problems


def in_folder(folder: Path, recursive: bool, avoid: Path | None) -> list[Path]:
    """The audio files of a folder, hidden ones left out."""
    root = os.path.abspath(folder)
    outputs = os.path.abspath(avoid) + os.sep if avoid and os.path.abspath(avoid) != root else None
    inside = [
        p
        for p in sorted(folder.glob("**/*" if recursive else "*"))
        if p.suffix.lower() in audio.AUDIO_SUFFIXES
        and not any(part.startswith(".") for part in p.relative_to(folder).parts)
        and not (outputs and os.path.abspath(p).startswith(outputs))
        and p.is_file()
    ]
    if not inside:
        hint = "" if recursive else "; --recursive looks in its subfolders"
        raise DeepsepError(f"{folder}: is a folder without audio files{hint}")
    return inside


def matching(pattern: str, recursive: bool, avoid: Path | None) -> list[Path]:
    """What a glob pattern stands for, on systems whose shell leaves it to us."""
    found: list[Path] = []
    for path in sorted(Path(p) for p in glob.glob(pattern, recursive=True)):
        if path.is_dir():
            found += in_folder(path, recursive, avoid)
        else:
            found.append(path)
    if not found:
        raise DeepsepError(f"{pattern}: no file matches")
    return found


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


# --- files -> outputs ----------------------------------------------------------------------------------


def default_pattern(format: str, samples: int) -> str:
    """Where outputs go below the output folder when nobody says."""
    if format == "stem":
        return "{track}/sample-{sample}.{ext}" if samples > 1 else "{track}.{ext}"
    return "{track}/sample-{sample}/{stem}.{ext}" if samples > 1 else "{track}/{stem}.{ext}"


def plan(
    inputs: Sequence[Input], output: Output, *, priors: str = "", skip_existing: bool = False
) -> list[Job]:
    """Every output of every track, checked before any work.

    Tracks whose outputs all exist are left out on `skip_existing`.
    Raises DeepsepError as `stems.plan_paths` does, for a path outside the output folder or that is itself an
    input, and where two tracks would write one file.
    """
    jobs: list[Job] = []
    owners: dict[str, Input] = {}
    sources = {os.path.normcase(os.path.realpath(i.path)): i for i in inputs}
    for item in inputs:
        try:
            job = job_of(item, output, priors)
        except OSError as error:
            raise DeepsepError(f"{item.label}: its outputs cannot be named ({error.strerror})") from None
        targets = [*job.paths.values(), *job.extras.values()]
        if taken := next((owners[place(p)] for p in targets if place(p) in owners), None):
            raise collision(taken, item, targets[0], output)
        for path in targets:
            owners[place(path)] = item
            if reader := sources.get(os.path.normcase(os.path.realpath(path))):
                raise DeepsepError(f"{path}: is an input itself ({reader.label}); choose another --out")
        existing = [p for p in targets if os.path.lexists(p)]
        if skip_existing and len(existing) == len(targets):
            continue
        if existing and not output.overwrite:
            state = "exists" if not skip_existing else "exists, though other outputs of this track do not"
            raise DeepsepError(f"{existing[0]}: {state}; use --overwrite to replace it")
        jobs.append(job)
    return jobs


def job_of(item: Input, output: Output, priors: str) -> Job:
    """The outputs of one track."""
    pattern = output.pattern or default_pattern(output.format, output.samples)
    names, ext = list(output.stems), output.format
    if output.format == "stem":
        names, ext = ["mix"], "stem.mp4"
    if output.samples > 1 and "{sample}" not in pattern:
        raise DeepsepError(f"--samples {output.samples} needs {{sample}} in the pattern {pattern!r}")

    def paths(pattern: str, names: Sequence[str], sample: int = 1) -> dict[str, Path]:
        found = stems.plan_paths(item.path, output.folder, pattern, names, ext, priors=priors, sample=sample)
        root = os.path.abspath(output.folder)
        for path in found.values():
            if "{stem}" in pattern and not path.name.endswith(f".{ext}"):
                raise DeepsepError(
                    f"{path.name} would hold {ext}: end the pattern in .{{ext}}, or choose --format"
                )
            if not Path(os.path.abspath(path)).is_relative_to(root):
                raise DeepsepError(
                    f"{path}: lies outside {output.folder}; the pattern may not lead out of it"
                )
        return found

    targets: dict[str, Path] = {}
    for sample in range(1, output.samples + 1):
        prefix = f"sample-{sample}/" if output.samples > 1 else ""
        for name, path in paths(pattern, names, sample).items():
            targets[prefix + name] = path
    beside = os.path.dirname(pattern.split("{stem}")[0].split("{sample}")[0])
    own = "" if "{track}" in beside else "{track}."
    extras = {
        kind: paths(f"{beside}/{own}{name}" if beside else own + name, [kind])[kind]
        for kind, name in EXTRAS.items()
        if (output.report if kind == "report" else output.uncertainty)
    }
    return Job(item.path, targets, extras, item.label, item.seconds)


def place(path: Path) -> str:
    """One text for one place, also where the system does not tell upper from lower case."""
    text = os.path.normcase(os.path.abspath(path))
    return text.casefold() if sys.platform == "darwin" else text


def collision(first: Input, second: Input, path: Path, output: Output) -> DeepsepError:
    """Two tracks in one place, and the way out of it."""
    pattern = output.pattern or default_pattern(output.format, output.samples)
    mend = "separate them into different --out folders"
    if "{track}" not in pattern:
        mend = "put {track} in the pattern"
    elif "{parent}" not in pattern and first.path.parent.name != second.path.parent.name:
        mend = f'add --filename "{{parent}}/{pattern}"'
    return DeepsepError(f"{first.label} and {second.label} would both be written to {path}; {mend}")


# --- one track -----------------------------------------------------------------------------------------


def run(
    job: Job, model: Model, settings: Settings, output: Output, *, on_progress: OnProgress | None = None
) -> Done:
    """Separates one track: a first pass for its length and loudness, a second for its stems.

    Raises DeepsepError as `audio.read_blocks` and the writers do; then nothing of this track is left behind.
    """
    began = time.monotonic()
    info = audio.probe(job.source)
    check(output, info)
    loudness = Loudness()
    for block in audio.read_blocks(job.source):
        loudness.hear(block)
    total, rms = loudness.samples, loudness.rms
    tags = read_tags(job.source)
    spread = None
    if output.uncertainty:
        spread = uncertainty.SpreadMap(model.spectrum, info.rate, total, list(output.stems))
    done = 0
    with ExitStack() as stack:
        writers: list[Writer] = []
        for opened in open_writers(job, output, info, total, tags, provenance(model, settings)):
            stack.push(opened)
            writers.append(opened)
        share = len(output.stems) * output.samples // len(writers)
        for piece in separation.separate_blocks(
            audio.read_blocks(job.source), info.rate, rms, total, model, settings,
            groups=[[model.sources.index(s) for s in members] for members in output.stems.values()],
            on_spread=spread.hear if spread else None,
        ):  # fmt: skip
            for number, writer in enumerate(writers):
                writer.write(piece[number * share : (number + 1) * share])
            done += piece.shape[-1]
            if on_progress:
                on_progress(done / info.rate)
    took = time.monotonic() - began
    write_extras(job, spread.result() if spread else None, model, settings, took)
    gain_db = min(w.gain_db for w in writers)
    return Done(
        job.label, job.paths, job.extras, total / info.rate, took, gain_db, rms == 0, used_settings(settings)
    )


def check(output: Output, info: AudioInfo) -> None:
    """Raises DeepsepError, with the track's name, unless the format can hold it."""
    try:
        if output.format == "stem":
            ni_stem.check(list(output.stems), info.channels, codec=output.codec)
        else:
            stems.check_format(output.format, info.rate, info.channels)
    except DeepsepError as error:
        raise DeepsepError(f"{info.path}: {error}") from None


def open_writers(
    job: Job, output: Output, info: AudioInfo, total: int, tags: Tags, comment: str
) -> Iterator[Writer]:
    """One writer for all stems of all samples, or one for each stem file."""
    if output.format == "stem":
        for path in job.paths.values():
            yield ni_stem.NiStemWriter(
                path, list(output.stems), info.rate, info.channels,
                codec=output.codec, tags=tags, comment=comment,
            )  # fmt: skip
        return
    yield stems.StemWriter(
        job.paths, info.rate, info.channels,
        format=output.format, bit_depth=output.bit_depth, bitrate=output.bitrate, frames=total,
        tags=tags, comment=comment,
    )  # fmt: skip


def write_extras(
    job: Job, found: uncertainty.Uncertainty | None, model: Model, settings: Settings, took: float
) -> None:
    """The maps, the picture and the page beside the stems; each appears only when it is complete."""
    title = audio.track_name(Path(job.label))
    if found:
        maps = {name: path for name, path in job.extras.items() if name != "report"}
        staged = stems.StagedFiles(maps)
        try:
            uncertainty.save(staged.temporary["uncertainty"], found)
            uncertainty.draw(staged.temporary["picture"], found, title)
            staged.commit()
        finally:
            staged.abort()
    if "report" in job.extras:
        from .report import write_report

        known = found.by_stem() if found else {}
        write_report(
            job.extras["report"], title=title, mix=job.source, stems=job.paths,
            settings=used_settings(settings), priors=origins(model),
            uncertainty={n: known[n.rpartition("/")[2]] for n in job.paths} if found else None, seconds=took,
        )  # fmt: skip


def origins(model: Model) -> Mapping[str, Any]:
    """Source -> where its prior came from, and at which commit."""
    return {
        source: {k: v for k, v in origin.items() if v is not None}
        for source, origin in model.info.get("origins", {}).items()
    }


def provenance(model: Model, settings: Settings) -> str:
    """The line that every output carries: what made it, from which priors, at which commit.

    Of a folder only its name is told: an output may be passed on, and need not show its maker's disk.
    """
    by_place: dict[str, list[str]] = {}
    for source, origin in model.info.get("origins", {}).items():
        repo = origin["priors"].partition("@")[0]
        place = f"{repo}@{origin['commit']}" if origin["commit"] else Path(origin["priors"]).name
        by_place.setdefault(place, []).append(source)
    whole = len(by_place) == 1
    priors = "; ".join(p if whole else f"{', '.join(names)}: {p}" for p, names in by_place.items())
    return f"deepsep {__version__}, {settings.method}, seed {settings.seed}; priors {priors}"


def used_settings(settings: Settings) -> dict[str, Any]:
    """What a separation depends on, as plain values."""
    used: dict[str, Any] = {"method": settings.method, "seed": settings.seed, "device": settings.device}
    if settings.samples > 1:
        used["samples"] = settings.samples
    if settings.method == "sgld":
        used |= {"init": settings.init, **asdict(settings.sgld)}
    return used
