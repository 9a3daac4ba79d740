"""A priors folder comes back as it was written, and anything else is one line."""

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import DOMAIN, SOURCES, small_prior
from safetensors.torch import load_file, save_file

import deepsep
from deepsep.config import SpectralEncoderConfig, SpectrumConfig
from deepsep.errors import DeepsepError
from deepsep.models.folder import FORMAT, digest, load, load_model, save_encoder, save_prior
from deepsep.spectral.domain import SpectralDomain
from deepsep.spectral.encoder import UNet


@pytest.fixture
def folder(tmp_path, model):
    target = tmp_path / "priors"
    for name, prior in model.priors.items():
        save_prior(target, name, prior, model.domain, {"licence": f"licence of {name}"})
    save_encoder(target, model.encoder, model.sources, {"training": {"steps": 7}})
    return target


def edit(folder, change):
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def replace(folder, name, tensors):
    """Another weights file, listed as it should be."""
    save_file(tensors, folder / name)
    data = (folder / name).read_bytes()
    edit(folder, lambda c: c["files"].update({name: {"sha256": digest(data), "size": len(data)}}))


def test_a_model_comes_back_as_it_was_saved(folder, model):
    loaded = load(folder)
    assert loaded.sources == model.sources == SOURCES
    assert loaded.domain == model.domain
    x = torch.randn(2, model.priors["vocals"].config.channels, 9)
    for name in SOURCES:
        was, now = model.priors[name].log_prob(x, 0.5), loaded.priors[name].log_prob(x, 0.5)
        torch.testing.assert_close(now, was, rtol=5e-3, atol=0)  # half precision
        assert loaded.info.licences[name] == f"licence of {name}"
    assert len({round(float(p.log_prob(x, 0.5)[0])) for p in loaded.priors.values()}) == 3
    features = torch.randn(1, 4, model.encoder.config.bands, 16)
    torch.testing.assert_close(loaded.encoder(features), model.encoder(features), atol=0.02, rtol=0)
    for module in [*loaded.priors.values(), loaded.encoder]:
        assert not module.training and not any(p.requires_grad for p in module.parameters())
        assert all(v.dtype in (torch.float32, torch.int64) for v in module.state_dict().values())


def test_saving_what_was_loaded_changes_no_bit(folder, tmp_path):
    loaded = load(folder)
    for name, prior in loaded.priors.items():
        save_prior(tmp_path / "copy", name, prior, loaded.domain, {})
        file = f"{name}.safetensors"
        assert (tmp_path / "copy" / file).read_bytes() == (folder / file).read_bytes()


def test_a_source_can_be_replaced_alone_and_keeps_its_place(folder, model):
    others = {n: (folder / f"{n}.safetensors").read_bytes() for n in ("vocals", "bass")}
    save_prior(folder, "drums", small_prior(42), model.domain, {})
    assert {n: (folder / f"{n}.safetensors").read_bytes() for n in ("vocals", "bass")} == others
    assert load(folder).sources == SOURCES
    assert not list(folder.glob("*.part")) and not list(folder.glob(".*"))


def test_sources_are_picked_and_ordered(folder):
    picked = load(folder, sources=["bass", "vocals"])
    assert picked.sources == ["bass", "vocals"] and picked.encoder is None
    assert load(folder, sources=list(SOURCES)).encoder is not None
    assert load(folder, encoder=False).encoder is None
    with pytest.raises(DeepsepError, match=r"unknown source 'flute'.*vocals, drums, bass"):
        load(folder, sources=["flute"])


def test_folders_mix(folder, tmp_path, model):
    other = tmp_path / "other"
    save_prior(other, "drums", small_prior(42), DOMAIN, {})
    save_prior(other, "flute", small_prior(43), DOMAIN, {})
    mixed = load_model(str(folder), {"drums": str(other), "flute": str(other)})
    assert mixed.sources == [*SOURCES, "flute"] and mixed.encoder is None
    x = torch.randn(1, model.priors["drums"].config.channels, 5)
    theirs = load(other).priors["drums"].log_prob(x, 0.5)
    assert torch.equal(mixed.priors["drums"].log_prob(x, 0.5), theirs)
    assert mixed.info.origins["drums"].priors == str(other)
    assert load_model(str(folder)).encoder is not None

    foreign = tmp_path / "foreign"
    elsewhere = SpectralDomain(spectrum=SpectrumConfig(rate=8000, n_fft=256, single_bins=8))
    save_prior(foreign, "drums", small_prior(1), elsewhere, {})
    with pytest.raises(DeepsepError, match="cannot be mixed"):
        load_model(str(folder), {"drums": str(foreign)})
    with pytest.raises(DeepsepError, match="another domain, spectrum, rate or level"):
        save_prior(foreign, "vocals", small_prior(1), DOMAIN, {})


@pytest.mark.parametrize("name", ["", "../up", "a/b", "a.b", "encoder", "config", "-x", "x" * 65, "a b"])
def test_a_source_must_do_as_a_file_name(name, tmp_path):
    with pytest.raises(DeepsepError, match="cannot name a source"):
        save_prior(tmp_path, name, small_prior(0), DOMAIN, {})
    assert not list(tmp_path.iterdir())


def rename_source(config):
    config["sources"][0] = "../vocals"
    config["priors"]["../vocals"] = config["priors"]["vocals"]


def nest_source(config):
    config["sources"][0] = "sub/vocals"
    config["priors"]["sub/vocals"] = config["priors"]["vocals"]
    config["files"]["sub/vocals.safetensors"] = config["files"]["vocals.safetensors"]


WRONG = {
    "a newer format": (lambda c: c.update(format=FORMAT + 1), "upgrade deepsep"),
    "no format": (lambda c: c.pop("format"), "format"),
    "no sources": (lambda c: c.pop("sources"), "sources"),
    "files not a table": (lambda c: c.update(files=[]), "files"),
    "an unknown setting": (lambda c: c["priors"]["vocals"]["flow"].update(colour=3), "colour"),
    "an impossible setting": (lambda c: c["priors"]["vocals"]["flow"].update(sigma_min=-1), "noise levels"),
    "a setting of another kind": (lambda c: c["spectrum"].update(rate="fast"), "SpectrumConfig"),
    "an impossible spectrum": (lambda c: c["spectrum"].update(n_fft=13), "n_fft"),
    "a file not listed": (lambda c: c["files"].pop("drums.safetensors"), "drums.safetensors"),
    "a wrong hash": (lambda c: c["files"]["drums.safetensors"].update(sha256="0" * 64), "drums"),
    "a source outside the folder": (rename_source, "vocals"),
    "a source in a folder below": (nest_source, "cannot name a source"),
    "a source that is no name": (lambda c: c.update(sources=[3]), "3"),
    "no sources at all": (lambda c: c.update(sources=[]), "source"),
    "a prior without settings": (lambda c: c["priors"].pop("drums"), "drums"),
    "a prior without a flow": (lambda c: c["priors"]["drums"].pop("flow"), "SpectralFlowConfig"),
    "a prior that is no table": (lambda c: c["priors"].update(drums=[1]), "drums"),
    "an encoder that is no table": (lambda c: c.update(encoder=[1]), "encoder"),
    "an encoder without a network": (lambda c: c["encoder"].pop("network"), "SpectralEncoderConfig"),
    "a flow for other bands": (lambda c: c["spectrum"].update(single_bins=4), "bands"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_config_that_is_wrong_is_one_line(what, folder):
    change, told = WRONG[what]
    edit(folder, change)
    with pytest.raises(DeepsepError, match=told) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_files_that_are_missing_damaged_or_foreign_are_one_line(folder, tmp_path):
    kept = tmp_path / "kept"
    shutil.copytree(folder, kept)
    weights = load_file(folder / "vocals.safetensors")
    whole = (folder / "vocals.safetensors").read_bytes()

    def missing():
        (folder / "vocals.safetensors").unlink()

    def cut():
        (folder / "vocals.safetensors").write_bytes(whole[:-10])

    def flipped():
        (folder / "vocals.safetensors").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))

    def no_config():
        (folder / "config.json").unlink()

    def no_json():
        (folder / "config.json").write_text("{")

    def renamed_weight():
        replace(folder, "vocals.safetensors", {f"x{k}": v for k, v in weights.items()})

    def other_shape():
        replace(folder, "vocals.safetensors", {k: v[:1] for k, v in weights.items()})

    def extra_weight():
        replace(folder, "vocals.safetensors", {**weights, "more": torch.zeros(1)})

    for spoil in (missing, cut, flipped, no_config, no_json, renamed_weight, other_shape, extra_weight):
        shutil.rmtree(folder)
        shutil.copytree(kept, folder)
        load(folder)
        spoil()
        with pytest.raises(DeepsepError) as caught:
            list(load(folder).priors.values())
        assert "\n" not in str(caught.value) and str(folder) in str(caught.value), spoil.__name__


def test_an_encoder_separates_without_its_priors_in_memory(folder):
    loaded = load_model(str(folder))
    deepsep.separate(np.ones(4000, np.float32), 16000, priors=loaded, method="encoder", device="cpu")
    assert loaded.sources == SOURCES
    assert loaded.priors.loaded == {}
    assert loaded.priors["vocals"] is loaded.priors["vocals"]
    assert list(loaded.priors.loaded) == ["vocals"]


def test_loading_draws_no_weights(folder):
    state = torch.get_rng_state()
    assert len(list(load(folder).priors.values())) == 3
    assert torch.equal(torch.get_rng_state(), state)


def test_an_encoder_of_other_sources_is_left_out(folder, model):
    other = UNet(
        SpectralEncoderConfig(
            bands=model.encoder.config.bands, widths=(4,), bottleneck=2, deep=0, context=10
        ),
        2,
    )
    save_encoder(folder, other, ["vocals", "bass"], {})
    assert load(folder).encoder is None
    assert load(folder, sources=["vocals", "bass"]).encoder is not None


def test_a_model_is_copied_to_another_device_and_stays_where_it_is(model):
    elsewhere = model.to("meta")
    for module in (*elsewhere.priors.values(), elsewhere.encoder):
        assert {p.device.type for p in module.parameters()} == {"meta"}
    for module in (*model.priors.values(), model.encoder):
        assert {p.device.type for p in module.parameters()} == {"cpu"}
    assert model.to("cpu") is model and elsewhere.domain is model.domain


@pytest.mark.parametrize("value", [True, float("nan"), 0, 1e9, "1", None])
def test_a_spread_that_is_no_number_for_each_source_is_refused(value, folder):
    def change(config):
        config["encoder"]["spread"] = dict.fromkeys(config["encoder"]["sources"], 1.5)

    edit(folder, change)
    assert load(folder).encoder.spread == [1.5] * len(SOURCES)
    edit(folder, lambda config: config["encoder"]["spread"].update({SOURCES[1]: value}))
    with pytest.raises(DeepsepError, match="spread must have a number"):
        load(folder)
