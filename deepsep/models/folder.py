"""A priors folder: config.json, one <source>.safetensors for each instrument, perhaps encoder.safetensors.

The one loader for bundled, local and Hub folders, and the one place where a domain is chosen. Loading is strict: an
unknown format, a setting or a weight that does not fit, or a file that is not the one config.json names is an error.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from safetensors.torch import save
from torch import Tensor, nn

from ..config import BUNDLED, SpectrumConfig, WaveformConfig, from_dict, is_number, to_dict
from ..errors import DeepsepError, refusal
from ..flows.flow import Flow
from ..inference.domain import Domain
from ..inference.encoder import AmortizedPosterior
from ..inference.model import LazyPriors, Model, ModelInfo, Origin
from ..spectral.domain import SpectralDomain
from ..staging import StagedFiles
from ..waveform.domain import WaveformDomain
from . import files, hub
from .card import UNSPECIFIED, clean
from .offer import FORMAT, check_name, choose, read_config
from .weights import load_weights

__all__ = [
    "DOMAINS",
    "FORMAT",
    "check_domain",
    "check_name",
    "domain_of",
    "load",
    "load_model",
    "read_config",
    "save_encoder",
    "save_prior",
    "set_licence",
    "stated_licence",
]

MOST_SPREAD = 100.0

M = TypeVar("M", bound=nn.Module)


def domain_of(config: Mapping[str, Any]) -> Domain:
    """The domain that a config.json names, with its settings. DeepsepError for settings that it cannot have."""
    return DOMAINS[config["domain"]](config)


@contextmanager
def named(folder: Path) -> Iterator[None]:
    """Begin a DeepsepError of the block with the folder's name."""
    try:
        yield
    except DeepsepError as error:
        told = str(error)
        raise DeepsepError(told if str(folder) in told else f"{folder}: {told}") from error


def read_spectral(config: Mapping[str, Any]) -> Domain:
    """Log band powers."""
    return SpectralDomain(spectrum=from_dict(SpectrumConfig, config["spectrum"]))


def read_waveform(config: Mapping[str, Any]) -> Domain:
    """Samples."""
    return WaveformDomain(
        waveform=from_dict(WaveformConfig, config.get("waveform", {})),
        spectrum=from_dict(SpectrumConfig, config["spectrum"]),
    )


# A new domain joins by a line here.
DOMAINS: dict[str, Callable[[Mapping[str, Any]], Domain]] = {
    "spectral": read_spectral,
    "waveform": read_waveform,
}


def load(
    folder: Path, *, device: str = "cpu", sources: Sequence[str] | None = None, encoder: bool = True
) -> Model:
    """Load the model of a priors folder, or of some of its sources.

    Raises DeepsepError for a folder that lacks a part or holds one that does not fit. The encoder is left out if
    the sources asked for are not those that it was trained for. Beside an encoder priors are loaded when they are
    first asked for, after it was checked that their files are those of config.json.
    """
    config = read_config(folder)
    with named(folder):
        domain = domain_of(config)
    names = list(sources or config["sources"])
    for name in names:
        if name not in config["sources"]:
            raise DeepsepError(f"unknown source {name!r}; these priors have {', '.join(config['sources'])}")
    with named(folder):
        shapes = {name: domain.flow_config(config["priors"][name].get("flow")) for name in names}
    net = None
    made_for = config.get("encoder", {}).get("sources")
    if encoder and made_for and sorted(made_for) == sorted(names):
        with named(folder):
            shape = domain.encoder_config(config["encoder"].get("network"))
            build = partial(domain.build_encoder, shape, len(names))
            net = fill(build, folder, "encoder.safetensors", config)
            net.spread = spread_of(config["encoder"])
        net.reorder([made_for.index(name) for name in names])
    priors: Mapping[str, Flow] = LazyPriors(
        {name: partial(load_prior, folder, name, shape, domain, config) for name, shape in shapes.items()}
    )
    if net is None:
        priors = dict(priors)
    else:
        for name in names:
            check(folder, f"{name}.safetensors", config)
    licences = {name: licence_of(config, name) for name in names}
    used = [*names, *(["encoder"] if net is not None else [])]
    weights = digest("".join(config["files"][f"{name}.safetensors"]["sha256"] for name in used).encode())
    return Model(domain, priors, net, ModelInfo(str(folder), {}, licences, weights)).to(device)


def spread_of(encoder: Mapping[str, Any]) -> list[float] | None:
    """The factor of each stem's spread, as the config states it; None where it does not. DeepsepError for nonsense."""
    stated = encoder.get("spread")
    if stated is None:
        return None
    usual = isinstance(stated, dict) and all(
        is_number(stated.get(s)) and 0 < stated[s] <= MOST_SPREAD for s in encoder["sources"]
    )
    if not usual:
        raise DeepsepError("the encoder's spread must have a number from 0 to 100 for each source")
    return [float(stated[s]) for s in encoder["sources"]]


def load_prior(folder: Path, name: str, shape: Any, domain: Domain, config: Mapping[str, Any]) -> Flow:
    """Load the prior of a source, a flow of some shape."""
    with named(folder):
        return fill(partial(domain.build_flow, shape), folder, f"{name}.safetensors", config)


def licence_of(config: Mapping[str, Any], source: str) -> str:
    """The licence of a source's weights, as its config states it."""
    return clean(config["priors"][source].get("licence", UNSPECIFIED))


def load_model(
    priors: str = BUNDLED,
    replaced: Mapping[str, str] | None = None,
    *,
    sources: Sequence[str] | None = None,
    device: str = "cpu",
    offline: bool = False,
    on_progress: hub.OnProgress | None = None,
) -> Model:
    """Load what a user names: "bundled", a folder or org/name[@revision], instruments replaced or added.

    `replaced` maps a source to where its prior comes from. `sources` picks and orders; by default all of `priors`,
    then those added. An encoder belongs to the priors that it was trained with: replacing one leaves it out.
    Raises DeepsepError as `load` and `hub.resolve` do, and for priors of different domains.
    """
    replaced = dict(replaced or {})
    base = hub.resolve(priors, offline=offline, on_progress=on_progress)
    names, own, has_encoder = choose(base, replaced, sources)
    model = load(base.folder, sources=own or None, encoder=has_encoder)
    flows: dict[str, Mapping[str, Flow]] = dict.fromkeys(model.priors, model.priors)
    licences = dict(model.info.licences)
    origins = dict.fromkeys(own, base)
    weights = [model.info.weights] if own else []
    for name in (n for n in names if n in replaced):
        found = hub.resolve(replaced[name], offline=offline, on_progress=on_progress, only=[name])
        other = load(found.folder, sources=[name], encoder=False)
        if other.domain != model.domain:
            raise DeepsepError(
                f"{found.name}: its {name} and {base.name} are of other domains, spectra, rates or levels; "
                "they cannot be mixed"
            )
        flows[name] = other.priors
        licences |= other.info.licences
        weights.append(other.info.weights)
        origins[name] = found
    info = ModelInfo(
        base.name,
        {n: Origin(origins[n].name, origins[n].commit) for n in names},
        {n: licences[n] for n in names},
        weights[0] if len(weights) == 1 else digest("".join(weights).encode()),
    )
    lazy = LazyPriors({n: partial(flows[n].__getitem__, n) for n in names})
    return replace(model, priors=lazy, info=info).to(device)


def fill(build: Callable[[], M], folder: Path, name: str, config: Mapping[str, Any]) -> M:
    """Build a network and load one file into it, strictly, after checking that it is the file config.json names."""
    check(folder, name, config)
    return load_weights(build, folder / name)


def check(folder: Path, name: str, config: Mapping[str, Any]) -> None:
    """Raise DeepsepError unless a file is the one config.json names."""
    if name not in config["files"]:
        raise DeepsepError(f"{folder}: config.json names no {name}")
    files.verify(folder, {**config, "files": {name: config["files"][name]}})


def digest(data: bytes) -> str:
    """sha256 in hex."""
    return hashlib.sha256(data).hexdigest()


def pack(module: nn.Module, *, half: bool) -> bytes:
    """Pack weights as safetensors, floats in half precision if wanted."""

    def stored(name: str, v: Tensor) -> Tensor:
        # the whitening's axes must stay orthonormal, or inverse and log-determinant are not exact
        whole = name.startswith("whitening.") or not half or not v.is_floating_point()
        return (v if whole else v.half()).contiguous()

    return save({k: stored(k, v) for k, v in module.state_dict().items()})


def store(folder: Path, name: str, data: bytes, config: dict[str, Any]) -> None:
    """Write a weights file and the config that names it, both or none. Raises DeepsepError where that fails."""
    config["files"][name] = {"sha256": digest(data), "size": len(data)}
    write(folder, {name: data, "config.json": as_text(config)})


def write(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write files of a folder, all or none. Raises DeepsepError where that fails."""
    with StagedFiles({name: folder / name for name in contents}) as staged:
        for name, data in contents.items():
            try:
                staged.temporary[name].write_bytes(data)
            except OSError as error:
                raise refusal(folder / name, error) from None
        staged.commit()


def as_text(config: Mapping[str, Any]) -> bytes:
    """What a config.json holds. Raises DeepsepError for more than would be read again."""
    text = (json.dumps(config, indent=2) + "\n").encode()
    if len(text) > files.MAX_TEXT_BYTES:
        raise DeepsepError(
            f"config.json would have {len(text)} bytes, {files.MAX_TEXT_BYTES} are allowed; say less in it"
        )
    return text


def stated_licence(folder: Path, source: str) -> str:
    """The licence that a folder states for a source's weights; "unspecified" where it has none of that name."""
    if not (folder / "config.json").exists():
        return UNSPECIFIED
    config = read_config(folder)
    return licence_of(config, source) if source in config["sources"] else UNSPECIFIED


def set_licence(folder: Path, licence: str, sources: Sequence[str] = ()) -> list[str]:
    """State the licence of some sources' weights, by default of all; return these sources. No weight changes.

    Raises DeepsepError for an unknown source and for a folder that cannot be written.
    """
    config = read_config(folder)
    chosen = list(sources or config["sources"])
    for name in chosen:
        if name not in config["sources"]:
            raise DeepsepError(f"unknown source {name!r}; these priors have {', '.join(config['sources'])}")
        config["priors"][name]["licence"] = licence
    if "licence" in config and chosen == config["sources"]:
        config["licence"] = licence
    write(folder, {"config.json": as_text(config)})
    return chosen


def check_domain(folder: Path, domain: Domain) -> None:
    """Raise DeepsepError if a folder holds priors of another domain or representation."""
    if (folder / "config.json").exists() and domain_of(read_config(folder)) != domain:
        raise DeepsepError(
            f"{folder}: its priors are of another domain, spectrum, rate or level; choose another output folder"
        )


def save_prior(folder: Path, source: str, flow: Flow, domain: Domain, info: Mapping[str, Any]) -> None:
    """Add an instrument to a priors folder, or replace it; `info` states its data and training."""
    check_name(source)
    check_domain(folder, domain)
    if (folder / "config.json").exists():
        config = read_config(folder)
    else:
        config = {"format": FORMAT, "sources": [], **domain.to_config(), "priors": {}, "files": {}}
    if source not in config["sources"]:
        config["sources"].append(source)
    config["priors"][source] = {"flow": to_dict(flow.config), **info}
    store(folder, f"{source}.safetensors", pack(flow, half=domain.half), config)


def save_encoder(
    folder: Path, encoder: AmortizedPosterior, sources: Sequence[str], info: Mapping[str, Any]
) -> None:
    """Add the amortized posterior of these sources to a priors folder, or replace it."""
    config = read_config(folder)
    config["encoder"] = {"sources": list(sources), "network": to_dict(encoder.config), **info}
    store(folder, "encoder.safetensors", pack(encoder, half=True), config)
