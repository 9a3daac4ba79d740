"""Prints the figures of docs/app.md: how soon `deepsep app` is ready, the page's size, the first sound, memory.

Usage: python scripts/time_app.py [--seconds 240] [--songs 10]

Drops music-like noise on the page in headless Chromium as a person would, with the bundled priors and the defaults.
Needs Linux, Chromium and selenium; run it on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmark import song

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --autoplay-policy=no-user-gesture-required"
).split()
PARTS = ("", "app.css", "app.js", "player.css", "player.js")


def browser(folder: Path) -> Any:
    """Headless Chromium."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium") or shutil.which("google-chrome"))
    for flag in [*FLAGS, f"--user-data-dir={folder}"]:
        options.add_argument(flag)
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))


def wait(condition: Callable[[], Any], seconds: float = 600) -> float:
    """When a condition came true, by the monotonic clock."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            sys.exit("did not happen in time")
        time.sleep(0.02)
    return time.monotonic()


def peak(pid: int) -> float:
    """Peak memory of a process so far, in MB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"VmHWM:\s*(\d+)", status)[0]) / 1024


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def size_of(folder: Path) -> float:
    """All files of a folder, in MB."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def main() -> None:
    """Start the server, drop a song, then as many as were asked for."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--seconds", type=int, default=240)
    arguments.add_argument("--songs", type=int, default=10)
    args = arguments.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        first = song(folder / "song.flac", args.seconds)
        driver = browser(folder / "profile")
        command = [
            sys.executable,
            "-m",
            "deepsep",
            "app",
            "--no-browser",
            "--port",
            "0",
            "--folder",
            str(folder / "out"),
        ]
        began = time.monotonic()
        server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            assert server.stderr is not None
            address = server.stderr.readline().split()[2]
            urllib.request.urlopen(address).read()
            print(f"ready: the page answers {time.monotonic() - began:.2f} s after the command")
            size = sum(len(urllib.request.urlopen(address + name).read()) for name in PARTS)
            print(f"page: {size / 1000:.0f} kB in {len(PARTS)} files, without songs")
            driver.get(address)
            wait(lambda: children(server.pid) and peak(children(server.pid)[0]) > 200)
            time.sleep(10)  # the priors are loaded, as by the time that a person has found a song
            files = driver.find_element("css selector", "#files")
            dropped = time.monotonic()
            files.send_keys(str(first))
            wait(lambda: driver.find_elements("css selector", ".open[href]"))
            driver.execute_script("document.querySelector('.open[href]').click()")
            wait(lambda: driver.execute_script("return Boolean(window.deepsep)"))
            driver.execute_script("document.querySelector('#play').click()")
            heard = wait(lambda: driver.execute_script("return deepsep.time() > 0"))
            state = driver.execute_script("return document.querySelector('#song-facts').textContent")
            print(
                f"first sound of {args.seconds} s of music: {heard - dropped:.1f} s after the drop ({state})"
            )
            done = "return document.querySelectorAll('.song[data-state=done]').length"
            wait(lambda: driver.execute_script(done) == 1)
            print(f"all of it: {time.monotonic() - dropped:.1f} s after the drop")
            kept, stems = size_of(folder / "out" / ".deepsep-app"), size_of(folder / "out" / "song")
            print(f"kept for the page: {kept:.0f} MB, beside {stems:.0f} MB of stems")
            driver.execute_script("location.hash = ''")
            names = [shutil.copy(first, folder / f"song {number}.flac") for number in range(args.songs)]
            began = time.monotonic()
            files.send_keys("\n".join(map(str, names)))
            wait(lambda: driver.execute_script(done) == 1 + args.songs, 3600)
            took = time.monotonic() - began
            (worker,) = children(server.pid)
            print(
                f"{args.songs} songs of {args.seconds} s: {took:.0f} s, at most {peak(server.pid):.0f} MB in the "
                f"server and {peak(worker):.0f} MB in the process that separates"
            )
        finally:
            driver.quit()
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
