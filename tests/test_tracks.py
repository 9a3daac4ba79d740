"""A track that fits in memory is decoded once, a longer one twice; its stems are the same."""

import numpy as np
import pytest
import soundfile

from deepsep import api
from deepsep.audio import files
from deepsep.output import paths, tracks


@pytest.mark.parametrize(("room", "decodings"), [(1 << 20, 1), (1000, 2)])
def test_a_track_is_decoded_once_where_it_fits_in_memory(model, tmp_path, monkeypatch, room, decodings):
    song = 0.1 * np.random.default_rng(0).standard_normal((5000, 2)).astype(np.float32)
    soundfile.write(tmp_path / "song.wav", song, 16000, "FLOAT")
    read, reads = files.read_part, []

    def counted(info):
        reads.append(info)
        return read(info, 1500)

    monkeypatch.setattr(files, "read_part", counted)
    monkeypatch.setattr(tracks, "KEPT_BYTES", room)
    output = paths.Output(folder=tmp_path / "out", stems=paths.output_stems(model.sources, None, None))
    (job,) = paths.plan([paths.Input(tmp_path / "song.wav", "song.wav", None)], output)
    result = tracks.run(job, model, api.settings_for(model, method="encoder", device="cpu"), output)
    assert len(reads) == decodings
    stems = sum(soundfile.read(path, dtype="float32")[0] for path in result.paths.values())
    np.testing.assert_allclose(stems, song, atol=1e-6)
