"""deepsep doctor: what this installation has, and what to do about what it lacks."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import typer

from .. import __version__
from ..errors import DeepsepError
from .common import answer, working_folder
from .fetch import size_of
from .options import JsonOption

__all__ = ["doctor"]

LOW_DISK = 2 * 10**9  # bytes; priors are some ten MB, but one song's float stems take 0.4 GB


def doctor(
    as_json: JsonOption = False,
) -> None:
    """Check the installation: PyTorch, devices, audio formats, priors, disk. No network; always exit code 0.

    Example: deepsep doctor
    """
    folder = folder_findings()
    hub = hub_findings()
    findings = {
        "deepsep": {"version": __version__, "folder": str(Path(__file__).parents[1])},
        "python": {"version": platform.python_version(), "executable": sys.executable},
        "platform": {"system": platform.platform(), "cpus": os.cpu_count()},
        "folder": folder,
        "torch": torch_findings(),
        "audio": audio_findings(),
        "priors": priors_findings(cache="error" not in hub),
        "hub": hub,
    }
    advice = advise(findings)
    if as_json:
        typer.echo(json.dumps({**findings, "advice": advice}, indent=2))
        return
    for line in report(findings):
        answer(line)
    answer("")
    answer("To do:" if advice else "Nothing is missing.")
    for line in advice:
        answer(f"- {line}")


def folder_findings() -> dict[str, Any]:
    """The working folder, or what is wrong with it; then the process leaves it, as PyTorch would end it there."""
    try:
        return {"path": working_folder()}
    except DeepsepError as error:
        os.chdir(Path(__file__).parent)
        return {"error": str(error)}


def version_of(package: str) -> str | None:
    """The version of an installed package."""
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def torch_findings() -> dict[str, Any]:
    """PyTorch's version, devices and threads, or why it cannot be loaded."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return {"version": version_of("torch"), "error": " ".join(str(error).split())[:300]}
    devices = ["cpu"]
    if torch.cuda.is_available():
        devices += [f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append("mps")
    return {"version": torch.__version__, "devices": devices, "threads": torch.get_num_threads()}


def audio_findings() -> dict[str, Any]:
    """What can be read, written and drawn: libsndfile's formats, PyAV, ffmpeg, mutagen, matplotlib."""
    found: dict[str, Any] = {}
    try:
        import soundfile

        version = f"{soundfile.__version__} (libsndfile {soundfile.__libsndfile_version__})"
        known = soundfile.available_formats()
        wanted = {"wav": "WAV", "flac": "FLAC", "ogg": "OGG", "mp3": "MP3", "aiff": "AIFF"}
        found["soundfile"] = version
        found["formats"] = [name for name, code in wanted.items() if code in known]
    except (ImportError, OSError) as error:
        found["soundfile"], found["formats"] = None, []
        found["soundfile_error"] = " ".join(str(error).split())[:300]
    found["pyav"] = loaded("av")
    found["mutagen"] = loaded("mutagen")
    found["matplotlib"] = loaded("matplotlib")
    for program in ("ffmpeg", "ffprobe"):
        found[program] = program_version(program)
    return found


def loaded(module: str) -> str | None:
    """The version of a module that can really be imported."""
    try:
        __import__(module)
    except (ImportError, OSError):
        return None
    return version_of(module)


def program_version(program: str) -> str | None:
    """The path and version of a program, if it runs."""
    path = shutil.which(program)
    if path is None:
        return None
    try:
        done = subprocess.run([path, "-version"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    words = done.stdout.split()
    return f"{words[2] if len(words) > 2 else 'unknown version'} ({path})" if done.returncode == 0 else None


def priors_findings(*, cache: bool) -> list[dict[str, Any]]:
    """The priors in the package and in the Hub cache."""
    from ..models.local import local_priors

    keys = ("name", "kind", "commit", "sources", "encoder", "size", "complete", "folder")
    return [{key: row[key] for key in keys} for row in local_priors(cache=cache)]


def hub_findings() -> dict[str, Any]:
    """Where the Hub's client looks, and how much room its cache has."""
    from ..models.download import client_settings
    from ..models.hub import cached

    try:
        constants = client_settings()
        cached()
    except DeepsepError as error:
        return {"client": version_of("huggingface-hub"), "error": str(error)}
    cache = Path(constants.HF_HUB_CACHE)
    there = next((p for p in (cache, *cache.parents) if p.exists()), Path.cwd())
    try:
        free = shutil.disk_usage(there).free
    except OSError:
        free = None
    return {
        "client": version_of("huggingface-hub"),
        "endpoint": constants.ENDPOINT,
        "offline": bool(constants.HF_HUB_OFFLINE),
        "cache": str(cache),
        "writable": os.access(there, os.W_OK),
        "free": free,
    }


def advise(found: dict[str, Any]) -> list[str]:
    """What to do about what is missing, the worst first."""
    torch, audio, hub = found["torch"], found["audio"], found["hub"]
    advice = []
    if "error" in found["folder"]:
        advice.append(found["folder"]["error"])
    if "error" in torch:
        advice.append(f"PyTorch does not load ({torch['error']}): pip install --force-reinstall torch")
    if not audio["soundfile"]:
        advice.append("soundfile does not load: pip install --force-reinstall soundfile")
    elif missing := {"wav", "flac", "ogg", "mp3"} - set(audio["formats"]):
        advice.append(
            f"libsndfile lacks {', '.join(sorted(missing))}: pip install --upgrade soundfile (or update the "
            "system's libsndfile)"
        )
    if not any(row["complete"] for row in found["priors"]):
        advice.append("no priors here: deepsep priors download org/name, or train some: deepsep train-prior")
    advice += [
        f"{row['name']} is not all downloaded: deepsep priors download {row['name']}@{row['commit']}"
        for row in found["priors"]
        if not row["complete"] and row["kind"] == "hub"
    ]
    if not (audio["pyav"] or (audio["ffmpeg"] and audio["ffprobe"])):
        advice.append("m4a, aac, wma and webm cannot be read: pip install 'deepsep[av]', or install ffmpeg")
    if not (audio["pyav"] or audio["ffmpeg"]):
        advice.append("stem files (.stem.mp4) cannot be written: pip install 'deepsep[av]'")
    if not audio["mutagen"]:
        advice.append("tags and covers are not copied: pip install 'deepsep[tags]'")
    if not audio["matplotlib"]:
        advice.append("--uncertainty cannot draw its pictures: pip install 'deepsep[plot]'")
    if "error" in hub:
        return [*advice, hub["error"]]
    if not hub["writable"]:
        advice.append(f"{hub['cache']} cannot be written: set HF_HOME to a folder that can")
    if hub["free"] is not None and hub["free"] < LOW_DISK:
        advice.append(f"only {size_of(hub['free'])} are free at {hub['cache']}: make room, or set HF_HOME")
    if hub["offline"]:
        advice.append("HF_HUB_OFFLINE is set, so nothing is downloaded: unset it to fetch priors")
    return advice


def report(found: dict[str, Any]) -> list[str]:
    """The findings as lines for people."""
    torch, audio, hub = found["torch"], found["audio"], found["hub"]
    rows = [
        ("deepsep", f"{found['deepsep']['version']} ({found['deepsep']['folder']})"),
        ("python", f"{found['python']['version']} ({found['python']['executable']})"),
        ("platform", f"{found['platform']['system']}, {found['platform']['cpus']} CPUs"),
        ("torch", f"{torch['version'] or 'missing'}{', does not load' if 'error' in torch else ''}"),
        ("devices", ", ".join(torch.get("devices", ["none"]))),
        ("threads", str(torch.get("threads", "unknown"))),
        ("soundfile", audio["soundfile"] or "missing"),
        ("formats", ", ".join(audio["formats"]) or "none"),
        *(
            (name, audio[name] or "missing")
            for name in ("pyav", "ffmpeg", "ffprobe", "mutagen", "matplotlib")
        ),
    ]
    for row in found["priors"]:
        name = f"{row['name']}@{row['commit'][:12]}" if row["commit"] else row["name"]
        state = size_of(row["size"]) + ("" if row["complete"] else ", not all downloaded")
        rows.append(("priors", f"{name}: {', '.join(row['sources'])} ({state})"))
    if not found["priors"]:
        rows.append(("priors", "none"))
    if "error" in hub:
        rows.append(("hub", f"client {hub['client']}, cannot be used"))
        return [f"{name + ':':12}{value}" for name, value in rows]
    free = "unknown room" if hub["free"] is None else f"{size_of(hub['free'])} free"
    rows.append(("hub", f"{hub['endpoint']}{', offline' if hub['offline'] else ''}, client {hub['client']}"))
    rows.append(("cache", f"{hub['cache']} ({free})"))
    return [f"{name + ':':12}{value}" for name, value in rows]
