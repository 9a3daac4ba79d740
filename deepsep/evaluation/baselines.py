"""Masks that need no posterior: the oracle's, and those of non-negative dictionaries.

Shape suffixes: k stem, c audio channel, t sample, f bin, d band, n frame, r atom.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..config import SpectrumConfig
from ..errors import DeepsepError, MissingExtra
from ..inference.model import Model
from ..recordings.files import file_rms, find_audio
from ..spectral.powers import log_powers
from ..spectral.spectrum import Spectrum
from .songs import Clip, Samples

__all__ = ["Analysis", "NmfDictionaries", "nmf_function", "oracle_gains"]

CHUNK = 256  # frames synthesised at a time


class Analysis:
    """A clip on the model's STFT, computed once for all masks."""

    def __init__(self, clip: Clip, model: Model) -> None:
        self.clip = clip
        self.sources = model.sources
        self.spectrum = Spectrum(model.domain.spectrum, clip.rate)

    @cached_property
    def spectra_cfn(self) -> Tensor:
        """The mixture's STFT."""
        return self.spectrum.analyse(torch.tensor(self.clip.mixture_ct))

    @cached_property
    def power_dn(self) -> Tensor:
        """The mixture's mean power in each band, channels averaged."""
        return self.spectrum.band_power(self.spectra_cfn.abs().square().mean(0))

    def true_power(self, full: bool) -> tuple[Tensor, Tensor]:
        """Power of each source, 0 without a reference, and of all that is in the mixture: (k, ...), (...).

        With `full` for each channel and bin, else on the bands. What the references leave over of the mixture
        counts as one more source.
        """
        references = self.clip.references
        rest = self.clip.mixture_ct - np.sum(list(references.values()), 0)

        def power(samples_ct: Samples) -> Tensor:
            squared = self.spectrum.analyse(torch.tensor(samples_ct)).abs().square()
            return squared if full else self.spectrum.band_power(squared.mean(0))

        total = power(rest)
        zero = torch.zeros_like(total)
        own = torch.stack([power(references[s]) if s in references else zero for s in self.sources])
        return own, total + own.sum(0)

    def apply_gains(self, gains: Tensor) -> Samples:
        """Stems (k, c, t) by gains (k, d, n) on bands, n = 1 for all times, or (k, c, f, n) in every bin."""
        frames, length = self.spectra_cfn.shape[-1], self.clip.mixture_ct.shape[1]

        def pieces(gain: Tensor) -> Iterator[Tensor]:
            for at in range(0, frames, CHUNK):
                part = gain if gain.shape[-1] == 1 else gain[..., at : at + CHUNK]
                bins = self.spectrum.expand(part) if part.ndim == 2 else part
                yield bins * self.spectra_cfn[..., at : at + CHUNK]

        stems = [torch.cat(list(self.spectrum.synthesise_stream(pieces(gain))), -1) for gain in gains]
        return torch.stack(stems)[..., :length].numpy()


def oracle_gains(analysis: Analysis, full: bool) -> Tensor:
    """|S_k|^2 / sum_j |S_j|^2, on bands or in every bin and channel."""
    own, total = analysis.true_power(full)
    gains: Tensor = own / total.clamp_min(1e-30)
    return gains


@dataclass(frozen=True, slots=True)
class NmfDictionaries:
    """Non-negative spectra of each source, learnt on its solo recordings: magnitudes on the model's bands.

    Activations under the Kullback-Leibler divergence explain a mixture by all dictionaries together. That
    divergence has magnitudes add up, so a source's gain is its part of their sum.
    Reference: Smaragdis et al., Supervised and semi-supervised separation of sounds, 2007.
    """

    atoms: dict[str, NDArray[np.float64]]  # (r, d)
    iterations: int = 20  # more fit the mixture better, and the sources worse

    @classmethod
    def learn(
        cls,
        folders: Mapping[str, Path],
        config: SpectrumConfig,
        *,
        components: int = 32,
        files: int = 30,
        frames: int = 4000,
        iterations: int = 60,
        seed: int = 0,
    ) -> NmfDictionaries:
        """Learn `components` spectra of each source from frames of up to `files` of its recordings."""
        factorize = nmf_function()
        spectrum = Spectrum(config)
        random = np.random.default_rng(seed)
        atoms = {}
        for source, folder in folders.items():
            found = find_audio(Path(folder))
            chosen = [found[i] for i in np.sort(random.permutation(len(found))[:files])]
            pieces = []
            for path in chosen:
                if (rms := file_rms(path)) == 0:
                    continue
                heard = list(islice(log_powers(path, spectrum, rms, 1.0), 3))
                if heard:
                    own = np.concatenate(heard).astype(np.float64)
                    pick = random.permutation(len(own))[: -(-frames // len(chosen))]
                    magnitude = np.exp(own[np.sort(pick)] / 2)
                    pieces.append(magnitude / np.maximum(magnitude.sum(1, keepdims=True), 1e-3))
            if not pieces:
                raise DeepsepError(f"{folder}: has no recording that is neither silent nor too short")
            _, learnt, _ = factorize(
                np.concatenate(pieces),
                n_components=components,
                init="random",
                solver="mu",
                beta_loss="kullback-leibler",
                max_iter=iterations,
                tol=0,
                random_state=seed,
            )
            atoms[source] = learnt / np.maximum(learnt.sum(1, keepdims=True), 1e-12)
        return cls(atoms)

    def gains(self, power_dn: Tensor, spectrum: Spectrum) -> Tensor:
        """Gains (k, d, n) of a mixture by its band powers; they sum to 1."""
        present = spectrum.present_d.numpy()
        magnitude = power_dn.numpy().astype(np.float64).T ** 0.5
        level = max(float(magnitude.mean()), 1e-12)
        stacked = np.concatenate(list(self.atoms.values()))
        activity, _, _ = nmf_function()(
            np.ascontiguousarray(magnitude[:, present]) / level + 1e-9,
            H=np.ascontiguousarray(stacked[:, present]),
            n_components=len(stacked),
            init="custom",
            update_H=False,
            solver="mu",
            beta_loss="kullback-leibler",
            max_iter=self.iterations,
            tol=0,
        )
        parts, at = [], 0
        for own in self.atoms.values():
            parts.append(activity[:, at : at + len(own)] @ own)
            at += len(own)
        share = np.stack(parts).transpose(0, 2, 1) + 1e-20
        return torch.from_numpy(share / share.sum(0)).float()


def nmf_function() -> Callable[..., tuple[Any, Any, Any]]:
    """scikit-learn's factorization."""
    try:
        from sklearn.decomposition import non_negative_factorization
    except ImportError:
        raise MissingExtra('the nmf baseline needs scikit-learn: pip install "deepsep[eval]"') from None
    factorize: Callable[..., tuple[Any, Any, Any]] = non_negative_factorization
    return factorize
