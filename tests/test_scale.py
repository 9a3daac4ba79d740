"""docs/scale.md says what its simulation prints."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "scale.md"
SPEC = importlib.util.spec_from_file_location(
    "simulate_scale", PAGE.parents[1] / "scripts" / "simulate_scale.py"
)
assert SPEC is not None and SPEC.loader is not None
simulate_scale = importlib.util.module_from_spec(SPEC)
sys.modules["simulate_scale"] = simulate_scale
SPEC.loader.exec_module(simulate_scale)


def test_the_pages_table_is_what_the_simulation_prints():
    assert simulate_scale.table() in PAGE.read_text(encoding="utf-8"), "run python scripts/simulate_scale.py"


def test_the_simulation_takes_the_figures_that_the_page_says_were_measured():
    text = PAGE.read_text(encoding="utf-8")
    song, start = map(float, re.findall(r"encoder: ([\d.]+) s of CPU time, and ([\d.]+) s for", text)[0])
    find, plan, size = map(
        float, re.findall(r"([\d.]+) ms to find, ([\d.]+) ms to plan, ([\d.]+) kB", text)[0]
    )
    ray, hand_out = map(float, re.findall(r"Ray: ([\d.]+) s until two workers run, ([\d.]+) ms", text)[0])
    flac = float(re.findall(r"flac, 16 bit: ([\d.]+) MB", text)[0])
    measured = (song, start, find, plan, size, ray, hand_out, flac)
    s = simulate_scale
    used = (
        s.SONG,
        s.START,
        s.FIND * 1e3,
        s.PLAN * 1e3,
        s.JOB / 1e3,
        s.RAY_START,
        s.HAND_OUT * 1e3,
        s.FLAC / 1e6,
    )
    assert used == pytest.approx(measured)


@pytest.mark.parametrize("setup", simulate_scale.SETUPS)
def test_no_run_is_faster_than_its_work_and_failures_cost(setup, monkeypatch):
    songs = 20_000
    least = songs * simulate_scale.SONG / setup.workers
    played = simulate_scale.play(setup, songs)
    assert played.work == pytest.approx(songs * simulate_scale.SONG, rel=0.02)
    assert least < played.ends < 2 * least + 60
    monkeypatch.setattr(simulate_scale, "LIFE", 3600.0)
    frail = simulate_scale.play(setup, songs)
    assert frail.deaths > 10 and frail.ends > played.ends
