"""Options that several commands have, each declared once, and the panels that --help shows them in."""

from __future__ import annotations

from typing import Annotated

import typer

from ..config import SURE_CHAINS, SpectralSgldConfig, WaveformSgldConfig, bounds, ranges

__all__ = [
    "LANGEVIN",
    "LIBRARY",
    "NETWORK",
    "OUTPUT",
    "PRIORS",
    "RUNNING",
    "TRAINING",
    "Bf16Option",
    "ChainsOption",
    "DeviceOption",
    "GammaOption",
    "JsonOption",
    "LevelsOption",
    "LrOption",
    "MinutesOption",
    "MixturesOption",
    "OfflineOption",
    "OverwriteOption",
    "OverwriteTrainingOption",
    "PitchesOption",
    "PriorOption",
    "PriorsOption",
    "QuietOption",
    "RecordingFolders",
    "ResumeOption",
    "SeedOption",
    "SgldStepsOption",
    "SigmaMaxOption",
    "SigmaMinOption",
    "SoloFolders",
    "StepsOption",
    "TemperatureOption",
    "ThreadsOption",
    "TrainingSeedOption",
    "WorkersOption",
]

OUTPUT, PRIORS, LANGEVIN, RUNNING = "Files", "Priors", "Langevin sampling (--method sgld)", "Running"
TRAINING, NETWORK = "Training", "Network"
LIBRARY = "Large libraries (docs/scale.md)"

BANDS, SAMPLES = SpectralSgldConfig(), WaveformSgldConfig()
DRAWN = SpectralSgldConfig.default(draws=True)
WARM = WaveformSgldConfig.default(from_encoder=True)


def by_default(name: str, *, warm: bool = False) -> str:
    """What a setting of SGLD is by default, for each kind of priors."""
    text = f"By default {getattr(BANDS, name):g}, with waveform priors {getattr(SAMPLES, name):g}"
    return f"{text}, and {getattr(WARM, name):g} from an encoder." if warm else f"{text}."


PriorsOption = Annotated[
    str,
    typer.Option(
        help="Where the priors come from: bundled, a folder, or org/name or org/name@revision on the Hub.",
        rich_help_panel=PRIORS,
    ),
]
PriorOption = Annotated[
    list[str],
    typer.Option(
        metavar="NAME=PRIORS",
        help="Replace or add one instrument: vocals=DIR or vocals=org/name.",
        rich_help_panel=PRIORS,
    ),
]
OfflineOption = Annotated[
    bool,
    typer.Option(
        "--offline", help="Fetch nothing: use the priors that are on this machine.", rich_help_panel=PRIORS
    ),
]
DeviceOption = Annotated[
    str,
    typer.Option(
        metavar="DEVICE", help="Where to compute: auto, cpu, cuda, cuda:1... or mps.", rich_help_panel=RUNNING
    ),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(**bounds(ranges.Threads), help="CPU threads to compute with.", rich_help_panel=RUNNING),
]
SeedOption = Annotated[
    int,
    typer.Option(
        **bounds(ranges.Seed),
        help="Same seed, same machine: same output, but for rounding (1e-4 of full scale).",
        rich_help_panel=RUNNING,
    ),
]
QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print errors only.", rich_help_panel=RUNNING)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.", rich_help_panel=RUNNING)]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Replace files that exist.", rich_help_panel=OUTPUT)
]

PitchesOption = Annotated[
    int | None,
    typer.Option(
        **bounds(ranges.Pitches),
        help="At how many pitches the encoder hears the song: the mean of what it finds is a little better and takes "
        "so many times as long. By default 1, and 2 where Langevin starts from it.",
    ),
]
SgldStepsOption = Annotated[
    int | None,
    typer.Option(
        **bounds(ranges.SgldSteps),
        help=f"Langevin steps a noise level. By default {BANDS.steps}, for several draws or an uncertainty "
        f"{DRAWN.steps}; with waveform priors {SAMPLES.steps}.",
        rich_help_panel=LANGEVIN,
    ),
]
LevelsOption = Annotated[
    int | None,
    typer.Option(
        **bounds(ranges.Levels),
        help="Noise levels. " + by_default("levels", warm=True),
        rich_help_panel=LANGEVIN,
    ),
]
SigmaMaxOption = Annotated[
    float | None,
    typer.Option(
        **bounds(ranges.NoiseLevel),
        help="First noise level. " + by_default("sigma_max", warm=True),
        rich_help_panel=LANGEVIN,
    ),
]
SigmaMinOption = Annotated[
    float | None,
    typer.Option(
        **bounds(ranges.NoiseLevel),
        help="Last noise level. " + by_default("sigma_min"),
        rich_help_panel=LANGEVIN,
    ),
]
GammaOption = Annotated[
    float | None,
    typer.Option(
        **bounds(ranges.Gamma),
        help="With waveform priors: how loosely sources sum to the mixture, in noise levels; 0 exactly. "
        f"By default {SAMPLES.gamma:g}.",
        rich_help_panel=LANGEVIN,
    ),
]
TemperatureOption = Annotated[
    float | None,
    typer.Option(
        **bounds(ranges.Temperature),
        help=f"1 samples the posterior, 0 seeks a mode. By default {BANDS.temperature:g}, for several draws or an "
        f"uncertainty {DRAWN.temperature:g}; with waveform priors {SAMPLES.temperature:g}.",
        rich_help_panel=LANGEVIN,
    ),
]
ChainsOption = Annotated[
    int | None,
    typer.Option(
        **bounds(ranges.Chains),
        help=f"Chains to average. By default {BANDS.chains}, for an uncertainty {SURE_CHAINS}; with waveform priors "
        f"{SAMPLES.chains}, of which the likeliest is kept.",
        rich_help_panel=LANGEVIN,
    ),
]

SoloFolders = Annotated[
    list[str],
    typer.Argument(
        metavar="[NAME=]DIR...",
        help="Folders of solo recordings, source=DIR; or one folder that has a subfolder for each source.",
    ),
]
RecordingFolders = Annotated[
    list[str],
    typer.Argument(
        metavar="[NAME=]DIR...",
        help="Folders of solo recordings, source=DIR, and of records of several sources, as in "
        "drums+bass+other=instrumentals/; or one folder that has subfolders of such names.",
    ),
]
MinutesOption = Annotated[
    float | None,
    typer.Option(
        **bounds(ranges.Minutes),
        help="Stop after this long, resumed runs together.",
        rich_help_panel=TRAINING,
    ),
]
StepsOption = Annotated[
    int,
    typer.Option(
        **bounds(ranges.Steps),
        help="Stop after as many steps, resumed runs together.",
        rich_help_panel=TRAINING,
    ),
]
TrainingSeedOption = Annotated[
    int,
    typer.Option(
        **bounds(ranges.Seed), help="Seed of first weights, order and augmentation.", rich_help_panel=TRAINING
    ),
]
MixturesOption = Annotated[
    int,
    typer.Option(
        min=2, max=bounds(ranges.BatchSize)["max"], help="Mixtures a step.", rich_help_panel=TRAINING
    ),
]
LrOption = Annotated[
    float, typer.Option(**bounds(ranges.LearningRate), help="Learning rate.", rich_help_panel=TRAINING)
]
ResumeOption = Annotated[
    bool,
    typer.Option("--resume", help="Go on from the folder's last checkpoint.", rich_help_panel=TRAINING),
]
OverwriteTrainingOption = Annotated[
    bool,
    typer.Option(
        "--overwrite", help="Start afresh, replacing what was trained there.", rich_help_panel=TRAINING
    ),
]
WorkersOption = Annotated[
    int,
    typer.Option(**bounds(ranges.Workers), help="Processes that simulate mixtures.", rich_help_panel=RUNNING),
]
Bf16Option = Annotated[
    bool | None,
    typer.Option(
        "--bf16/--no-bf16",
        help="Train in a lower precision; by default where the CPU or NVIDIA GPU is faster in it.",
        rich_help_panel=RUNNING,
        show_default=False,
    ),
]
