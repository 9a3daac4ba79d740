"""Prints the figures of docs/benchmarks.md and docs/scale.md: speed, training, memory, batches, libraries, Hub.

Usage: python scripts/benchmark.py [PART...] [--seconds 1,60,240] [--against FOLDER] [--runs 3]
       [--long-minutes 60] [--clips 100] [--clip-seconds 10] [--methods encoder,sgld]

Runs the installed `deepsep` as a user does, on music-like noise made here, and takes time and peak memory from the
operating system. Run it on an otherwise idle machine; where there is none, `--against` another checkout of this
repository runs the parts "speed" and "training" with both in turn and prints ratios, which other programs change less.
The part "report" needs Chromium and selenium, the part "hub" runs a small server of its own; neither needs a network.
"""

from __future__ import annotations

import argparse
import http.server
import importlib
import importlib.util
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import soundfile

import deepsep
from deepsep.config import WINDOWS

RATE = 44100
BUNDLED = Path(deepsep.__file__).parent / "bundled"
KEEP_LARGE_BLOCKS = ":".join(
    f"glibc.malloc.{name}" for name in ("hugetlb=1", "mmap_threshold=4000000000", "trim_threshold=8000000000")
)


def song(path: Path, seconds: float) -> Path:
    """Stereo test signal written in pieces: chords, a beat and noise; FLAC, 16 bit."""
    random = np.random.default_rng(0)
    with soundfile.SoundFile(path, "w", RATE, 2, "PCM_16", format="FLAC") as file:
        for at in range(int(seconds)):
            t = at + np.arange(RATE) / RATE
            notes: list[Any] = [55, 220, 277.2, 329.6, 880 * (1 + 0.004 * np.sin(2 * np.pi * 5 * t))]
            tones: Any = sum(np.sin(2 * np.pi * f * t) for f in notes) / 12
            beat = np.exp(-12 * (t * 2 % 1)) * random.standard_normal(RATE) / 4
            file.write(np.stack([tones + beat, tones - beat * 0.5], 1))
    return path


class Cost(NamedTuple):
    """Of one `deepsep` process: wall time and CPU time in seconds, peak memory in MB."""

    wall: float
    cpu: float
    peak: float


def run(*arguments: str, **environment: str) -> Cost:
    """What one `deepsep` process takes, its modules compiled before, as pip leaves them."""
    command = [sys.executable, "-m", "deepsep", *arguments]
    surroundings = {**os.environ, **environment}
    surroundings.pop("PYTHONDONTWRITEBYTECODE", None)
    began = time.monotonic()
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=surroundings,
        cwd=tempfile.gettempdir(),  # Python would find the package in a checkout before that of PYTHONPATH
    )  # fmt: skip
    assert process.stderr is not None
    told = process.stderr.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed: {told}")
    return Cost(time.monotonic() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def stems(folder: Path) -> np.ndarray:
    """The stems below a folder, by name."""
    return np.stack([soundfile.read(p, dtype="float32")[0] for p in sorted(folder.rglob("*.wav"))])


def start_up(folder: Path, args: argparse.Namespace) -> None:
    """How soon the program and the package are there, and how much of that is PyTorch."""
    print(f"deepsep --help: {min(run('--help').wall for _ in range(5)):.2f} s")
    for package in ("deepsep", "torch"):
        code = f"import time; t = time.perf_counter(); import {package}; print(time.perf_counter() - t)"
        times = [float(subprocess.check_output([sys.executable, "-c", code])) for _ in range(5)]
        print(f"import {package}: {min(times):.3f} s")


def speed(folder: Path, args: argparse.Namespace) -> None:
    """Stereo of some lengths, each as a process of its own; against another checkout in turn, the median ratio."""
    for seconds in map(int, args.seconds.split(",")):
        path = str(song(folder / f"{seconds}.flac", seconds))
        for method in args.methods.split(","):
            words = ["separate", path, "-o", str(folder / method), "--method", method, "--overwrite"]
            pairs = []
            for _ in range(args.runs):
                own = run(*words)
                pairs.append((own, run(*words, PYTHONPATH=args.against) if args.against else own))
            took, cpu, peak = (statistics.median(own[i] for own, _ in pairs) for i in range(3))
            print(
                f"{seconds} s of 44.1 kHz stereo, {method}: {took:.1f} s, {seconds / took:.1f} times real time, "
                f"{cpu:.1f} s of CPU time, peak memory {peak:.0f} MB"
            )
            if args.against:
                ratios = [statistics.median(own[i] / other[i] for own, other in pairs) for i in range(3)]
                print(
                    "    of the other's: {:.2f} of the time, {:.2f} of CPU time, {:.2f} of memory".format(
                        *ratios
                    )
                )


def training(folder: Path, args: argparse.Namespace) -> None:
    """Steps a second of an encoder's training, without start-up: a long run's time less a short one's.

    In float32 by AdamW, as the other checkout trained unasked, and as this one trains unasked: in bfloat16 where the
    processor has it, by Muon. Then with large blocks of memory kept, as in docs/training.md. The other as it trains
    unasked, and told to train in bfloat16.
    """
    data = []
    for number, source in enumerate(["vocals", "drums", "bass", "other"]):
        noise = np.random.default_rng(number).normal(size=(60 * RATE, 2)) * 0.1
        (folder / source).mkdir()
        soundfile.write(folder / source / "a.wav", np.cumsum(noise, 0) / 30 if number % 2 else noise, RATE)
        data.append(f"{source}={folder / source}")
    words = ["--objective", "simulated", "--batch", "8", "--frames", "128", "--threads", "1", "--seed", "0"]
    few, many = 2, 2 + args.steps

    def seconds(*more: str, **environment: str) -> float:
        """What `many - few` steps take, and beforehand the reading of recordings."""
        took = {}
        for steps in (few, few, many):
            priors = folder / "priors"
            if not priors.exists():
                shutil.copytree(BUNDLED, priors)
                (priors / "encoder.safetensors").unlink()
            fresh = ["--steps", str(steps), "--overwrite"]
            took[steps] = run(
                "train-encoder", *data, "--priors", str(priors), *words, *fresh, *more, **environment
            ).wall
        return took[many] - took[few]

    adamw = ["--optimizer", "adamw"]
    kinds: dict[str, tuple[list[str], dict[str, str]]] = {
        "float32, AdamW": ([*adamw, "--no-bf16"], {}),
        "bfloat16 where it pays, AdamW": (adamw, {}),
        "unasked": ([], {}),
        "unasked, large blocks kept": ([], {"GLIBC_TUNABLES": KEEP_LARGE_BLOCKS}),
    }
    rounds = []
    for _ in range(args.runs):
        took = {name: seconds(*more, **environment) for name, (more, environment) in kinds.items()}
        others = (
            [seconds(*more, PYTHONPATH=args.against) for more in ([], ["--bf16"])] if args.against else []
        )
        rounds.append((took, others))
    for name in kinds:
        own = statistics.median(took[name] for took, _ in rounds)
        print(f"training an encoder, {name}, --batch 8 --frames 128: {args.steps / own:.2f} steps a second")
        if args.against:
            ratios = [statistics.median(others[i] / took[name] for took, others in rounds) for i in (0, 1)]
            print("    {:.2f} times the other's, {:.2f} times the other's with --bf16".format(*ratios))


def floor(folder: Path, args: argparse.Namespace) -> None:
    """What SGLD takes against its floor: a log-density of every prior, and its gradient, at each step."""
    import torch

    from deepsep import api, separation
    from deepsep.inference.chunks import batched, windows
    from deepsep.inference.domain import Separation
    from deepsep.inference.posterior import gradient
    from deepsep.spectral.domain import SpectralDomain
    from deepsep.spectral.infer import Inference

    mix_ct = soundfile.read(song(folder / "floor.flac", 40), dtype="float32")[0].T.copy()
    model = api.load_priors(device="cpu")
    settings = api.settings_for(model, method="sgld", device="cpu")
    groups = [[k] for k in range(len(model.sources))]
    task = Separation(separation.measure([mix_ct], RATE), model, settings, groups)
    core, context, *_ = model.domain.layout(task)
    batch = next(batched(windows(model.domain.analyse([mix_ct], task), core, context), WINDOWS))
    cut = Inference.of(batch, task, cast(SpectralDomain, model.domain).spectrum_of(task), context).unwanted
    x = torch.randn(len(batch), model.domain.spectrum.bands, batch[0].frames_cfn.shape[-1] - 2 * cut)
    sigma = settings.sgld.sigma_max
    steps = settings.sgld.chains * settings.sgld.levels * settings.sgld.steps
    shares = []
    for _ in range(args.runs):
        began = time.process_time()
        model.domain.infer(batch, task)
        between = time.process_time()
        for _ in range(steps):
            for flow in model.priors.values():
                gradient(partial(flow.log_prob, sigma=sigma), x)
        shares.append((between - began) / (time.process_time() - between))
    print(
        f"SGLD, {len(batch)} windows, {steps} steps: {statistics.median(shares):.2f} times the CPU time of "
        "a log-density and its gradient a step"
    )


def repeat(folder: Path, args: argparse.Namespace) -> None:
    """What the same command gives again."""
    short = str(song(folder / "short.flac", 20))
    for method in args.methods.split(","):
        outputs = []
        for name, options in (("a", []), ("b", []), ("c", ["--batch-size", "2"])):
            out = folder / f"{method}-{name}"
            run("separate", short, "-o", str(out), "--method", method, "--seed", "3", *options)
            outputs.append(stems(out))
        print(
            f"{method}: same seed twice differs by {np.abs(outputs[0] - outputs[1]).max():.1e}, "
            f"batch size 1 against 2 by {np.abs(outputs[0] - outputs[2]).max():.1e}"
        )


def batch(folder: Path, args: argparse.Namespace) -> None:
    """Many short files in one call against all of them as one file: CPU time, which other programs do not change."""
    clips = folder / "clips"
    clips.mkdir()
    whole = song(folder / "whole.flac", args.clips * args.clip_seconds)
    with soundfile.SoundFile(whole) as file:
        for number in range(args.clips):
            soundfile.write(clips / f"{number}.flac", file.read(args.clip_seconds * RATE), RATE, "PCM_16")
    for method in args.methods.split(","):
        pairs = []
        for _ in range(args.runs):
            cost = {}
            for what, place in (("one", whole), ("many", clips)):
                out = folder / what
                cost[what] = run("separate", str(place), "-o", str(out), "--method", method)
                shutil.rmtree(out)
            pairs.append((cost["one"], cost["many"]))
        seconds = [statistics.median(cost.cpu for cost in costs) for costs in zip(*pairs, strict=True)]
        cpu, wall = (
            statistics.median(getattr(many, kind) / getattr(one, kind) for one, many in pairs)
            for kind in ("cpu", "wall")
        )
        print(
            f"{args.clips} files of {args.clip_seconds} s, {method}: {seconds[1]:.1f} s of CPU time, as one file "
            f"{seconds[0]:.1f} s, {cpu:.2f} times (elapsed {wall:.2f} times)"
        )


def library(folder: Path, args: argparse.Namespace) -> None:
    """What a song of a library costs: time beside the start, room, and what planning and a Ray cluster add."""
    songs = folder / "songs"
    songs.mkdir()
    costs = []
    for number in range(4):
        song(songs / f"{number}.flac", 240)
        if number in (0, 3):
            costs.append(
                run("separate", str(songs), "-o", str(folder / f"of-{number}"), "--method", "encoder")
            )
    one, four = costs
    each = (four.cpu - one.cpu) / 3
    print(f"a 4-minute song, encoder: {each:.1f} s of CPU time, and {one.cpu - each:.1f} s for the process")
    kinds = {"wav, floats": (), "flac, 16 bit": ("-f", "flac", "--bit-depth", "16"), "mp3": ("-f", "mp3")}
    for kind, words in kinds.items():
        out = folder / kind
        run("separate", str(songs / "0.flac"), "-o", str(out), *words)
        print(f"its four stems as {kind}: {sum(p.stat().st_size for p in out.rglob('*.*')) / 1e6:.1f} MB")
    planned(folder / "names")
    if importlib.util.find_spec("ray"):
        dispatched()


def planned(folder: Path, count: int = 20_000) -> None:
    """Time and memory to find and plan songs, none of which is opened."""
    from deepsep.output.inputs import expand_inputs
    from deepsep.output.paths import Input, Output, plan

    for number in range(count):
        place = folder / str(number // 100) / f"{number}.flac"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    output = Output(
        folder=folder / "out", stems={name: [name] for name in ("vocals", "drums", "bass", "other")}
    )
    tracemalloc.start()
    files, _ = expand_inputs([str(folder)], recursive=True)
    inputs = [Input(path, str(path)) for path in files]
    listed = tracemalloc.get_traced_memory()[1]
    jobs = plan(inputs, output, skip_existing=True)
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    began = time.process_time()
    files, _ = expand_inputs([str(folder)], recursive=True)
    found = time.process_time() - began
    plan([Input(path, str(path)) for path in files], output, skip_existing=True)
    took = time.process_time() - began
    print(
        f"a song's part in planning: {1e3 * found / count:.2f} ms to find, {1e3 * (took - found) / count:.2f} ms "
        f"to plan, {size / len(jobs) / 1e3:.1f} kB of memory; of all songs, {listed / len(jobs) / 1e3:.1f} kB to list"
    )


def dispatched(count: int = 2000) -> None:
    """What a task costs the process that hands it to a worker of a Ray cluster on this machine."""
    ray: Any = importlib.import_module("ray")
    began = time.monotonic()
    ray.init("local", num_cpus=2, log_to_driver=False)

    class Idle:
        def work(self, path: str) -> str:
            return path

    workers = [ray.remote(Idle).options(num_cpus=1).remote() for _ in range(2)]
    ray.get([worker.work.remote("") for worker in workers])
    started = time.monotonic()
    waiting = {worker.work.remote("songs/1.flac"): worker for worker in workers}
    for _ in range(count):
        (ready,), _ = ray.wait(list(waiting))
        worker = waiting.pop(ready)
        ray.get(ready)
        waiting[worker.work.remote("songs/1.flac")] = worker
    print(
        f"Ray: {started - began:.0f} s until two workers run, "
        f"{1e3 * (time.monotonic() - started) / count:.1f} ms to hand out a song"
    )
    ray.shutdown()


def report(folder: Path, args: argparse.Namespace) -> None:
    """The page to listen on of a 4-minute song: its size, and when a browser first shows something."""
    from selenium import webdriver

    run("separate", str(song(folder / "four.flac", 240)), "-o", str(folder / "page"), "--report")
    page = folder / "page" / "four" / "report.html"
    print(f"report of 4 minutes, 4 stems: {page.stat().st_size / 1e6:.1f} MB")
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
    driver = webdriver.ChromeService(shutil.which("chromedriver"))
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    paints = []
    for _ in range(3):
        browser = webdriver.Chrome(options=options, service=driver)
        try:
            browser.get(page.as_uri())
            script = "return performance.getEntriesByName('first-contentful-paint').map(e => e.startTime)"
            until = time.monotonic() + 30
            while not (found := browser.execute_script(script)) and time.monotonic() < until:
                time.sleep(0.05)
            paints.append(found[0] / 1000)
        finally:
            browser.quit()
    print(
        f"report: first contentful paint after {min(paints):.2f} to {max(paints):.2f} s in headless Chromium"
    )


def hub(folder: Path, args: argparse.Namespace) -> None:
    """Requests of a first and of a second run on priors from a Hub, which is a server on this machine."""
    import hashlib

    commit, requests = "c" * 40, []
    bundled = Path(deepsep.__file__).parent / "bundled"

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(self.path)
            body = (bundled / self.path.rpartition("/")[2]).read_bytes()
            self.send_response(200)
            self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
            self.send_header("X-Repo-Commit", commit)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(folder / "hub"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }  # fmt: skip
    path = str(song(folder / "hub.flac", 2))
    for spec, what in ((f"org/name@{commit}", "pinned to a commit"), ("org/name", "of a branch")):
        counts = []
        for _ in range(2):
            requests.clear()
            run("separate", path, "-o", str(folder / "out"), "--overwrite", "--priors", spec, **environment)
            counts.append(len(requests))
        print(f"Hub priors {what}: {counts[0]} requests, then {counts[1]}")
    server.shutdown()


def long(folder: Path, args: argparse.Namespace) -> None:
    """Whether memory grows with length."""
    few = {"encoder": [], "sgld": ["--levels", "1", "--steps", "1"]}
    for method, options in few.items():
        if method not in args.methods.split(","):
            continue
        peaks = []
        for minutes in (2, args.long_minutes):
            path = str(song(folder / "long.flac", minutes * 60))
            took, _, peak = run(
                "separate", path, "-o", str(folder / "long"), "-f", "flac", "--bit-depth", "16",
                "--method", method, "--overwrite", *options,
            )  # fmt: skip
            peaks.append(peak)
            print(
                f"{minutes:g} minutes, {method} {' '.join(options)}: {took:.0f} s, peak memory {peak:.0f} MB"
            )
        print(f"{method}: memory grows by {100 * (peaks[1] / peaks[0] - 1):.1f} %")


PARTS: dict[str, Callable[[Path, argparse.Namespace], None]] = {
    "start-up": start_up, "speed": speed, "training": training, "floor": floor, "repeat": repeat, "batch": batch,
    "library": library, "report": report, "hub": hub, "long": long,
}  # fmt: skip


def main() -> None:
    """Measure and prints, a line a figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument("--long-minutes", type=float, default=60)
    parser.add_argument("--clips", type=int, default=100)
    parser.add_argument("--clip-seconds", type=int, default=10)
    parser.add_argument("--methods", default="encoder,sgld", help="of the parts speed, repeat, batch, long")
    parser.add_argument("--seconds", default="1,60,240", help="of the part speed")
    parser.add_argument(
        "--against", metavar="FOLDER", help="another checkout, for the parts speed and training"
    )
    parser.add_argument("--steps", type=int, default=40, help="of the part training")
    parser.add_argument("--runs", type=int, default=3, help="of the parts speed, batch, training and floor")
    args = parser.parse_args()
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f"no part {', '.join(unknown)}; choose from {', '.join(PARTS)}")
    print(
        f"{os.cpu_count()} CPU cores, Python {sys.version.split()[0]}, load {os.getloadavg()[0]:.1f} at the start"
    )
    for name in args.parts or PARTS:
        with tempfile.TemporaryDirectory() as scratch:
            PARTS[name](Path(scratch), args)


if __name__ == "__main__":
    main()
