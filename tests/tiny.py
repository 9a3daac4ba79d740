"""Small priors folders, and the command line called as a person calls it."""

import sys
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants, file_download
from safetensors.torch import save

from deepsep import cli
from deepsep.config import SpectralEncoderConfig, SpectralFlowConfig, SpectrumConfig
from deepsep.models import folder as folders
from deepsep.spectral.domain import SpectralDomain

SPECTRUM = SpectrumConfig(rate=16000, n_fft=256, single_bins=8)
DOMAIN = SpectralDomain(spectrum=SPECTRUM)
BANDS = SPECTRUM.bands


def can_be_written(dtype: torch.dtype) -> bool:
    """Whether the installed safetensors writes numbers of this type; its oldest versions lack some."""
    try:
        return bool(save({"x": torch.zeros(1).to(dtype)}))
    except KeyError:
        return False


def tiny_prior(seed=0):
    """One step of flow about an uneven mean spectrum."""
    rng = torch.Generator().manual_seed(seed)
    prior = DOMAIN.build_flow(SpectralFlowConfig(channels=BANDS, steps=1, hidden=8, layers=1), rng)
    prior.whitening.fit(1 + torch.randn(400, BANDS, generator=rng) + torch.randn(BANDS, generator=rng))
    return prior


def folder_of(folder: Path, *sources: str, licence="CC-BY-4.0", encoder=False, **info) -> Path:
    """Writes a priors folder."""
    info = {"licence": licence, "data": {"hours": 1.5, "folders": ["choir", "solo"]}, **info}
    for seed, source in enumerate(sources):
        folders.save_prior(folder, source, tiny_prior(seed), DOMAIN, info)
    if encoder:
        shape = SpectralEncoderConfig(bands=BANDS, widths=(4,), bottleneck=2, deep=0, context=10)
        encoder = DOMAIN.build_encoder(shape, len(sources)).eval()
        rng = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for weight in encoder.parameters():  # fresh ones give every source the same
                weight += 0.1 * torch.randn(weight.shape, generator=rng)
        folders.save_encoder(folder, encoder, list(sources), {})
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    """What a repository of this folder serves."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def point_client(monkeypatch, url: str, cache: Path) -> None:
    """Points the real client, which read its environment long ago, at a server and an empty cache."""
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)


class Commands:
    """`deepsep ...` in this process: its exit code, and what it wrote."""

    def __init__(self, monkeypatch, capsys):
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, *words) -> tuple[int, str, str]:
        self.monkeypatch.setattr(sys, "argv", ["deepsep", *map(str, words)])
        self.capsys.readouterr()
        code: Any = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
        out, err = self.capsys.readouterr()
        return code, out, err

    def good(self, *words) -> str:
        """stdout of a command that must succeed."""
        code, out, err = self(*words)
        assert code == 0, err
        return out

    def bad(self, *words) -> str:
        """The one line of a command that must fail with exit code 1."""
        code, out, err = self(*words)
        assert (code, out) == (1, "")
        assert err.startswith("error: ")
        assert err.count("\n") == 1, "an error is one line"
        return err
