"""A priors folder: config.json, one <source>.safetensors for each instrument, perhaps encoder.safetensors.

The one loader for bundled, local and Hub folders. Loading is strict: an unknown format, a setting or a weight that
does not fit, or a file that is not the one config.json names is one clear line.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from ..config import (
    DOMAINS,
    EncoderConfig,
    FlowConfig,
    SpectrumConfig,
    WaveformConfig,
    WaveformEncoderConfig,
    WaveformFlowConfig,
    from_dict,
    to_dict,
)
from ..errors import DeepsepError
from ..flows.flow import FlowPrior, WaveformPrior
from ..inference.mixture import wiener_gains
from ..spectral.encoder import Encoder, WaveformEncoder
from ..spectral.spectrum import Spectrum, band_edges
from . import hub

__all__ = [
    "FORMAT",
    "Model",
    "assemble",
    "check_domain",
    "check_name",
    "load",
    "read_config",
    "save_encoder",
    "save_prior",
    "stationary_gains",
    "waveform_of",
]

FORMAT = 1


@dataclass(slots=True)
class Model:
    """What separation needs: the representation, a prior for each source in order, and perhaps an encoder.

    With `waveform` the priors are densities of samples, and the spectrum is that of the baselines' masks alone.
    """

    spectrum: SpectrumConfig
    priors: Mapping[str, FlowPrior | WaveformPrior]
    encoder: Encoder | WaveformEncoder | None = None
    info: dict[str, Any] = field(default_factory=dict)
    waveform: WaveformConfig | None = None

    @property
    def sources(self) -> list[str]:
        """The instruments, in order."""
        return list(self.priors)

    def to(self, device: str) -> Model:
        """This model on another device."""
        for module in [*self.priors.values(), *([self.encoder] if self.encoder else [])]:
            module.to(device)
        return self


def stationary_gains(model: Model, spectrum: Spectrum) -> Tensor:
    """Wiener gains of the priors' mean spectra, (k, d, 1)."""
    mean_kd = torch.stack([prior.mean_spectrum for prior in model.priors.values()])
    return wiener_gains(mean_kd[None, :, :, None], spectrum)[0]


def check_name(source: Any) -> str:
    """A source's name must do as a file name and in a list: letters, digits, _ and -."""
    fits = isinstance(source, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", source)
    if not fits or source in ("encoder", "config"):
        raise DeepsepError(f"{source!r} cannot name a source; use letters, digits, _ and - (such as vocals)")
    return str(source)


def read_config(folder: Path) -> dict[str, Any]:
    """config.json, its format checked."""
    config = hub.read_config(folder)
    if not isinstance(config.get("format"), int):
        raise DeepsepError(f"{folder}: not a priors folder, its config.json names no format")
    if config["format"] > FORMAT:
        raise DeepsepError(
            f"{folder}: format {config['format']}, this deepsep reads up to {FORMAT}; upgrade deepsep"
        )
    for key, kind in (("sources", list), ("spectrum", dict), ("files", dict), ("priors", dict)):
        if not isinstance(config.get(key), kind):
            raise DeepsepError(f"{folder}: config.json has no valid {key!r}")
    if not config["sources"] or not isinstance(config.get("encoder", {}), dict):
        raise DeepsepError(f"{folder}: config.json lists no sources, or an encoder that is no table")
    for name in config["sources"]:
        if not isinstance(config["priors"].get(check_name(name)), dict):
            raise DeepsepError(f"{folder}: config.json says nothing about the prior of {name}")
    if (domain := config.setdefault("domain", "spectral")) not in DOMAINS:
        raise DeepsepError(
            f"{folder}: priors of the domain {domain!r}, this deepsep knows {' and '.join(DOMAINS)}"
        )
    return config


def waveform_of(config: dict[str, Any]) -> WaveformConfig | None:
    """How priors of samples hear them; None in the spectral domain."""
    return from_dict(WaveformConfig, config.get("waveform", {})) if config["domain"] == "waveform" else None


def load(
    folder: Path, *, device: str = "cpu", sources: list[str] | None = None, encoder: bool = True
) -> Model:
    """The model of a priors folder, or of some of its sources.

    Raises DeepsepError for a folder that lacks a part or holds one that does not fit. The encoder is left out when
    the sources asked for are not those it was trained for.
    """
    config = read_config(folder)
    names = sources or config["sources"]
    for name in names:
        if name not in config["sources"]:
            raise DeepsepError(f"unknown source {name!r}; these priors have {', '.join(config['sources'])}")
    spectrum, waveform = from_dict(SpectrumConfig, config["spectrum"]), waveform_of(config)
    bands = len(band_edges(spectrum)) - 1
    priors: dict[str, FlowPrior | WaveformPrior] = {}
    for name in names:
        settings = config["priors"][name].get("flow")
        prior = (
            WaveformPrior(from_dict(WaveformFlowConfig, settings))
            if waveform
            else FlowPrior(from_dict(FlowConfig, settings))
        )
        if len(prior.mean_spectrum) != bands:
            raise DeepsepError(
                f"{folder}: {name} is a flow on {len(prior.mean_spectrum)} bands, the spectrum has {bands}"
            )
        priors[name] = fill(prior, folder, f"{name}.safetensors", config)
    net = None
    made_for = config.get("encoder", {}).get("sources")
    if encoder and made_for and sorted(made_for) == sorted(names):
        shape = config["encoder"].get("network")
        empty = (
            WaveformEncoder(from_dict(WaveformEncoderConfig, shape), len(names))
            if waveform
            else Encoder(from_dict(EncoderConfig, shape), len(names))
        )
        net = fill(empty, folder, "encoder.safetensors", config)
        net.reorder([made_for.index(name) for name in names])
    return Model(spectrum, priors, net, config, waveform).to(device)


def assemble(
    priors: str = "bundled",
    replaced: Mapping[str, str] | None = None,
    *,
    sources: Sequence[str] | None = None,
    device: str = "cpu",
    offline: bool = False,
    on_progress: hub.OnProgress | None = None,
) -> Model:
    """The model of what a user names: bundled, a folder or org/name[@revision], instruments replaced or added.

    `replaced` maps a source to where its prior comes from. `sources` picks and orders; by default all of `priors`,
    then those added. An encoder speaks for the very priors it was trained with, so replacing one leaves it out.
    `info["origins"]` says for each source where it came from and at which commit.
    Raises DeepsepError as `load` and `hub.resolve` do, and for priors of different spectra.
    """
    replaced = dict(replaced or {})
    base = hub.resolve(priors, offline=offline, on_progress=on_progress)
    offered = [*read_config(base.folder)["sources"], *replaced]
    if sources is not None and not sources:
        raise DeepsepError(f"no source is named; {base.name} has {', '.join(dict.fromkeys(offered))}")
    names = list(dict.fromkeys(sources or offered))
    if unknown := [name for name in names if name not in offered]:
        known = ", ".join(dict.fromkeys(offered))
        raise DeepsepError(f"unknown source {unknown[0]!r}; {base.name} has {known}")
    own = [name for name in names if name not in replaced]
    model = load(base.folder, sources=own or None, encoder=own == names)
    flows = dict(model.priors)
    origins = dict.fromkeys(own, base)
    for name in (n for n in names if n in replaced):
        found = hub.resolve(replaced[name], offline=offline, on_progress=on_progress, only=[name])
        other = load(found.folder, sources=[name], encoder=False)
        if other.waveform != model.waveform:
            raise DeepsepError(
                f"{found.name}: its {name} and {base.name} are of other domains, rates or levels; "
                "they cannot be mixed"
            )
        if other.spectrum != model.spectrum:
            raise DeepsepError(
                f"{found.name}: its {name} uses another spectrum than {base.name}; they cannot be mixed"
            )
        flows |= other.priors
        origins[name] = found
    info = {**model.info, "name": base.name}
    info["origins"] = {n: {"priors": origins[n].name, "commit": origins[n].commit} for n in names}
    picked = {n: flows[n] for n in names}
    return Model(model.spectrum, picked, model.encoder, info, model.waveform).to(device)


def fill(module: Any, folder: Path, name: str, config: dict[str, Any]) -> Any:
    """Loads one file into a module, strictly, after checking that it is the file config.json names."""
    path = folder / name
    if name not in config["files"]:
        raise DeepsepError(f"{folder}: config.json names no {name}")
    hub.verify(folder, {**config, "files": {name: config["files"][name]}})
    try:
        tensors = load_file(path)
        module.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in tensors.items()})
    except (SafetensorError, RuntimeError, OSError) as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise DeepsepError(f"{path}: weights do not fit this folder's config ({reason})") from error
    return module.eval().requires_grad_(False)


def digest(data: bytes) -> str:
    """sha256 in hex."""
    return hashlib.sha256(data).hexdigest()


def packed(module: nn.Module, *, half: bool) -> bytes:
    """Weights as safetensors, floats in half precision if wanted."""

    def stored(name: str, v: Tensor) -> Tensor:
        # the whitening's axes must stay orthonormal, or inverse and log-determinant are not exact
        whole = name.startswith("whitening.") or not half or not v.is_floating_point()
        return (v if whole else v.half()).contiguous()

    return save({k: stored(k, v) for k, v in module.state_dict().items()})


def write(folder: Path, name: str, data: bytes) -> None:
    """Writes beside the target, then moves it into place."""
    part = folder / f".{name}.part"
    part.write_bytes(data)
    os.replace(part, folder / name)


def store(folder: Path, name: str, data: bytes, config: dict[str, Any]) -> None:
    """Writes a weights file and the config that names it, the weights first."""
    folder.mkdir(parents=True, exist_ok=True)
    config["files"][name] = {"sha256": digest(data), "size": len(data)}
    write(folder, name, data)
    write(folder, "config.json", (json.dumps(config, indent=2) + "\n").encode())


def check_domain(folder: Path, spectrum: SpectrumConfig, waveform: WaveformConfig | None) -> None:
    """DeepsepError unless a priors folder, where there is one, is of this domain and representation."""
    if not (folder / "config.json").exists():
        return
    config = read_config(folder)
    if waveform_of(config) != waveform:
        raise DeepsepError(
            f"{folder}: its priors are of another domain, rate or level ({config['domain']}); "
            "choose another output folder"
        )
    if from_dict(SpectrumConfig, config["spectrum"]) != spectrum:
        raise DeepsepError(f"{folder}: its priors use another spectrum; choose another output folder")


def save_prior(
    folder: Path,
    source: str,
    prior: FlowPrior | WaveformPrior,
    spectrum: SpectrumConfig,
    info: dict[str, Any],
    waveform: WaveformConfig | None = None,
) -> None:
    """Adds an instrument to a priors folder, or replaces it; `info` is the statement of its data and training."""
    check_name(source)
    check_domain(folder, spectrum, waveform)
    if (folder / "config.json").exists():
        config = read_config(folder)
    else:
        config = {"format": FORMAT, "domain": "spectral", "sources": [], "spectrum": to_dict(spectrum)}
        config |= {"priors": {}, "files": {}}
        if waveform:
            config |= {"domain": "waveform", "waveform": to_dict(waveform)}
    if source not in config["sources"]:
        config["sources"].append(source)
    config["priors"][source] = {"flow": to_dict(prior.config), **info}
    # a prior of samples predicts them to a hundredth: half precision is too coarse
    store(folder, f"{source}.safetensors", packed(prior, half=waveform is None), config)


def save_encoder(
    folder: Path, encoder: Encoder | WaveformEncoder, sources: list[str], info: dict[str, Any]
) -> None:
    """Adds the amortized posterior of these sources to a priors folder, or replaces it."""
    config = read_config(folder)
    config["encoder"] = {"sources": sources, "network": to_dict(encoder.config), **info}
    store(folder, "encoder.safetensors", packed(encoder, half=True), config)
