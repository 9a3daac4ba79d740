"""What the writers of stems share: one open file per stem, and an end with all files or none.

Shape suffixes: k stem, c channel, t sample. Samples are float32, full scale is 1.0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile as sf

from ..audio.info import Samples
from ..errors import DeepsepError
from ..staging import StagedFiles, place_of

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["StagedWriter", "StemSpool", "shared_gain"]

WRITE_FRAMES = 1 << 16
VORBIS_FRAMES = 4096  # libsndfile's Vorbis writer puts a whole call on the stack and crashes on long ones


def shared_gain(peak: float, ceiling: float) -> float:
    """The factor for all stems of a track: 1.0, or what brings `peak` down to `ceiling`."""
    return 1.0 if peak <= ceiling else ceiling / peak


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
        for path in paths.values():
            try:
                self.files.append(sf.SoundFile(path, "w", rate, channels, **formats))
                if comment:
                    self.files[-1].comment = comment
            except sf.LibsndfileError as error:
                self.close()
                raise DeepsepError(f"{place_of(path)}: cannot be written ({error.error_string})") from None

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
        for file, stem in zip(self.files, stems, strict=True):
            for start in range(0, stem.shape[1], self.step):
                try:
                    file.write(stem[:, start : start + self.step].T)
                except sf.LibsndfileError as error:
                    raise DeepsepError(
                        f"writing the stems failed ({error.error_string}); is the disk full?"
                    ) from None

    def close(self) -> None:
        """Close the files; a second call does nothing."""
        for file in self.files:
            file.close()
        self.files = []


class StagedWriter:
    """Base of the writers of one track's stems: a context manager that leaves all of its files, or none.

    `gain_db` is the gain applied to all stems, at most 0 dB, and `notes` say what of the tags was left out; both are
    known after `close`. A subclass sets `spool` and
    overrides `finish`. With `staged`, the files wait there, among others of the track, for whoever commits them all;
    without, `close` commits.
    """

    gain_db = 0.0
    is_open = True
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
        self.spool.close()
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
