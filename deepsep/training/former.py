"""What a training that starts afresh replaces: kept beside it until that training has come to its end."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import DeepsepError
from ..staging import Scratch

__all__ = ["Former", "former_of"]


@dataclass(frozen=True, slots=True)
class Former:
    """A former training in `top`: its weights and checkpoint, and the config.json that names the weights.

    `folder` holds them under the same names once they are about to be replaced: moved back to `top`, they are what
    they were.
    """

    top: Path
    folder: Path
    files: Sequence[str]

    def keep(self) -> None:
        """Keep what is there, unless something from before is kept already. Raises DeepsepError where that fails."""
        trained = [name for name in self.files if (self.top / name).is_file()]
        if self.folder.exists() or not trained:
            return
        try:
            scratch = Scratch(self.folder.parent)
            try:
                whole = scratch.path / "former"
                for name in [*trained, "config.json"]:
                    if (self.top / name).is_file():
                        (whole / name).parent.mkdir(parents=True, exist_ok=True)
                        second_name(self.top / name, whole / name)
                os.replace(whole, self.folder)
            finally:
                scratch.remove()
        except OSError as error:
            raise DeepsepError(
                f"{self.folder}: what is there cannot be kept ({error.strerror}), so nothing was replaced; "
                "choose another folder"
            ) from None

    def drop(self) -> None:
        """Remove what is kept."""
        shutil.rmtree(self.folder, ignore_errors=True)


def former_of(top: Path, name: str, weights: Sequence[str]) -> Former:
    """What a training called `name` replaces in a priors folder: its checkpoint, and the weights of these names."""
    files = [f"training/{name}.safetensors", *(f"{own}.safetensors" for own in weights)]
    return Former(top, top / "training" / f"former-{name}", files)


def second_name(path: Path, other: Path) -> None:
    """Give a file another name, which keeps its contents when the first comes to name a new file; else copy it."""
    try:
        os.link(path, other)
    except (OSError, NotImplementedError):
        shutil.copy2(path, other)
