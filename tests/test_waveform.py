"""Waveform priors: exact densities, one sampler for both domains, and stems that sum to the file at any rate."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import soundfile as sf
import torch
from conftest import shake
from tiny import Commands

from deepsep.config import (
    SpectrumConfig,
    WaveformConfig,
    WaveformEncoderConfig,
    WaveformFlowConfig,
    WaveformSgldConfig,
    from_dict,
    to_dict,
)
from deepsep.errors import DeepsepError
from deepsep.flows.networks import WaveNet
from deepsep.inference.domain import Separation, Track
from deepsep.inference.draws import Draws
from deepsep.inference.losses import bits_per_dim, gaussian_elbo, prior_loss
from deepsep.inference.mixture import mix
from deepsep.inference.model import Model
from deepsep.inference.settings import Settings
from deepsep.models import folder as folders
from deepsep.separation import separate_blocks
from deepsep.waveform.domain import WaveformDomain
from deepsep.waveform.encoder import WaveformEncoder, WaveformPosterior
from deepsep.waveform.flow import DefensivePrior, build_flow
from deepsep.waveform.infer import separate_samples
from deepsep.waveform.likelihood import SumLikelihood
from deepsep.waveform.losses import sleep_loss

SIGMA = torch.tensor([0.2, 1.1], dtype=torch.float64)
SHAPES = {
    "one block": dict(squeeze=(4,), flows=2),
    "checkerboard": dict(squeeze=(2, 2, 2), flows=3, mask="checkerboard"),
    "FloWaveNet: flips and splits": dict(squeeze=(4, 2, 2), flows=2, shuffle="flip", split=True),
    "either mask in turn, splits": dict(squeeze=(8, 1, 2), flows=4, mask="alternate", split=True),
}
WAVEFORM = WaveformConfig(rate=4000, window=128)
QUICK = WaveformSgldConfig(levels=3, steps=2, chains=2)


def flow(**settings):
    return WaveformFlowConfig(**{"hidden": 6, "layers": 2, **settings})


def small_prior(seed=0, **settings):
    rng = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)  # layers draw their weights from the global generator
    prior = build_flow(flow(**{"squeeze": (8,), "flows": 2, **settings}), rng)
    prior.whitening.fit(torch.randn(300, prior.config.squeeze[0], generator=rng))
    with torch.no_grad():
        prior.spectrum.copy_(torch.randn(293, generator=rng))
    return shake(prior, 0.05, seed)


def small_model(encoder=True, k=3, **waveform):
    priors = {f"source{i}": small_prior(i) for i in range(k)}
    net = None
    if encoder:
        torch.manual_seed(0)
        net = shake(WaveformEncoder(WaveformEncoderConfig(squeeze=8, hidden=6, layers=2, cycle=1), k), 0.2)
    return Model(WaveformDomain(waveform=replace(WAVEFORM, **waveform)), priors, net)


# --- the density ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("steps", [0, 5])
def test_ladj_is_the_jacobian_and_the_inverse_undoes_it(name, steps):
    torch.manual_seed(1)
    prior = shake(build_flow(flow(**SHAPES[name])).double(), 0.1)
    samples = 2 * prior.config.multiple
    if steps:
        learn(prior, samples, steps)
    x = torch.randn(2, 1, samples).double()
    z, ladj = prior(x, SIGMA)
    assert z.numel() == 2 * samples
    jacobian = torch.autograd.functional.jacobian(lambda x: prior(x, SIGMA)[0].flatten(1), x)
    for b in range(2):
        torch.testing.assert_close(
            torch.linalg.slogdet(jacobian[b, :, b, 0])[1], ladj[b], rtol=1e-6, atol=1e-5
        )
        assert not jacobian[b, :, 1 - b].any()
    back, ladj_back = prior.inverse(z, SIGMA)
    torch.testing.assert_close(back, x)
    torch.testing.assert_close(ladj_back, -ladj)


def learn(prior, samples, steps):
    """Some steps of the training that is used."""
    prior.requires_grad_()
    rng = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(prior.parameters(), 0.01)
    for _ in range(steps):
        tone = torch.sin(torch.arange(samples) / 3 + 6 * torch.rand(8, 1, 1, generator=rng))
        loss, _ = prior_loss(prior, tone.to(next(prior.parameters()).dtype), Draws(rng), score_weight=1.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return prior.requires_grad_(False)


@pytest.mark.parametrize("name", SHAPES)
def test_it_inverts_to_1e_4_in_float32_after_training(name):
    torch.manual_seed(2)
    prior = build_flow(flow(**SHAPES[name]))
    data = torch.sin(torch.arange(64) / 3).expand(4, 1, 64) + 0.1 * torch.randn(4, 1, 64)
    prior.initialise(data, 0.1, torch.Generator().manual_seed(0))
    learn(prior, 64, 40)
    x = torch.sin(torch.arange(64) / 3) + 0.1 * torch.randn(4, 1, 64)
    for sigma in (0.01, 0.1, 1.0):
        z, _ = prior(x, sigma)
        assert float((prior.inverse(z, sigma)[0] - x).abs().max()) < 1e-4


@pytest.mark.parametrize("sigma", [0.05, 0.5, 3.0])
def test_a_fresh_flow_is_the_gaussian_of_a_noisy_frame(sigma):
    """Nats, bits and all, against the closed form: N(mean, covariance + sigma^2 I) of each frame of 4 samples."""
    torch.manual_seed(0)
    factor = torch.randn(4, 4).double()
    data = torch.randn(5000, 4).double() @ factor.T + 0.5
    prior = build_flow(flow(squeeze=(4,), flows=2)).double()
    prior.whitening.fit(data)
    x = torch.randn(3, 1, 12).double()
    covariance = torch.cov(data.T, correction=0) + sigma**2 * torch.eye(4)
    gaussian = torch.distributions.MultivariateNormal(data.mean(0), covariance)
    expected = gaussian.log_prob(x.reshape(3, 3, 4)).sum(1)
    found = prior.log_prob(x, sigma)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    bits = bits_per_dim(found, x.shape)
    torch.testing.assert_close(bits, -expected.mean() / 12 / math.log(2))


def test_samples_follow_the_density():
    torch.manual_seed(0)
    data = torch.randn(4000, 2).double() @ torch.tensor([[1.0, 0.0], [0.8, 0.5]]).double().T
    prior = build_flow(flow(squeeze=(2, 2), flows=2, split=False)).double()
    prior.whitening.fit(data)
    x = prior.sample(20000, 4, 0.3, torch.Generator().manual_seed(1)).reshape(-1, 2)
    expected = torch.cov(data.T, correction=0) + 0.09 * torch.eye(2)
    torch.testing.assert_close(torch.cov(x.T), expected, atol=0.03, rtol=0)


def test_a_chain_that_strayed_is_led_back():
    """Far off, where the flow's density is beyond all bounds, the score is the Gaussian's; near, the flow's own."""
    prior = small_prior()
    guarded = DefensivePrior(prior)
    near, far = torch.randn(2, 1, 64), 1e4 * torch.randn(2, 1, 64)
    torch.testing.assert_close(guarded.log_prob(near, 0.5), prior.log_prob(near, 0.5), atol=0.2, rtol=0)
    with torch.no_grad():
        for net in (m for m in prior.modules() if isinstance(m, WaveNet)):
            net.last.bias += 3.0 * torch.randn(
                net.last.bias.shape, generator=torch.Generator().manual_seed(0)
            )
    far.requires_grad_()
    (score,) = torch.autograd.grad(guarded.log_prob(far, 0.5).sum(), far)
    assert score.isfinite().all()
    assert float((score * far.detach()).flatten(1).sum(1).max()) < 0  # towards where the data are


def test_settings_that_make_no_flow_are_refused():
    for wrong in (
        dict(squeeze=()), dict(squeeze=(1, 4)), dict(squeeze=(2, 1, 1), split=True), dict(mask="stripes"),
        dict(shuffle="deal"), dict(flows=0), dict(sigma_min=2.0, sigma_max=1.0),
    ):  # fmt: skip
        with pytest.raises(DeepsepError):
            WaveformFlowConfig(**wrong)
    whole = flow(**SHAPES["either mask in turn, splits"])
    assert from_dict(WaveformFlowConfig, json.loads(json.dumps(to_dict(whole)))) == whole


def test_a_flow_with_bands_of_another_spectrum_is_refused_before_it_is_built():
    domain = WaveformDomain(spectrum=SpectrumConfig(rate=16000, n_fft=256, single_bins=8))
    with pytest.raises(DeepsepError, match="the flow has 293 bands, the spectrum 32"):
        domain.build_flow(flow(squeeze=(4,), flows=1))
    assert domain.build_flow(flow(squeeze=(4,), flows=1, bands=32)).mean_spectrum.shape == (32,)


# --- one sampler for both domains ----------------------------------------------------------------------


def gaussian_model():
    """Flows that are Gaussians: fresh couplings are identities."""
    priors = {}
    for name, variance in (("a", 1.0), ("b", 0.25)):
        priors[name] = build_flow(flow(squeeze=(2,), flows=1, shuffle="flip")).requires_grad_(False)
        priors[name].whitening.variance.fill_(variance)
    return Model(WaveformDomain(waveform=WAVEFORM), priors)


@pytest.mark.parametrize("changes", [{}, {"gamma": 0.0}, {"gamma": 0.0, "denoise": False, "step_size": 0.5}])
def test_langevin_on_samples_shares_out_as_the_wiener_filter_does(changes):
    """E[a | m] = 0.8 m for variances 1 and 0.25: the mean over many chains, for each kind of constraint."""
    m = torch.tensor([2.0, -1.0]).repeat(32)[None]
    config = WaveformSgldConfig(sigma_max=3.0, sigma_min=0.03, levels=40, steps=10, **changes)
    settings = Settings(method="sgld", sgld=config, draws=60)
    stems = separate_samples(m, gaussian_model(), settings)
    assert stems.shape == (1, 60, 2, 64)
    torch.testing.assert_close(mix(stems[0]), m.expand(60, -1), atol=1e-5, rtol=0)
    torch.testing.assert_close(stems[0, :, 0].mean(0), 0.8 * m[0], atol=0.35, rtol=0)
    assert float((stems[0, :, 0].mean(0) - 0.8 * m[0]).mean().abs()) < 0.08
    assert 0.15 < float(stems[0, :, 0].std(0).mean()) < 0.65  # posterior: sqrt(0.2) = 0.45


def test_of_several_chains_the_likeliest_is_kept():
    model = small_model(encoder=False)
    m = torch.randn(2, 64, generator=torch.Generator().manual_seed(3))
    drawn = separate_samples(m, model, Settings(method="sgld", sgld=replace(QUICK, chains=1), draws=2))
    best = separate_samples(m, model, Settings(method="sgld", sgld=QUICK))
    fit = torch.stack(
        [
            sum(
                p.log_prob(drawn[:, c, i][:, None], QUICK.sigma_min)
                for i, p in enumerate(model.priors.values())
            )
            for c in range(2)
        ]
    )
    for b in range(2):
        torch.testing.assert_close(best[b, 0], drawn[b, int(fit[:, b].argmax())])


# --- the encoder ---------------------------------------------------------------------------------------


def test_the_encoders_mean_sums_to_the_mixture_and_its_stems_can_be_reordered():
    encoder = small_model().encoder
    m = torch.randn(2, 1, 64)
    q = encoder(m)
    assert q.mean.shape == q.log_std.shape == (2, 3, 1, 64)
    torch.testing.assert_close(mix(q.mean), m, atol=1e-5, rtol=0)
    encoder.reorder([2, 0, 1])
    torch.testing.assert_close(encoder(m).mean, q.mean[:, [2, 0, 1]])
    torch.testing.assert_close(encoder(m).log_std, q.log_std[:, [2, 0, 1]])


def test_the_elbo_of_gaussians_is_its_closed_form():
    """Thesis Eq. 13, with the log: E_q[log p_k(x_k + sigma eps)] + entropy + E_q[log p(m | x)], a coordinate of x."""
    sigma, std, share = 0.5, 0.3, 0.7
    variances = torch.tensor([1.0, 0.25])
    priors = [build_flow(flow(squeeze=(2,), flows=1)).requires_grad_(False) for _ in variances]
    for prior, v in zip(priors, variances, strict=True):
        prior.whitening.variance.fill_(float(v))
    rng = torch.Generator().manual_seed(0)
    m = torch.randn(1, 1, 100000, generator=rng)
    mean = torch.stack([share * m, 0.9 * (1 - share) * m], 1)
    q = WaveformPosterior(mean, torch.full_like(mean, math.log(std)))
    value, figures = gaussian_elbo(q.mean, q.log_std, priors, SumLikelihood(m), Draws(rng), sigma)
    total = variances + sigma**2
    spread = mean.square().mean((0, 2, 3)) + std**2 + sigma**2
    log_p = -0.5 * ((2 * math.pi * total).log() + spread / total).mean()
    entropy = 0.5 * math.log(2 * math.pi * math.e * std**2)
    missed = float((m - mean.sum(1)).square().mean()) + 2 * std**2
    fit = -0.5 * missed / sigma**2 / 2
    assert figures["log p"] == pytest.approx(float(log_p), abs=0.01)
    assert figures["log p(m|x)"] == pytest.approx(fit, abs=0.01)
    assert float(value) == pytest.approx(float(log_p) + entropy + fit, abs=0.02)


def test_the_sleep_loss_prefers_the_truth():
    stems = torch.randn(2, 3, 1, 64)
    encoder = small_model().encoder
    q = encoder(stems.sum(1))
    loss, figures = sleep_loss(q, stems)
    truth, best = sleep_loss(q._replace(mean=stems, log_std=q.log_std - 2), stems)
    assert float(truth) < float(loss) and best["SDR"] > 15 > figures["SDR"]


# --- files and folders ---------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    made = small_model()
    for name, prior in made.priors.items():
        folders.save_prior(tmp_path / "priors", name, prior, made.domain, {"licence": "CC0-1.0"})
    folders.save_encoder(tmp_path / "priors", made.encoder, made.sources, {})
    return tmp_path / "priors"


def test_a_folder_comes_back_as_it_was_saved(folder):
    loaded, made = folders.load(folder), small_model()
    assert loaded.domain == made.domain and loaded.sources == made.sources
    x = torch.randn(2, 1, 32)
    for name in made.sources:
        assert torch.equal(loaded.priors[name].log_prob(x, 0.1), made.priors[name].log_prob(x, 0.1))
    torch.testing.assert_close(loaded.encoder(x).mean, made.encoder(x).mean, atol=5e-3, rtol=0)
    assert loaded.domain.sgld() == WaveformSgldConfig()


def test_domains_cannot_be_mixed(folder, tmp_path):
    from tiny import DOMAIN, folder_of, tiny_prior

    with pytest.raises(DeepsepError, match="another domain"):
        folders.save_prior(folder, "more", tiny_prior(), DOMAIN, {})
    other = folder_of(tmp_path / "spectral", "source0")
    with pytest.raises(DeepsepError, match="cannot be mixed"):
        folders.load_model(str(folder), {"source0": str(other)})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "domain": "wavelet"}))
    with pytest.raises(DeepsepError, match="domain 'wavelet'"):
        folders.load(folder)


def song(samples, channels, seed=0):
    random = np.random.default_rng(seed)
    return (0.1 * random.standard_normal((channels, samples))).astype(np.float32)


def separate(x, model, settings, rate, block=700):
    blocks = (x[:, i : i + block] for i in range(0, x.shape[1], block))
    separation = Separation(Track(rate, x.shape[1], 0.1), model, settings, [[0], [1], [2]])
    return np.concatenate(list(separate_blocks(blocks, separation)), -1)[0]


METHODS = pytest.mark.parametrize(
    "settings", [Settings(method="encoder"), Settings(method="sgld", sgld=QUICK)], ids=["encoder", "sgld"]
)


@METHODS
@pytest.mark.parametrize("level", ["relative", "absolute"])
@pytest.mark.parametrize(("rate", "samples"), [(4000, 700), (4000, 37), (11025, 2000), (3000, 401)])
def test_stems_add_up_to_the_mixture_at_any_rate(settings, rate, samples, level):
    x = song(samples, 2)
    stems = separate(x, small_model(level=level), settings, rate)
    assert stems.shape == (3, *x.shape) and stems.dtype == np.float32
    np.testing.assert_allclose(stems.sum(0), x, atol=1e-5)
    assert np.square(stems[0] - stems[1]).mean() > 1e-4 * np.square(x).mean()


@METHODS
def test_neither_blocks_nor_batches_change_the_stems(settings):
    x, model = song(900, 1), small_model()
    once = separate(x, model, settings, 4000, block=10000)
    again = separate(x, model, replace(settings, batch_size=5), 4000, block=77)
    np.testing.assert_allclose(again, once, atol=2e-3 * float(np.abs(once).max()))


def test_several_draws_and_groups_each_sum_to_the_mixture():
    x, model = song(300, 1), small_model()
    settings = Settings(method="sgld", sgld=QUICK, draws=2)
    separation = Separation(Track(4000, 300, 0.1), model, settings, [[0], [1, 2]])
    out = np.concatenate(list(separate_blocks([x], separation)), -1)
    assert out.shape == (2, 2, 1, 300)
    np.testing.assert_allclose(out.sum(1), np.stack([x, x]), atol=1e-5)
    assert np.abs(out[0] - out[1]).max() > 1e-3


def test_a_stem_of_what_the_rate_cannot_hold_is_shared_alike():
    """3 kHz is above the Nyquist frequency of priors at 4 kHz."""
    t = np.arange(8000) / 16000
    x = 0.1 * np.sin(2 * np.pi * 3000 * t)[None].astype(np.float32)
    stems = separate(x, small_model(level="absolute"), Settings(method="encoder"), 16000)
    inside = slice(2000, 6000)
    np.testing.assert_allclose(stems[..., inside], np.stack([x / 3] * 3)[..., inside], atol=0.02)


# --- the program ---------------------------------------------------------------------------------------


@pytest.fixture
def command(monkeypatch, capsys):
    return Commands(monkeypatch, capsys)


@pytest.mark.slow
def test_from_recordings_to_stems(command, tmp_path):
    random = np.random.default_rng(0)
    t = np.arange(22050) / 14700
    tone = np.concatenate([np.sin(2 * np.pi * f * t[:7350]) for f in (220, 330, 440)])
    for name, sound in (("tones", tone), ("noise", random.standard_normal(22050))):
        (tmp_path / "data" / name).mkdir(parents=True)
        sf.write(tmp_path / "data" / name / "a.wav", 0.3 * sound, 14700)
    priors = tmp_path / "priors"
    tiny = ["--window", 64, "--hidden", 4, "--layers", 1, "--flow-steps", 1, "--batch", 4, "-q"]
    for name in ("tones", "noise"):
        command.good(
            "train-prior", tmp_path / "data" / name, "--source", name, "-o", priors, "--domain", "waveform",
            "--squeeze", "4,2", "--split", "--steps", 6, "--score-weight", 1, *tiny,
        )  # fmt: skip
    command.good(
        "train-prior", tmp_path / "data" / "noise", "--source", "noise", "-o", priors, "--domain", "waveform",
        "--squeeze", "4,2", "--split", "--steps", 8, "--score-weight", 1, "--resume", *tiny,
    )  # fmt: skip
    told = command.bad(
        "train-prior", tmp_path / "data" / "noise", "--source", "noise", "-o", priors, "--domain", "waveform",
        "--window", 128, "--overwrite",
    )  # fmt: skip
    assert "another domain, spectrum, rate or level" in told
    for objective in ("both", "elbo"):
        command.good(
            "train-encoder", tmp_path / "data", "--priors", priors, "--objective", objective, "--steps", 3,
            "--hidden", 4, "--layers", 2, "--batch", 4, "--overwrite", "-q",
        )  # fmt: skip
    words = ("train-encoder", tmp_path / "data", "--priors", priors, "--init", priors)
    for chosen, layers in ((), 2), (("--layers", 3), 3):
        command.good(*words, *chosen, "--steps", 1, "--batch", 2, "--overwrite", "-q")
        network = json.loads((priors / "config.json").read_text())["encoder"]["network"]
        assert (network["hidden"], network["layers"]) == (4, layers)
    told = command.bad(*words[:-1], "bundled", "--steps", 1, "--overwrite")
    assert "the encoder to start from has no layer" in told
    code, _, told = command(
        "train-encoder", tmp_path / "data", "--priors", priors, "--widths", "8,16", "--resume"
    )
    assert code == 2 and "--widths is of spectral priors" in told
    assert "domain:   waveform, 14700 Hz" in command.good("priors", "info", priors)
    mix = sf.read(tmp_path / "data" / "tones" / "a.wav")[0] + 0.1 * random.standard_normal(22050)
    sf.write(tmp_path / "mix.wav", mix, 22050, "FLOAT")
    quick = ["--levels", 2, "--steps", 1, "--chains", 1]
    for method in ("encoder", "sgld"):
        out = tmp_path / method
        command.good(
            "separate",
            tmp_path / "mix.wav",
            "--priors",
            priors,
            "-o",
            out,
            "--method",
            method,
            "-q",
            *(quick if method == "sgld" else []),
        )
        stems = [sf.read(out / "mix" / f"{name}.wav")[0] for name in ("tones", "noise")]
        np.testing.assert_allclose(np.sum(stems, 0), mix, atol=1e-5)
    command.good(
        "sample", "--source", "tones", "--priors", priors, "-o", tmp_path / "s.wav", "--seconds", 0.2
    )
    assert sf.info(tmp_path / "s.wav").samplerate == 14700
    code, _, told = command("separate", tmp_path / "mix.wav", "--priors", priors, "--uncertainty")
    assert code == 2 and "waveform priors" in told
    songs = tmp_path / "songs" / "one"
    songs.mkdir(parents=True)
    for name in ("tones", "noise"):
        (songs / f"{name}.wav").write_bytes((tmp_path / "data" / name / "a.wav").read_bytes())
    figures = json.loads(
        command.good("evaluate", tmp_path / "songs", "--priors", priors, "--json", "-q", *quick)
    )
    assert set(figures["methods"]) == {
        "mixture", "stationary", "sgld", "encoder", "encoder+sgld", "oracle", "oracle-full"
    }  # fmt: skip


def test_flows_that_cannot_be_are_usage(command, tmp_path):
    for wrong in (["--mask", "stripes"], ["--squeeze", "x"], ["--domain", "cepstral"], ["--window", "100"]):
        code, _, told = command("train-prior", tmp_path, "--source", "a", "--domain", "waveform", *wrong)
        assert code == 2 and told.count("\n") == 1


@pytest.mark.parametrize(
    "idle", [["--squeeze", "8,2"], ["--split"], ["--domain", "waveform", "--frames", "64"]], ids=" ".join
)
def test_an_option_of_the_other_domain_is_usage(command, tmp_path, idle):
    code, _, told = command("train-prior", tmp_path, "--source", "a", *idle)
    assert code == 2 and "is of" in told and told.count("\n") == 1


def test_the_spread_of_gains_is_told_apart_in_one_line():
    x = song(100, 1)
    with pytest.raises(DeepsepError, match="--samples"):
        separation = Separation(Track(4000, 100, 0.1), small_model(), Settings(), [[0]], spread=True)
        list(separate_blocks([x], separation))


def test_an_encoder_has_the_layers_that_it_was_asked_for():
    for layers in (2, 6, 7):
        net = WaveformEncoder(WaveformEncoderConfig(squeeze=8, hidden=6, layers=layers, cycle=6), 2)
        assert sum(len(cycle.dilated) for cycle in net.body) == layers


def test_an_encoders_draws_are_made_where_its_mixture_is(meta_generators):
    model = small_model().to("meta")
    found = separate_samples(torch.randn(2, 64, device="meta"), model, Settings(method="encoder", draws=2))
    assert found.device.type == "meta" and found.shape == (2, 2, 3, 64)


def test_what_an_encoder_has_found_is_not_drowned_in_noise():
    warm, cold = (WaveformSgldConfig.default(from_encoder=init) for init in (True, False))
    assert warm.sigma_max < cold.sigma_max and warm.sigma_min == cold.sigma_min
