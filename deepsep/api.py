"""deepsep from Python. Its names are those of the package: `deepsep.separate`.

Shape suffixes: s draw, k stem, c audio channel, t sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from .audio.files import MAX_CHANNELS
from .audio.loudness import to_listening_level
from .config import (
    BATCH_SIZE,
    BUNDLED,
    DEVICE,
    INIT,
    METHOD,
    SAMPLE_ITERATIONS,
    SAMPLE_SECONDS,
    SAMPLE_TEMPERATURE,
    SEED,
    BatchSize,
    Init,
    Method,
    SgldConfig,
    changed,
)
from .errors import DeepsepError
from .inference.domain import Separation
from .inference.model import Model
from .inference.settings import Settings, choose_method, choose_pitches, pick_batch_size, pick_device
from .models import folder as folders
from .models import hub
from .recordings.files import Place, paths_of
from .separation import measure, separate_blocks
from .spectral.uncertainty import SpreadMap, Uncertainty

if TYPE_CHECKING:
    from .evaluation.results import Results
    from .evaluation.run import Evaluation, OnProgress

__all__ = [
    "Draw",
    "evaluate",
    "load_priors",
    "sample_prior",
    "separate",
    "settings_for",
]

BLOCK = 1 << 18  # samples that are looked at together


def load_priors(
    priors: Place = BUNDLED,
    prior: Mapping[str, str] | None = None,
    *,
    sources: Sequence[str] | None = None,
    device: str = DEVICE,
    offline: bool = False,
    on_progress: hub.OnProgress | None = None,
) -> Model:
    """Load priors once, to separate many recordings with them.

    Args:
        priors: "bundled", a folder, or "org/name[@revision]" on the Hugging Face Hub.
        prior: instruments to replace or to add, each with where it comes from: {"vocals": "org/name"}.
        sources: which sources to infer, in order; by default all of them.
        device: "auto", "cpu", "cuda" or "mps".
        offline: use the local cache only.
        on_progress: called with (file name, bytes so far, bytes in all) while files are downloaded.

    The model's `sources` are its instruments in order; `info` says where each came from (`info.origins`) and under
    which licence (`info.licences`). Beside an encoder each prior is loaded when it is first asked for, since the
    encoder separates without them.
    Raises DeepsepError for priors that are not there, do not fit together or are damaged.

    >>> import deepsep
    >>> model = deepsep.load_priors(sources=["vocals", "drums"])
    >>> model.sources
    ['vocals', 'drums']
    >>> model.info.origins["drums"].priors
    'bundled'
    """
    return folders.load_model(
        str(priors),
        prior,
        sources=sources,
        device=pick_device(device),
        offline=offline,
        on_progress=on_progress,
    )


def settings_for(
    model: Model,
    *,
    method: Method = METHOD,
    init: Init = INIT,
    sgld: SgldConfig | Mapping[str, Any] | None = None,
    draws: int | None = None,
    uncertainty: bool = False,
    pitches: int | None = None,
    seed: int = SEED,
    batch_size: BatchSize = BATCH_SIZE,
    device: str = DEVICE,
) -> Settings:
    """Settle what "auto" and a missing `sgld` mean for a model; see `separate` for the arguments.

    Raises DeepsepError for settings that this model cannot use.
    """
    if draws is not None and draws < 2:
        raise DeepsepError(f"draws must be at least 2, got {draws}; leave it out for the one best separation")
    chosen, start = choose_method(method, init, has_encoder=model.encoder is not None)
    config = model.domain.sgld(
        draws=draws is not None, uncertainty=uncertainty, from_encoder=start == "encoder"
    )
    if isinstance(sgld, Mapping):
        sgld = {name: value for name, value in sgld.items() if value is not None}
        config = changed(config, sgld)
    elif sgld is not None:
        config = sgld
    if chosen == "sgld":
        list(model.priors.values())  # damaged ones are found here, before a song is read
    if sgld and chosen == "encoder":
        raise DeepsepError('sgld does nothing for the encoder; add method="sgld", or leave it out')
    if (draws or uncertainty) and chosen == "sgld" and config.temperature == 0:
        raise DeepsepError("draws and uncertainty need a temperature above 0")
    device = pick_device(device)
    settings = Settings(
        method=chosen, init=start, sgld=config, seed=seed, batch_size=pick_batch_size(batch_size, device),
        device=device, draws=draws or 1,
        pitches=choose_pitches(pitches, chosen, start, several=model.domain.several_pitches),
    )  # fmt: skip
    model.domain.check(settings, spread=uncertainty)
    return settings


def separate(
    samples: NDArray[Any],
    rate: int,
    *,
    priors: Place | Model = BUNDLED,
    method: Method = METHOD,
    init: Init = INIT,
    sgld: SgldConfig | Mapping[str, Any] | None = None,
    draws: int | None = None,
    pitches: int | None = None,
    seed: int = SEED,
    batch_size: BatchSize = BATCH_SIZE,
    device: str = DEVICE,
    offline: bool = False,
    on_uncertainty: Callable[[Uncertainty], None] | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> dict[str, NDArray[np.float32]]:
    """Separate a recording into stems that add up to it.

    Args:
        samples: floats of shape (c, t) or (t,), full scale 1.0, at most 8 channels.
        rate: sample rate in Hz; any. Only waveform priors resample; what that loses is shared out among the stems.
        priors: what `load_priors` gave, or what it takes; for more than one recording load them once.
        method: "sgld" (Langevin sampling under the priors), "encoder" (one pass), or "auto".
        init: where SGLD starts: "mixture", "encoder", or "auto".
        sgld: settings of SGLD: a SpectralSgldConfig or, for waveform priors, a WaveformSgldConfig, or a table of
            those that differ from the default, {"steps": 4}. By default those of the command line, which sample the
            posterior itself (temperature 1, in the spectral domain) for `draws` and `on_uncertainty`.
        draws: so many plausible separations instead of one best; each stem then has an axis more, in front.
        pitches: at how many pitches the encoder hears the recording; what it finds is averaged, in so many times the
            time. By default 1, and 2 where SGLD starts from it.
        seed: same seed, same machine, same stems, but for rounding (1e-4 of full scale).
        batch_size: windows at a time; changes memory, not the result. "auto" takes as many as a GPU's free memory
            holds, and one elsewhere. A batch that does not fit into a GPU's memory is halved.
        device: "auto", "cpu", "cuda" or "mps".
        offline: use the local cache only.
        on_uncertainty: called once, at the end, with how sure each stem is over time and frequency.
        on_progress: called with the share that is done, from 0 to 1.

    Returns the stems by source, in the model's order: float32, each of the shape of `samples`, or
    (draws, *samples.shape).
    Raises DeepsepError for samples of another shape or type, or with NaN, for settings that these priors cannot use,
    and as `load_priors` does.

    >>> import deepsep
    >>> import numpy as np
    >>> noise = 0.1 * np.random.default_rng(0).normal(size=(2, 22050))
    >>> stems = deepsep.separate(noise, 44100)
    >>> {name: stem.shape for name, stem in stems.items()}
    {'vocals': (2, 22050), 'drums': (2, 22050), 'bass': (2, 22050), 'other': (2, 22050)}
    >>> bool(np.allclose(sum(stems.values()), noise, atol=1e-6))
    True
    """
    mix_ct = check_samples(samples, rate)
    device = pick_device(device)
    if isinstance(priors, Model):
        model = priors.to(device)
    else:
        model = load_priors(priors, device=device, offline=offline)
    settings = settings_for(
        model, method=method, init=init, sgld=sgld, draws=draws, uncertainty=on_uncertainty is not None,
        pitches=pitches, seed=seed, batch_size=batch_size, device=device,
    )  # fmt: skip
    groups = [[k] for k in range(len(model.sources))]
    track = measure(split(mix_ct), rate)
    separation = Separation(track, model, settings, groups, spread=on_uncertainty is not None)
    spread = None
    if on_uncertainty:
        spread = SpreadMap(model.domain.spectrum, rate, track.samples, model.sources)

    def report(done: int) -> None:
        if on_progress:
            on_progress(min(1.0, done / track.samples))

    stems_skct = np.zeros((settings.draws, len(groups), *mix_ct.shape), np.float32)
    at = 0
    for piece in separate_blocks(
        split(mix_ct), separation, on_spread=spread.add if spread else None, on_progress=report
    ):
        stems_skct[..., at : at + piece.shape[-1]] = piece
        at += piece.shape[-1]
    if spread and on_uncertainty:
        on_uncertainty(spread.result())
    shape = (draws, *samples.shape) if draws else samples.shape
    return {source: stems_skct[:, k].reshape(shape) for k, source in enumerate(model.sources)}


def split(mix_ct: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """A signal in blocks, so that no step holds more than it needs."""
    return (mix_ct[:, at : at + BLOCK] for at in range(0, mix_ct.shape[1], BLOCK))


def check_samples(samples: NDArray[Any], rate: int) -> NDArray[np.float32]:
    """Samples as float32 (c, t). DeepsepError says what is wrong with them and what to do."""
    if isinstance(rate, bool) or not isinstance(rate, (int, np.integer)) or rate < 1:
        raise DeepsepError(f"the sample rate must be a whole number of Hz, got {rate!r}")
    if not isinstance(samples, np.ndarray) or samples.dtype.kind != "f":
        kind = samples.dtype if isinstance(samples, np.ndarray) else type(samples).__name__
        raise DeepsepError(
            f"samples must be a numpy array of floats, got {kind}; divide 16-bit integers by 32768, and call "
            ".numpy() on a torch tensor"
        )
    if samples.ndim not in (1, 2) or samples.size == 0:
        raise DeepsepError(f"samples must have the shape (c, t) or (t,), got {samples.shape}")
    mix_ct = samples.reshape(-1, samples.shape[-1])
    if len(mix_ct) > MAX_CHANNELS:
        hint = "; transpose them" if samples.shape[1] <= MAX_CHANNELS else ""
        raise DeepsepError(
            f"samples of shape {samples.shape} have {len(mix_ct)} channels, at most {MAX_CHANNELS} are "
            f"separated{hint}"
        )
    if not np.isfinite(mix_ct).all():
        raise DeepsepError("samples hold NaN or infinity")
    return np.ascontiguousarray(mix_ct, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Draw:
    """A draw from a prior: samples (1, t), full scale 1.0, and where the prior came from."""

    samples: NDArray[np.float32]
    rate: int
    origin: str


def sample_prior(
    source: str,
    *,
    priors: Place | Model = BUNDLED,
    seconds: float = SAMPLE_SECONDS,
    temperature: float = SAMPLE_TEMPERATURE,
    sigma: float | None = None,
    iterations: int = SAMPLE_ITERATIONS,
    seed: int = SEED,
    device: str = DEVICE,
    offline: bool = False,
    on_progress: Callable[[float], None] | None = None,
) -> Draw:
    """Draw from a prior and make the draw audible.

    Args:
        source: the instrument.
        priors: as in `separate`.
        seconds: length.
        temperature: 1 draws from the prior; less is tamer, 0 a steady average.
        sigma: noise level of the prior, by default its lowest.
        iterations: Griffin-Lim steps for the phase that log band powers lack; 0 leaves it noise.
        seed: same seed, same machine, same sound, but for rounding (1e-4 of full scale).
        device: "auto", "cpu", "cuda" or "mps".
        offline: use the local cache only.
        on_progress: called with the share of the iterations that is done.

    Raises DeepsepError for an unknown source, and where the draw overflows, as it does at temperatures far above 1.

    >>> import deepsep
    >>> draw = deepsep.sample_prior("drums", seconds=0.5, iterations=2)
    >>> draw.samples.shape, draw.rate
    ((1, 22050), 44100)
    """
    device = pick_device(device)
    if isinstance(priors, Model):
        model, origin = priors.to(device), priors.info.name
    else:
        found = hub.resolve(str(priors), offline=offline, only=[source])
        model, origin = folders.load(found.folder, device=device, sources=[source], encoder=False), found.name
    if source not in model.priors:
        raise DeepsepError(f"unknown source {source!r}; these priors have {', '.join(model.sources)}")
    flow, domain = model.priors[source], model.domain
    sound = domain.sonify(
        flow, max(1, round(seconds * domain.rate)), sigma=flow.config.sigma_min if sigma is None else sigma,
        temperature=temperature, iterations=iterations, rng=torch.Generator(device).manual_seed(seed),
        on_part=on_progress,
    )  # fmt: skip
    if not sound.samples.isfinite().all():
        raise DeepsepError(f"the prior's draw overflows at temperature {temperature:g}; use one nearer to 1")
    return Draw(to_listening_level(sound.samples[None].cpu().numpy()), sound.rate, origin)


def evaluate(
    songs: Place | Sequence[Place],
    *,
    priors: Place | Model = BUNDLED,
    how: Evaluation | None = None,
    offline: bool = False,
    on_progress: OnProgress | None = None,
) -> Results:
    """Score separations of songs whose stems are known, beside baselines and ideal ratio masks.

    Args:
        songs: folders song/{vocals,drums,...}.wav, folders of such folders, or .stem.mp4 files.
        priors: as in `separate`.
        how: which methods, on what excerpts; by default all that these priors allow, on whole songs.
        offline: use the local cache only.
        on_progress: called with (steps done, steps in all, what comes next).

    Raises DeepsepError where there is no song, and for methods that cannot run.

    >>> import deepsep, stempeg
    >>> how = deepsep.Evaluation(methods=["mixture", "stationary"], seconds=2)
    >>> results = deepsep.evaluate(stempeg.example_stem_path(), how=how)
    >>> results.mean("stationary") > results.mean("mixture")
    True
    """
    from .evaluation import run as scoring  # scikit-learn and others, which nothing else here needs
    from .evaluation.songs import find_songs

    how = how or scoring.Evaluation()
    if isinstance(priors, Model):
        model = priors.to(how.device)
    else:
        model = load_priors(priors, device=how.device, offline=offline)
    found = [song for place in paths_of(songs) for song in find_songs(place)]
    return scoring.evaluate(found, model, how, on_progress=on_progress)
