"""Files -> outputs: where every output of every track goes, checked before any work."""

from __future__ import annotations

import os
import string
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..audio.files import track_name
from ..audio.info import WHOLE, AudioInfo, Part
from ..config import BIT_DEPTH, CODEC, FORMAT, MP3_KBPS, BitDepth, Codec, Format
from ..errors import DeepsepError
from ..staging import remove_abandoned
from . import ni_stem, stems

__all__ = [
    "PATTERN_KEYS",
    "Input",
    "Job",
    "Output",
    "check_format",
    "check_pattern",
    "output_stems",
    "path_key",
    "plan",
    "plan_paths",
    "track_key",
]

PATTERN_KEYS = ("track", "stem", "ext", "parent", "priors", "sample")

EXTRAS = {"uncertainty": "uncertainty.npz", "picture": "uncertainty.png", "report": "report.html"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """What is written, and where.

    Args:
        folder: the output folder; the pattern is relative to it.
        stems: name of each output -> the sources that it sums.
        pattern: path of each file, with the keys of `PATTERN_KEYS`; None for the usual places.
        format: "wav", "flac", "mp3", "ogg", or "stem" for a Native Instruments stem file.
        bit_depth: of wav and flac, see `stems.Encoding`.
        bitrate: of mp3, in kbit/s.
        codec: of stem files, see `ni_stem.Encoding`.
        overwrite: replace files that exist.
        draws: how many separations of each track are drawn from the posterior.
        uncertainty: write the maps of uncertainty and their picture.
        report: write the HTML page.
    """

    folder: Path
    stems: dict[str, list[str]]
    pattern: str | None = None
    format: Format = FORMAT
    bit_depth: BitDepth = BIT_DEPTH
    bitrate: int = MP3_KBPS
    codec: Codec = CODEC
    overwrite: bool = False
    draws: int = 1
    uncertainty: bool = False
    report: bool = False

    @property
    def file_pattern(self) -> str:
        """The pattern in use: `pattern`, or the usual places for this format and number of draws."""
        if self.pattern:
            return self.pattern
        if self.format == "stem":
            return "{track}/sample-{sample}.{ext}" if self.draws > 1 else "{track}.{ext}"
        return "{track}/sample-{sample}/{stem}.{ext}" if self.draws > 1 else "{track}/{stem}.{ext}"


@dataclass(frozen=True, slots=True)
class Input:
    """A file to separate, and its name in messages.

    Where they are known: its length in seconds and what it holds, both of the part of it that is wanted.
    """

    path: Path
    label: str
    seconds: float | None = None
    info: AudioInfo | None = None
    part: Part = WHOLE


@dataclass(frozen=True, slots=True)
class Job:
    """One track and its outputs.

    `paths` maps each stem to its file, {"mix": file} for a stem file; with several draws the names are
    "sample-1/vocals" and so on. `extras` maps "uncertainty", "picture" and "report" to the files beside them; `key`
    is its `track_key`.
    """

    source: Path
    paths: dict[str, Path]
    extras: dict[str, Path] = field(default_factory=dict)
    label: str = ""
    seconds: float | None = None
    info: AudioInfo | None = None
    part: Part = WHOLE
    key: str = ""

    def is_done(self) -> bool:
        """Whether all outputs exist."""
        return all(os.path.lexists(path) for path in (*self.paths.values(), *self.extras.values()))

    @property
    def folders(self) -> set[Path]:
        """The folders that the outputs lie in."""
        return {path.parent for path in (*self.paths.values(), *self.extras.values())}


def output_stems(
    sources: Sequence[str], only: Sequence[str] | None = None, two_stems: str | None = None
) -> dict[str, list[str]]:
    """Output name -> sources it sums: all of them, some of them, or one and the rest ("no_vocals").

    Raises DeepsepError for a source that the priors do not have, and where there is no rest.
    """
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
    inputs: Sequence[Input],
    output: Output,
    *,
    priors: str = "",
    skip_existing: bool = False,
    on_partial: Callable[[Input, DeepsepError], None] | None = None,
) -> list[Job]:
    """Every output of every track. Creates nothing, but removes what a killed run left beside outputs that exist.

    With `skip_existing`, tracks whose outputs all exist are left out; so are those of which some exist, where there is
    `on_partial` to call with why.
    Raises DeepsepError as `plan_paths` does, for an output that is one of the inputs, for one that exists
    (unless `output.overwrite`), and where two tracks would write one file.
    """
    jobs: list[Job] = []
    owners: dict[str, Input] = {}
    finished: set[Path] = set()
    sources = {os.path.normcase(os.path.realpath(i.path)): i for i in inputs}
    for item in inputs:
        try:
            job = plan_job(item, output, priors)
        except OSError as error:
            raise DeepsepError(
                f"{item.label}: its outputs cannot be named ({error.strerror}); choose another --out"
            ) from None
        targets = [*job.paths.values(), *job.extras.values()]
        if taken := next((owners[path_key(p)] for p in targets if path_key(p) in owners), None):
            raise collision_error(taken, item, targets[0], output)
        for path in targets:
            owners[path_key(path)] = item
            if reader := sources.get(os.path.normcase(os.path.realpath(path))):
                raise DeepsepError(f"{path}: is an input itself ({reader.label}); choose another --out")
        existing = [p for p in targets if os.path.lexists(p)]
        if skip_existing and len(existing) == len(targets):
            finished |= job.folders
            continue
        if existing and not output.overwrite:
            state = "exists" if not skip_existing else "exists, though other outputs of this track do not"
            problem = DeepsepError(f"{existing[0]}: {state}; use --overwrite to replace it")
            if not (skip_existing and on_partial):
                raise problem
            on_partial(item, problem)
            continue
        jobs.append(job)
    for folder in finished:
        remove_abandoned(folder)
    return jobs


def plan_job(item: Input, output: Output, priors: str) -> Job:
    """The outputs of one track. Raises DeepsepError as `plan_paths` does, and for draws without {sample}."""
    pattern = output.file_pattern
    names = ["mix"] if output.format == "stem" else list(output.stems)
    ext = "stem.mp4" if output.format == "stem" else output.format
    if output.draws > 1 and "{sample}" not in pattern:
        raise DeepsepError(f"--samples {output.draws} needs {{sample}} in the pattern {pattern!r}")
    targets: dict[str, Path] = {}
    for draw in range(1, output.draws + 1):
        prefix = f"sample-{draw}/" if output.draws > 1 else ""
        paths = plan_paths(item.path, output.folder, pattern, names, ext, priors=priors, draw=draw)
        targets |= {prefix + name: path for name, path in paths.items()}
    # The extras go to the deepest folder that all stems of the track share, and carry its name unless that does.
    shared = os.path.dirname(pattern.split("{stem}")[0].split("{sample}")[0])
    own = "" if "{track}" in shared else "{track}."
    extras: dict[str, Path] = {}
    for kind, name in EXTRAS.items():
        if output.report if kind == "report" else output.uncertainty:
            extra = f"{shared}/{own}{name}" if shared else own + name
            extras |= plan_paths(item.path, output.folder, extra, [kind], ext, priors=priors)
    key = track_key(item.path, output, priors)
    return Job(item.path, targets, extras, item.label, item.seconds, item.info, item.part, key)


def track_key(track: Path, output: Output, priors: str = "") -> str:
    """Where a track's outputs go below the output folder, stems and draws aside: the same on every machine.

    Tracks that would write the same files have the same key. Raises DeepsepError as `check_pattern` does.
    """
    check_pattern(output.file_pattern)
    known = {"track": track_name(track), "ext": "", "parent": track.absolute().parent.name, "priors": priors}
    return output.file_pattern.format(stem="", sample="", **known)


def plan_paths(
    track: Path,
    out: Path,
    pattern: str,
    stems: Sequence[str],
    ext: str,
    *,
    priors: str = "",
    draw: int = 1,
) -> dict[str, Path]:
    """Where each stem of `track` goes: `out` / `pattern`, in the order of `stems`. Creates nothing.

    `pattern` may use {track} (file name without its audio suffix), {stem}, {ext}, {parent} (name of the
    folder that holds the track), {priors} and {sample} (the number `draw`).
    Raises DeepsepError for a pattern that `check_pattern` refuses or that gives stems another suffix than
    `ext`, for two stems in one place, for a path that is the input itself, is a folder or lies outside
    `out`, and for a folder that cannot be written.
    """
    check_pattern(pattern)
    known = {"track": track_name(track), "ext": ext, "parent": track.absolute().parent.name}
    known |= {"priors": priors, "sample": str(draw)}
    paths = {stem: out / pattern.format(stem=stem, **known) for stem in stems}
    taken: dict[str, str] = {}
    for stem, path in paths.items():
        place = os.path.normcase(os.path.abspath(path))
        if place in taken:
            raise DeepsepError(
                f"stems {taken[place]} and {stem} would both be written to {path}; put {{stem}} in the pattern"
            )
        taken[place] = stem
        if path.exists() and track.exists() and path.samefile(track):
            raise DeepsepError(f"{path}: is the input itself; choose another --out or pattern")
        if path.is_dir():
            raise DeepsepError(f"{path}: is a folder, stem {stem} needs this name; choose another --out")
        check_folder(path.parent)
    for path in paths.values():
        if "{stem}" in pattern and not path.name.endswith(f".{ext}"):
            raise DeepsepError(
                f"{path.name} would hold {ext}: end the pattern in .{{ext}}, or choose --format"
            )
        if not Path(os.path.abspath(path)).is_relative_to(os.path.abspath(out)):
            raise DeepsepError(f"{path}: lies outside {out}; the pattern may not lead out of it")
    return paths


def check_pattern(pattern: str) -> None:
    """Raise DeepsepError for a pattern that cannot be parsed, uses an unknown key or names no file."""
    allowed = ", ".join(f"{{{key}}}" for key in PATTERN_KEYS)
    try:
        fields = [(key, spec, conv) for _, key, spec, conv in string.Formatter().parse(pattern)]
    except ValueError as error:
        raise DeepsepError(f"pattern {pattern!r} cannot be read ({error}); it may use {allowed}") from None
    for key, spec, conversion in fields:
        if key is not None and (key not in PATTERN_KEYS or spec or conversion):
            raise DeepsepError(f"pattern {pattern!r} uses {{{key}}}; it may use {allowed}")
    if not pattern or pattern.endswith(("/", os.sep)):
        raise DeepsepError(f"pattern {pattern!r} names no file; it may use {allowed}")


def check_folder(folder: Path) -> None:
    """Raise DeepsepError unless `folder` is writable or can be created."""
    nearest = folder.absolute()
    while not os.path.lexists(nearest) and nearest != nearest.parent:
        nearest = nearest.parent
    if nearest.is_symlink() and not nearest.exists():
        raise DeepsepError(
            f"{folder}: cannot be created, {nearest} is a link to nothing; choose another --out"
        )
    if not nearest.is_dir():
        raise DeepsepError(f"{folder}: cannot be created, {nearest} is a file; choose another --out")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise DeepsepError(f"{folder}: {nearest} cannot be written; choose another --out")


def check_format(output: Output, info: AudioInfo) -> None:
    """Raise DeepsepError, with the track's path, unless the format can hold its rate and channels."""
    try:
        if output.format == "stem":
            ni_stem.check(list(output.stems), info.channels, codec=output.codec)
        else:
            stems.check_format(output.format, info.rate, info.channels)
    except DeepsepError as error:
        raise DeepsepError(f"{info.path}: {error}") from None


def path_key(path: Path) -> str:
    """The same text for all spellings of one path, also where the system ignores case."""
    text = os.path.normcase(os.path.abspath(path))
    return text.casefold() if sys.platform == "darwin" else text


def collision_error(first: Input, second: Input, path: Path, output: Output) -> DeepsepError:
    """The error for two tracks that would write the file `path`, with what to do about it."""
    pattern = output.file_pattern
    remedy = "separate them into different --out folders"
    if "{track}" not in pattern:
        remedy = "put {track} in the pattern"
    elif "{parent}" not in pattern and first.path.parent.name != second.path.parent.name:
        remedy = f'add --filename "{{parent}}/{pattern}"'
    return DeepsepError(f"{first.label} and {second.label} would both be written to {path}; {remedy}")
