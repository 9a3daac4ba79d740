"""Samples <-> STFT -> band powers -> x, the log-variances that priors and encoder speak of.

Shape suffixes: b batch, k stem, c audio channel, t sample, f STFT bin, d band, n frame.

Frames lie outermost in memory, bins side by side, as the FFT wants them: that is why so much is transposed here.

One STFT serves every sample rate: window and hop keep their length in seconds, so bin i lies at the same
frequency at any rate and no audio is ever resampled. A rate below the model's has no bins for the upper bands
(`present_d` is False there); bins above the model's range share its last band.

A signal is extended by silence without end: frame j covers samples [(j - 3) hop, (j + 1) hop), and t samples
have ceil(t / hop) + 3 frames that touch them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ..config import SpectrumConfig

__all__ = ["CACHED", "Spectrum", "fft_size", "spectrum_at", "stereo_power"]

BLOCK = 16  # bands to one matrix of sums
CACHED = 64  # frames at a time: their products stay in the processor's cache, and the heap in one piece


def fft_size(config: SpectrumConfig, rate: int) -> int:
    """Samples of the window at `rate`: a multiple of 4 with small prime factors, close to the model's length."""
    ideal = config.n_fft * rate / config.rate
    near = [4 * q for q in range(max(4, round(ideal / 4 * 0.994)), round(ideal / 4 * 1.006) + 2)]
    return min(near, key=lambda n: (_largest_factor(n) > 31, abs(n - ideal))) if near else 16


def _largest_factor(n: int) -> int:
    largest, p = 1, 2
    while p * p <= n:
        while n % p == 0:
            largest, n = p, n // p
        p += 1
    return max(largest, n)


class Spectrum:
    """The STFT at one sample rate and its bands.

    Attributes: n_fft, hop in samples; bands; present_d (bool, which bands have bins at this rate);
    band_f (the band of each bin).
    """

    def __init__(self, config: SpectrumConfig, rate: int | None = None, device: str = "cpu") -> None:
        self.config = config
        self.rate = rate or config.rate
        self.n_fft = config.n_fft if self.rate == config.rate else fft_size(config, self.rate)
        self.hop = self.n_fft // 4
        edges = config.band_edges
        self.bands = len(edges) - 1
        band = np.repeat(np.arange(self.bands), np.diff(edges))
        bins = self.n_fft // 2 + 1
        band = np.concatenate([band, np.full(max(0, bins - len(band)), self.bands - 1)])[:bins]
        # bins beyond the model's range follow its last band, but tell nothing of that band's power
        known = min(bins, config.n_fft // 2 + 1)
        count = np.bincount(band[:known], minlength=self.bands)
        self.starts = np.concatenate([[0], np.cumsum(count)])
        self.known = known
        self.band_f = torch.from_numpy(band).to(device)
        self.present_d = torch.from_numpy(count > 0).to(device)
        self.count_d = torch.from_numpy(np.maximum(count, 1)).float().to(device)
        self.window = torch.hann_window(self.n_fft, device=device)
        self.floor = 10 ** (config.floor_db / 10)
        pairs = torch.from_numpy(band).repeat_interleave(2)
        self.blocks = [(ones.to(device), f, d) for ones, f, d in band_blocks(pairs, self.bands)]

    def frames(self, samples: int) -> int:
        """Frames that touch a signal of `samples` samples."""
        return -(-samples // self.hop) + 3

    def stft(self, padded_ct: Tensor) -> Tensor:
        """Frames of a stretch of signal: (..., c, (n + 3) hop) -> complex (..., c, f, n), unit white noise = 1."""
        pieces = padded_ct.unfold(-1, self.n_fft, self.hop) * (
            self.window / self.window.square().sum().sqrt()
        )
        spectra: Tensor = torch.fft.rfft(pieces).transpose(-1, -2)
        return spectra

    def analyse(self, samples_ct: Tensor) -> Tensor:
        """All frames of a whole signal: (..., c, t) -> complex (..., c, f, n)."""
        t = samples_ct.shape[-1]
        total = (self.frames(t) + 3) * self.hop
        return self.stft(torch.nn.functional.pad(samples_ct, (3 * self.hop, total - 3 * self.hop - t)))

    def synthesise(self, spectra_fn: Tensor, samples: int) -> Tensor:
        """The signal of all its frames, exact inverse of `analyse`: (..., f, n) -> (..., t)."""
        return torch.cat(list(self.synthesise_stream([spectra_fn])), -1)[..., :samples]

    def analyse_stream(self, blocks_ct: Iterable[Tensor], frames: int = CACHED) -> Iterator[Tensor]:
        """`analyse` on a signal that comes in blocks: yields (c, f, n) with n <= frames, in constant memory."""
        held: list[Tensor] = []
        have, total = 3 * self.hop, 0
        first = True
        for block in blocks_ct:
            if first:
                held.append(block.new_zeros(*block.shape[:-1], 3 * self.hop))
                first = False
            held.append(block)
            have, total = have + block.shape[-1], total + block.shape[-1]
            while have >= (frames + 3) * self.hop:
                joined = torch.cat(held, -1)
                yield self.stft(joined[..., : (frames + 3) * self.hop])
                held = [joined[..., frames * self.hop :].clone()]
                have = held[0].shape[-1]
        if first:
            return
        joined = torch.cat(held, -1)
        left = -(-(joined.shape[-1] - 3 * self.hop) // self.hop) + 3  # frames that still touch the signal
        joined = torch.nn.functional.pad(joined, (0, (left + 3) * self.hop - joined.shape[-1]))
        for at in range(0, left, frames):
            n = min(frames, left - at)
            yield self.stft(joined[..., at * self.hop : (at + n + 3) * self.hop])

    def synthesise_stream(self, spectra_fn: Iterable[Tensor]) -> Iterator[Tensor]:
        """Samples from consecutive frames, (..., f, n) each; silence may follow the signal's end."""
        # squared Hann windows a quarter apart add up to 1.5
        scale = self.window * (self.window.square().sum().sqrt() / 1.5)
        tail: Tensor | None = None
        skip = 3 * self.hop
        for spectra in spectra_fn:
            pieces = torch.fft.irfft(spectra.transpose(-1, -2), n=self.n_fft)  # (..., n, n_fft)
            n, hop = pieces.shape[-2], self.hop
            out = pieces.new_zeros(*pieces.shape[:-2], n + 3, hop)
            quarters = pieces.unflatten(-1, (4, hop))
            for q in range(4):
                out[..., q : q + n, :].addcmul_(quarters[..., q, :], scale[q * hop : (q + 1) * hop])
            out = out.flatten(-2)
            if tail is not None:
                out[..., : 3 * hop] += tail
            tail = out[..., n * hop :].clone()
            done = out[..., : n * hop]
            if skip:
                cut = min(skip, done.shape[-1])
                skip, done = skip - cut, done[..., cut:]
            if done.shape[-1]:
                yield done

    def band_power(self, power_fn: Tensor) -> Tensor:
        """Mean power of each band: (..., f, n) -> (..., d, n); 0 where the rate has no such band."""
        known = power_fn[..., : self.known, :]
        sums = known.new_zeros(*known.shape[:-2], self.bands, known.shape[-1])
        sums.index_add_(-2, self.band_f[: self.known], known)
        return sums / self.count_d[:, None]

    def pair_means(self, pairs_nf: Tensor) -> Tensor:
        """`band_power` of a power in two parts, of real and imaginary part: (..., n, 2 f) -> (..., d, n)."""
        known = pairs_nf[..., : 2 * self.known]
        sums = [
            known[..., bins] @ block[: max(0, known.shape[-1] - bins.start)] for block, bins, _ in self.blocks
        ]
        return torch.cat(sums, -1).transpose(-1, -2) / self.count_d[:, None]

    def mask(self, spectra_fn: Tensor, masks_dn: Tensor) -> Tensor:
        """Spectra times a value for each band, complex (..., f, n) and (..., d, n): `expand`, then the product."""
        masks = masks_dn.transpose(-1, -2)
        pairs = torch.cat([masks[..., bands] @ block.T for block, _, bands in self.blocks], -1)
        pairs = pairs * pairs_of(spectra_fn)
        return torch.view_as_complex(pairs.reshape(*pairs.shape[:-1], -1, 2)).transpose(-1, -2)

    def expand(self, masks_dn: Tensor) -> Tensor:
        """A value for each bin from one for each band: (..., d, n) -> (..., f, n)."""
        return masks_dn.index_select(-2, self.band_f)

    def to_x(self, power_dn: Tensor) -> Tensor:
        """Band power (of a mixture of RMS 1) -> x: (ln(power + floor) - shift) / scale."""
        return ((power_dn + self.floor).log() - self.config.shift) / self.config.scale

    def to_power(self, x_dn: Tensor) -> Tensor:
        """x -> band power, the floor included: exp(scale x + shift)."""
        return (self.config.scale * x_dn + self.config.shift).exp()


@lru_cache(maxsize=8)
def spectrum_at(config: SpectrumConfig, rate: int, device: str) -> Spectrum:
    """The STFT at a rate on a device, made once."""
    return Spectrum(config, rate, device)


def band_blocks(band_f: Tensor, bands: int) -> Iterator[tuple[Tensor, slice, slice]]:
    """Which bin is of which band, as matrices (f, d) of ones that follow one another: each with its bins and bands."""
    for start in range(0, bands, BLOCK):
        own = slice(start, min(start + BLOCK, bands))
        first, last = torch.searchsorted(band_f, torch.tensor([own.start, own.stop]).to(band_f)).tolist()
        numbers = torch.arange(own.start, own.stop).to(band_f)
        yield (band_f[first:last, None] == numbers).float(), slice(first, last), own


def pairs_of(spectra_fn: Tensor) -> Tensor:
    """Real and imaginary part of each bin side by side: complex (..., f, n) -> (..., n, 2 f)."""
    return torch.view_as_real(spectra_fn.transpose(-1, -2)).flatten(-2)


def stereo_power(spectra_cfn: Tensor, spectrum: Spectrum) -> Tensor:
    """Band powers of left, right, mid and side: (..., c, f, n) -> (..., 4, d, n).

    Other than two channels have no sides: their mean power counts as left and as right, all of it in the middle.
    """
    pieces = [stereo_power_of(pairs_of(piece), spectrum) for piece in torch.split(spectra_cfn, CACHED, -1)]
    return torch.cat(pieces, -1)


def stereo_power_of(pairs_cnf: Tensor, spectrum: Spectrum) -> Tensor:
    """`stereo_power` of a few frames: (..., c, n, 2 f) -> (..., 4, d, n)."""
    if pairs_cnf.shape[-3] != 2:
        power = spectrum.pair_means(pairs_cnf.square().mean(-3))
        return torch.stack([power, power, 2 * power, torch.zeros_like(power)], -3)
    left, right = pairs_cnf.unbind(-3)
    products = torch.stack([left.square(), right.square(), left * right], -3)
    left, right, both = spectrum.pair_means(products).unbind(-3)
    middle = (left + right) / 2  # |L + R|^2 / 2 = (|L|^2 + |R|^2) / 2 + Re L R*
    return torch.stack([left, right, (middle + both).clamp_min(0), (middle - both).clamp_min(0)], -3)
