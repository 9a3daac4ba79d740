"""What the writers of stems share: one open file per stem, and an end with all files or none.

Shape suffixes: k stem, c channel, t sample. Samples are float32, full scale is 1.0.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile as sf

from ..audio.info import Samples
from ..errors import DeepsepError, refusal
from ..staging import StagedFiles, place_of, uninterrupted

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["StagedWriter", "StemSpool", "shared_gain"]

WRITE_FRAMES = 1 << 16
VORBIS_FRAMES = 4096  # libsndfile's Vorbis writer puts a whole call on the stack and crashes on long ones


def shared_gain(peak: float, ceiling: float) -> float:
    """The factor for all stems of a track: 1.0, or what brings `peak` down to `ceiling`."""
    return 1.0 if peak <= ceiling else ceiling / peak


class CheckedFile(io.FileIO):
    """A file whose failed writes are remembered in `error`: libsndfile forgets those that come as it closes."""

    error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all of `data`; on failure return how much was written."""
        view, done = memoryview(data), 0
        try:
            while done < len(view):
                done += super().write(view[done:]) or 0
        except OSError as error:
            self.error = self.error or error
        return done


class StemSpool:
    """One open sound file per stem. Keeps the largest peak of all stems and their length in samples.

    `formats` are soundfile's keyword arguments (format, subtype, ...). `limit_frames` is the largest length
    in samples; `comment` is written into each file. Raises DeepsepError when a file cannot be created.
    """

    def __init__(
        self,
        paths: Mapping[str, Path],
        rate: int,
        channels: int,
        *,
        limit_frames: float = math.inf,
        comment: str = "",
        **formats: Any,
    ) -> None:
        self.peak = 0.0
        self.frames = 0
        self.channels = channels
        self.limit_frames = limit_frames
        self.step = VORBIS_FRAMES if formats.get("subtype") == "VORBIS" else WRITE_FRAMES
        self.paths = dict(paths)
        self.files: list[sf.SoundFile] = []
        self.targets: list[CheckedFile] = []
        for path in paths.values():
            try:
                with uninterrupted():
                    self.targets.append(CheckedFile(path, "w+"))
                    self.files.append(sf.SoundFile(self.targets[-1], "w", rate, channels, **formats))
                    if comment:
                        self.files[-1].comment = comment
            except BaseException as error:
                self.abandon()
                if not isinstance(error, sf.LibsndfileError | OSError):
                    raise
                raise refusal(place_of(path), error) from None

    def write(self, stems: Samples) -> None:
        """Append (k, c, t).

        Raises DeepsepError for NaN or infinite samples, for a length past the limit and for a full disk.
        """
        expected = (len(self.files), self.channels)
        if stems.ndim != 3 or stems.shape[:2] != expected:
            raise ValueError(f"expected stems of shape {(*expected, 't')}, got {stems.shape}")
        if not stems.size:
            return
        peak = max(float(stems.max()), -float(stems.min()))  # NaN where there is one
        if not math.isfinite(peak):
            broken = list(self.paths)[int(np.argmin(np.isfinite(stems).all(axis=(1, 2))))]
            raise DeepsepError(f"stem {broken} came out NaN or infinite; try other steps or another model")
        self.peak = max(self.peak, peak)
        self.frames += stems.shape[2]
        if self.frames > self.limit_frames:
            raise DeepsepError(
                "a wav file cannot grow past 4 GiB; use --format flac, or cut the track in two"
            )
        # libsndfile calls back for every write, and an interrupt that came there would be lost
        with uninterrupted():
            for file, stem in zip(self.files, stems, strict=True):
                for start in range(0, stem.shape[1], self.step):
                    try:
                        file.write(stem[:, start : start + self.step].T)
                    except (sf.LibsndfileError, AssertionError) as error:
                        raise self.failure(getattr(error, "error_string", "it stopped")) from None

    def close(self) -> None:
        """Close the files; a second call does nothing. Raises DeepsepError unless all was written."""
        self.abandon()
        targets, self.targets = self.targets, []
        if any(target.error for target in targets):
            raise self.failure("", targets)

    def abandon(self) -> None:
        """Close the files, whatever was written."""
        with uninterrupted():
            for file in self.files:
                file.close()
            self.files = []
            for target in self.targets:
                target.close()

    def failure(self, why: str, targets: Sequence[CheckedFile] = ()) -> DeepsepError:
        """The error for a failed write: the system's reason where it is known."""
        known = [target.error for target in targets or self.targets if target.error]
        return DeepsepError(
            f"writing the stems failed ({known[0].strerror if known else why}); is the disk full?"
        )


class StagedWriter:
    """Base of the writers of one track's stems: a context manager that leaves all of its files, or none.

    `gain_db` is the gain applied to all stems, at most 0 dB, and `notes` say what of the tags was left out; both are
    known after `close`, during which `on_part` hears the share of `finish` that is done. A subclass sets `spool` and
    overrides `finish`. With `staged`, the files wait there, among others of the track, for whoever commits them all;
    without, `close` commits.
    """

    gain_db = 0.0
    is_open = True
    on_part: Callable[[float], None] | None = None
    spool: StemSpool

    def __init__(self, targets: Mapping[str, Path], staged: StagedFiles | None) -> None:
        self.alone = staged is None
        self.notes: list[str] = []
        self.staged = StagedFiles(targets) if staged is None else staged
        self.temporary = {name: self.staged.temporary_of(path) for name, path in targets.items()}

    def write(self, stems: Samples) -> None:
        """Append a block of shape (k, c, t), stems in their order."""
        self.spool.write(stems)

    def close(self) -> None:
        """Complete every file, and rename it to its target unless others are waited for; once."""
        if not self.is_open:
            return
        try:
            self.spool.close()
            self.finish()
            if self.alone:
                self.staged.commit()
            self.is_open = False
        finally:
            self.abort()

    def abort(self) -> None:
        """Remove everything written so far; does nothing after `close`."""
        if not self.is_open:
            return
        self.is_open = False
        self.spool.abandon()
        if self.alone:
            self.staged.abort()

    def finish(self) -> None:
        """Make the temporary files out of the closed spool."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()
