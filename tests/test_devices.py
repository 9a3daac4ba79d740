"""Training and separation on a device of their own, in a lower precision, in little memory, in several processes.

PyTorch's meta device has shapes and no values: whatever is left on the CPU is an error there, as on a GPU.
"""

import itertools
import math
import os
import re
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from cli_fixtures import noise, record
from conftest import DOMAIN, SMALL, SOURCES
from processes import PATIENCE

from deepsep import load_priors, separate
from deepsep.config import (
    SpectralEncoderConfig,
    SpectralFlowConfig,
    SpectralSgldConfig,
    TrainConfig,
    WaveformConfig,
    WaveformEncoderConfig,
    WaveformFlowConfig,
    WaveformSgldConfig,
)
from deepsep.errors import DeepsepError
from deepsep.inference.chunks import Window
from deepsep.inference.compute import Compute
from deepsep.inference.domain import Separation, Task, Track
from deepsep.inference.draws import Draws
from deepsep.inference.losses import prior_loss
from deepsep.inference.model import Model
from deepsep.inference.settings import Settings
from deepsep.progress import Listener
from deepsep.spectral.encoder import mixture_features
from deepsep.spectral.infer import stationary_gains
from deepsep.spectral.losses import contrast_loss, elbo, sleep_loss
from deepsep.spectral.mixtures import Mixtures
from deepsep.spectral.spectrum import Spectrum
from deepsep.training import devices
from deepsep.training.loop import Run, train
from deepsep.training.runs import fresh_weights
from deepsep.waveform import losses as waveform_losses
from deepsep.waveform.domain import WaveformDomain

GPU = torch.device("meta")
FRAMES = 16
WAVEFORM = WaveformDomain(waveform=WaveformConfig(window=64))


@pytest.fixture
def pretend(meta_generators):
    """Models on a device without values, and random numbers."""
    return Pretended(spectral_model().to("meta"), waveform_model().to("meta"), Draws(meta_generators))


class Pretended(NamedTuple):
    """Models on the GPU, and random numbers."""

    spectral: Model
    waveform: Model
    draws: Draws


def spectral_model():
    shape = SpectralFlowConfig(channels=SMALL.bands, steps=2, hidden=4, layers=1)
    net = SpectralEncoderConfig(bands=SMALL.bands, widths=(4,), bottleneck=2, deep=1)
    priors = {name: DOMAIN.build_flow(shape) for name in SOURCES}
    return Model(DOMAIN, priors, DOMAIN.build_encoder(net, len(SOURCES)))


def waveform_model():
    flow = WaveformFlowConfig(flows=1, hidden=4, layers=1)
    encoder = WAVEFORM.build_encoder(WaveformEncoderConfig(hidden=4, layers=2), 2)
    return Model(WAVEFORM, {name: WAVEFORM.build_flow(flow) for name in "ab"}, encoder)


def some_mixtures(b=2):
    k, d, n = len(SOURCES), SMALL.bands, FRAMES
    return Mixtures(
        torch.rand(b, 4, d, n), torch.rand(b, d, n), torch.rand(b, k, d, n), torch.rand(b, k, d, n),
        torch.eye(k).expand(b, -1, -1),
    ).to(GPU)  # fmt: skip


def differentiate(value, *modules):
    """The gradients of a loss; all of it lies on the GPU."""
    assert value.device == GPU
    value.backward()
    gradients = [p.grad for module in modules for p in module.parameters() if p.grad is not None]
    assert gradients and all(g.device == GPU for g in gradients)


def test_a_tensor_that_is_left_on_the_cpu_is_an_error_here(pretend):
    with pytest.raises(RuntimeError, match="device"):
        torch.ones(2, device=GPU) + torch.ones(2)


@pytest.mark.parametrize("score_weight", [0.0, 1.0])
def test_a_prior_trains_on_a_gpu(pretend, score_weight):
    flow = pretend.spectral.priors["drums"]
    x = torch.randn(3, SMALL.bands, FRAMES, device=GPU)
    value, figures = prior_loss(flow, x, pretend.draws, score_weight, DOMAIN.score_scale)
    differentiate(value, flow)
    assert all(figure.device == GPU for figure in figures.values())


def test_an_encoder_trains_on_a_gpu(pretend):
    model, m, spectrum = pretend.spectral, some_mixtures(), Spectrum(SMALL, device="meta")
    value, _ = sleep_loss(model.encoder(mixture_features(m.mix_bcdn, spectrum)), m, spectrum)
    bound, _ = elbo(model.encoder, list(model.priors.values()), m.mix_bcdn, spectrum, pretend.draws)
    differentiate(value - bound, model.encoder)


def test_priors_are_contrasted_on_a_gpu(pretend):
    m, spectrum = some_mixtures(), Spectrum(SMALL, device="meta")
    priors = list(pretend.spectral.priors.values())
    start = stationary_gains(priors, spectrum)[..., 0]
    value, _ = contrast_loss(priors, m, start, spectrum, pretend.draws, likelihood_weight=0)
    differentiate(value, *priors)


def test_priors_and_encoders_of_samples_train_on_a_gpu(pretend):
    model = pretend.waveform
    flow, encoder = model.priors["a"], model.encoder
    value, _ = prior_loss(flow, torch.randn(2, 1, 64, device=GPU), pretend.draws, 0.0, WAVEFORM.score_scale)
    differentiate(value, flow)
    stems = torch.randn(2, 2, 1, 64, device=GPU)
    posterior = encoder(stems.sum(1))
    value, _ = waveform_losses.sleep_loss(posterior, stems)
    bound, _ = waveform_losses.elbo(posterior, list(model.priors.values()), stems.sum(1), pretend.draws)
    differentiate(value - bound, encoder)


def separation_of(model, **settings):
    groups = [[k] for k in range(len(model.sources))]
    return Separation(Track(16000, 4000, 0.1), model, Settings(device="meta", **settings), groups)


@pytest.mark.parametrize("method", ["encoder", "sgld"])
@pytest.mark.parametrize("draws", [1, 3])
def test_a_window_is_separated_on_a_gpu(pretend, method, draws):
    sgld = SpectralSgldConfig(levels=2, steps=1)
    separation = separation_of(pretend.spectral, method=method, sgld=sgld, draws=draws)
    bins = Spectrum(SMALL, 16000).n_fft // 2 + 1
    frames = torch.randn(2, bins, FRAMES, dtype=torch.complex64, device=GPU)
    with torch.no_grad():
        ((gains, *_),) = DOMAIN.infer([Window(frames, 0, FRAMES, FRAMES)], separation)
    assert gains.device == GPU and gains.shape[:2] == (draws, len(SOURCES))


def test_samples_are_separated_on_a_gpu(pretend):
    sgld = WaveformSgldConfig(levels=2, steps=1, chains=1)
    separation = separation_of(pretend.waveform, method="sgld", sgld=sgld)
    with torch.no_grad():
        ((stems, *_),) = WAVEFORM.infer([Window(torch.randn(1, 64, device=GPU), 0, 64, 64)], separation)
    assert stems.device == GPU


# -- precision and memory ------------------------------------------------------------------------------------


@pytest.mark.parametrize("pays", [True, False])
def test_bfloat16_is_left_out_where_it_is_slower(monkeypatch, pays):
    monkeypatch.setattr(devices, "bfloat16_pays", lambda: pays)
    said = []
    with devices.computing(TrainConfig(bf16=True, device="cpu"), Listener(note=said.append)) as compute:
        assert compute == Compute(torch.device("cpu"), torch.bfloat16 if pays else None)
    assert len(said) == (0 if pays else 1) and all("slower on this CPU" in line for line in said)


@pytest.mark.parametrize("pays", [True, False])
def test_bfloat16_is_taken_unasked_where_it_is_faster(monkeypatch, pays):
    monkeypatch.setattr(devices, "bfloat16_pays", lambda: pays)
    said = []
    for asked, taken in ((None, pays), (False, False)):
        training = TrainConfig(bf16=asked, device="cpu")
        with devices.computing(training, Listener(note=said.append)) as compute:
            assert compute.dtype == (torch.bfloat16 if taken else None)
    assert said == []


def test_scaled_gradients_of_float16_move_the_weights_as_unscaled_ones_do(tmp_path):
    """And a step whose gradients overflow is left out."""

    def loss(model, x, draws):
        value = (model(x) - x.sum(1, keepdim=True)).square().mean()
        return value * (math.inf if step.pop() else 1), {}

    found = []
    for dtype, overflows in ((None, []), (torch.float16, []), (torch.float16, [2])):
        step = [i in overflows for i in reversed(range(6 + len(overflows)))]
        config = TrainConfig(steps=len(step), device="cpu", warmup=1, lr=0.01)
        run = replace(run_in(tmp_path / str(len(found)), []), compute=Compute(torch.device("cpu"), dtype))
        batches = (torch.ones(8, 3) for _ in itertools.count())
        train(model := line(), Task(batches, loss, lambda average: {}), config, run)
        found.append(model.weight.detach())
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=1e-6)
    assert found[2].isfinite().all() and (found[2] - found[0]).abs().max() < 0.03


def test_a_device_that_is_not_there_is_one_line():
    with (
        pytest.raises(DeepsepError, match="unknown device 'tpu'"),
        devices.computing(TrainConfig(device="tpu"), Listener()),
    ):
        pass


def test_processes_that_would_share_apples_gpu_are_one_line(monkeypatch):
    monkeypatch.setattr(devices, "pick_device", lambda name: "mps")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with (
        pytest.raises(DeepsepError, match="add --device cpu"),
        devices.computing(TrainConfig(), Listener()),
    ):
        pass


def numbered_batches(part=0, parts=1, shape=(8, 3)):
    """Endless batches, of each this process's part."""
    for i in itertools.count():
        yield torch.randn(shape, generator=torch.Generator().manual_seed(i)).chunk(parts)[part]


def run_in(folder, said):
    return Run(
        checkpoint=folder / "work" / "run.safetensors", identity={"kind": "test"},
        rng=torch.Generator().manual_seed(1), on_note=said.append,
    )  # fmt: skip


def line():
    torch.manual_seed(0)
    return torch.nn.Linear(3, 1)


class TooLarge:
    """A loss on a device that holds so many rows."""

    def __init__(self, rows):
        self.rows = rows

    def __call__(self, model, x, draws):
        if len(x) > self.rows:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return ((model(x) - x.sum(1, keepdim=True)).square().mean()), {}


def test_a_batch_that_does_not_fit_into_memory_is_taken_in_parts(tmp_path):
    config, found = TrainConfig(steps=5, device="cpu"), []
    for rows in (8, 2):
        said = []
        task = Task(numbered_batches(), TooLarge(rows), lambda average: {})
        model = line()
        train(model, task, config, run_in(tmp_path / str(rows), said))
        found.append(model.weight.detach())
        assert said == [] if rows == 8 else "taken in 4 parts" in said[-1]
    torch.testing.assert_close(*found)
    task = Task(numbered_batches(), TooLarge(0), lambda average: {})
    with pytest.raises(DeepsepError, match="use a smaller --batch"):
        train(line(), task, config, run_in(tmp_path / "none", []))


# -- several processes ---------------------------------------------------------------------------------------

WORKER = """
import sys, torch
sys.path.insert(0, {tests!r})
from test_devices import FRAMES, SMALL, density, flow, numbered_batches, run_in
from deepsep.config import TrainConfig
from deepsep.inference.domain import Task
from deepsep.progress import Listener
from deepsep.training import devices
from deepsep.training.loop import train
from dataclasses import replace
from pathlib import Path
config = TrainConfig(steps=20, device="cpu", seed=1, lr=0.01, warmup=1, bf16=False)
with devices.computing(config, Listener()) as compute:
    batches = numbered_batches(compute.part, compute.parts, (8, SMALL.bands, FRAMES))
    run = replace(run_in(Path({folder!r}), []), compute=compute)
    _, result = train(model := flow(), Task(batches, density, lambda average: {{}}), config, run)
    bits = torch.tensor(result.status.figures["bits/dim"])
    torch.save([bits, *model.parameters()], Path({folder!r}) / f"{{compute.parts}}-{{compute.part}}.pt")
"""


def flow():
    """A small prior at its first weights."""
    shape = SpectralFlowConfig(channels=SMALL.bands, steps=2, hidden=4, layers=1)
    with fresh_weights(0):
        return DOMAIN.build_flow(shape, torch.Generator().manual_seed(0))


def density(model, x, draws):
    return prior_loss(model, x, draws, 0.0, DOMAIN.score_scale)


def torchrun(processes, *words, alone=True, **options):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", processes]
    command += [*(["--standalone"] if alone else []), *words]
    return subprocess.Popen([*map(str, command)], **options)


@pytest.mark.slow
def test_two_processes_train_as_one_with_the_whole_batch(tmp_path):
    """Twenty steps of a prior with half a batch each: the same noise, the same loss, the same weights."""
    script = tmp_path / "worker.py"
    script.write_text(WORKER.format(tests=str(Path(__file__).parent), folder=str(tmp_path)))
    assert torchrun(2, script).wait(PATIENCE) == 0
    assert subprocess.run([sys.executable, str(script)], timeout=PATIENCE).returncode == 0
    whole, *parts = (torch.load(tmp_path / f"{name}.pt") for name in ("1-0", "2-0", "2-1"))
    torch.testing.assert_close((parts[0][0] + parts[1][0]) / 2, whole[0], rtol=0, atol=1e-4)
    for part in parts:
        torch.testing.assert_close(part[1:], whole[1:], rtol=0, atol=1e-4)
    assert (
        max((w - first).abs().max() for w, first in zip(whole[1:], flow().parameters(), strict=True)) > 0.01
    )


PRIOR = """
import os, signal, threading, time
from pathlib import Path
import deepsep
from deepsep.training import loop

folder = Path({folder!r})
checkpoint = folder / "priors" / "training" / "hiss.safetensors"
died = folder / "died"

def die_after_a_checkpoint():
    while not checkpoint.exists():
        time.sleep(0.01)
    died.touch()
    os.kill(os.getpid(), signal.SIGKILL)

def move(batch, device, move=loop.move):
    examples.append(float(batch.sum()))
    return move(batch, device)

if os.environ.get("RANK") == "1" and not died.exists():
    threading.Thread(target=die_after_a_checkpoint, daemon=True).start()
loop.move, examples, told = move, [], []
deepsep.train_prior(
    "hiss", folder / "data", folder / "priors",
    flow=deepsep.SpectralFlowConfig(steps=1, hidden=4, layers=1),
    training=deepsep.PriorTraining(steps=60, batch=2, frames=16, save_minutes=0.002, device="cpu"),
    listener=deepsep.Listener(step=lambda status: told.append(status.step)), start={start!r},
)
with open(folder / "told.txt", "a") as file:
    file.write(f"{{os.environ.get('RANK')}} {{told[:1]}} {{told[-1:]}} {{examples[0]}}\\n")
"""


def hiss(folder, start="new"):
    """A script that trains a prior, and one of whose processes dies once there is a checkpoint."""
    for seed in range(3):
        record(folder / "data" / f"{seed}.wav", noise(4, seed=seed))
    script = folder / f"{start}.py"
    script.write_text(PRIOR.format(folder=str(folder), start=start))
    return script


def told(folder):
    """What the processes wrote that came to the end: first and last step, sum of the first examples."""
    lines = sorted((folder / "told.txt").read_text().splitlines())
    return [re.fullmatch(r"(\w+) \[(\d*)\] \[(\d*)\] (.+)", line).groups() for line in lines]


@pytest.mark.slow
def test_a_killed_process_costs_no_more_than_the_steps_since_the_last_checkpoint(tmp_path):
    """torchrun starts all of them again with the same command, and they go on, each with examples of its own."""
    assert torchrun(2, "--max-restarts", 2, hiss(tmp_path)).wait(PATIENCE) == 0
    (_, first, last, examples), other = told(tmp_path)
    assert int(first) > 1 and last == "60", "it went on from a checkpoint"
    assert other[:3] == ("1", "", ""), "one process talks"
    assert other[3] != examples
    assert load_priors(tmp_path / "priors").sources == ["hiss"]


@pytest.mark.slow
def test_a_process_that_is_killed_before_the_first_checkpoint_brings_no_former_training_back(tmp_path):
    script = hiss(tmp_path, "overwrite")
    assert subprocess.run([sys.executable, str(script)], timeout=PATIENCE).returncode == 0
    (tmp_path / "told.txt").unlink()
    assert torchrun(2, "--max-restarts", 2, script).wait(PATIENCE) == 0
    assert (tmp_path / "died").exists()
    assert told(tmp_path)[0][:3] == ("0", "1", "60")


@pytest.mark.slow
def test_a_process_killed_on_one_of_two_machines_is_started_again_on_both(tmp_path):
    """Two agents of torchrun stand for two machines."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    words = (
        "--nnodes", 2, "--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--max-restarts", 2,
    )  # fmt: skip
    script = hiss(tmp_path)
    environment = {**os.environ, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    agents = [torchrun(1, *words, script, alone=False, env=environment) for _ in range(2)]
    assert [agent.wait(PATIENCE) for agent in agents] == [0, 0]
    (_, first, last, _), _ = told(tmp_path)
    assert (tmp_path / "died").exists() and int(first) > 1 and last == "60"


@pytest.mark.slow
def test_training_commands_of_two_processes_talk_once(tmp_path):
    """Two priors, the priors against each other, and an encoder."""
    for seed, name in enumerate(("hiss", "wind")):
        record(tmp_path / "data" / name / "a.wav", noise(6, seed=seed))
    priors, about = tmp_path / "priors", ("--frames", 16, "--batch", 4, "--steps", 3, "--device", "cpu")
    shape = ("--flow-steps", 1, "--hidden", 4, "--layers", 1)
    commands = [
        ("train-prior", "--source", name, tmp_path / "data" / name, "-o", priors, *shape)
        for name in ("hiss", "wind")
    ]
    commands.append(("contrast-priors", "--priors", priors, tmp_path / "data", "-o", tmp_path / "again"))
    commands.append(("train-encoder", "--priors", priors, tmp_path / "data", "--widths", "4"))
    for words in commands:
        run = torchrun(2, "-m", "deepsep", *words, *about, stderr=subprocess.PIPE, text=True)
        said = run.communicate(timeout=PATIENCE)[1]
        assert run.returncode == 0 and said.count("3 steps; held out") == 1, said
    song = np.random.default_rng(0).standard_normal((2, 44100)).astype(np.float32)
    assert set(separate(song, 44100, priors=priors, method="encoder")) == {"hiss", "wind"}
