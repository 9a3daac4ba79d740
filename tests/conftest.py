"""What the tests share: one thread, reproducible examples, and a small model whose every weight matters."""

import os
import pathlib
import subprocess
import sys

import hypothesis
import processes
import pytest
import torch
from chromium import chromium
from cli_fixtures import FOUR
from tiny import Commands, folder_of

from deepsep.config import SpectralEncoderConfig, SpectralFlowConfig, SpectrumConfig
from deepsep.inference.model import Model
from deepsep.spectral.domain import SpectralDomain

torch.set_num_threads(1)
if sys.version_info < (3, 11):
    # look os.mkdir up at each call, as later versions do, so that tests can have it fail
    pathlib._NormalAccessor.mkdir = staticmethod(lambda path, mode=0o777: os.mkdir(path, mode))  # type: ignore[attr-defined]
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the programs that tests start
processes.take_signals()
subprocess.Popen = processes.Child  # type: ignore[misc]


def pytest_collection_modifyitems(items):
    """Tests that drive a browser are slow."""
    for item in items:
        if "browser" in item.fixturenames:
            item.add_marker("slow")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A browser of a file's tests."""
    yield from chromium(tmp_path_factory.mktemp("profile"))


hypothesis.settings.register_profile("deepsep", deadline=None, max_examples=30, derandomize=True)
hypothesis.settings.register_profile("long", deadline=None, max_examples=3000, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "deepsep"))

SOURCES = ["vocals", "drums", "bass"]
SMALL = SpectrumConfig(rate=16000, n_fft=256, single_bins=8)
DOMAIN = SpectralDomain(spectrum=SMALL)


@torch.no_grad()
def shake(module, size=0.1, seed=0):
    """Moves every weight and statistic at random, so that no layer is the identity it starts as."""
    rng = torch.Generator().manual_seed(seed)
    for tensor in module.parameters():
        tensor += size * torch.randn(tensor.shape, generator=rng, dtype=tensor.dtype)
    for name, tensor in module.named_buffers():
        if name.endswith("running_mean"):
            tensor += size * torch.randn(tensor.shape, generator=rng)
        if name.endswith("running_var"):
            tensor *= 1 + size * torch.rand(tensor.shape, generator=rng)
    return module.eval().requires_grad_(False)


def small_prior(seed):
    """A flow over the small spectrum's bands: its own mean and covariance, couplings moved."""
    rng = torch.Generator().manual_seed(seed)
    bands = SMALL.bands
    prior = DOMAIN.build_flow(SpectralFlowConfig(channels=bands, steps=4, hidden=8, layers=2), rng)
    data = torch.randn(200, bands, generator=rng) @ torch.randn(bands, bands, generator=rng) / bands**0.5
    prior.whitening.fit(data + torch.randn(bands, generator=rng))
    return shake(prior, 0.02, seed)


@pytest.fixture(autouse=True)
def seeded():
    """Tests that draw without a generator of their own draw the same each time."""
    torch.manual_seed(0)


modules_children_end = pytest.fixture(autouse=True, scope="module")(processes.children_end)
children_end = pytest.fixture(autouse=True)(processes.children_end)


@pytest.fixture(scope="session")
def model():
    """Three priors and an encoder with random weights; not to be changed."""
    torch.manual_seed(0)
    bands = SMALL.bands
    shape = SpectralEncoderConfig(bands=bands, widths=(4, 8), bottleneck=4, deep=0, context=32)
    encoder = DOMAIN.build_encoder(shape, len(SOURCES))
    priors = {name: small_prior(seed) for seed, name in enumerate(SOURCES)}
    return Model(DOMAIN, priors, shake(encoder, 0.2))


@pytest.fixture(scope="session")
def priors(tmp_path_factory):
    """A folder of four tiny priors and their encoder; not to be changed."""
    return folder_of(tmp_path_factory.mktemp("priors"), *FOUR, encoder=True)


@pytest.fixture
def meta_generators(monkeypatch):
    """Generators of the meta device, which has none: the CPU's, whose values nobody asks for."""
    generator = torch.Generator()
    make = staticmethod(lambda cls, device="cpu": generator)
    monkeypatch.setattr(torch, "Generator", type("Generator", (), {"__new__": make}))
    return generator


@pytest.fixture
def deepsep(monkeypatch, capsys, tmp_path):
    """The program in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return Commands(monkeypatch, capsys)
