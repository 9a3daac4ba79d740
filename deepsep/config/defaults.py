"""Defaults of settings that stand alone."""

from __future__ import annotations

from typing import Literal

from .choices import BitDepth, Codec, Format, Init, Method

__all__ = [
    "AAC_BITRATE",
    "APP_HOST",
    "APP_PORT",
    "BATCH_SIZE",
    "BIT_DEPTH",
    "BUNDLED",
    "CODEC",
    "DEVICE",
    "FORMAT",
    "INIT",
    "METHOD",
    "MP3_KBPS",
    "SAMPLE_ITERATIONS",
    "SAMPLE_SECONDS",
    "SAMPLE_TEMPERATURE",
    "SEED",
    "WINDOWS",
]

BUNDLED = "bundled"
METHOD: Method = "auto"  # the encoder where there is one
INIT: Init = "auto"
DEVICE = "auto"
SEED = 0

FORMAT: Format = "wav"
BIT_DEPTH: BitDepth = "float"
MP3_KBPS = 320
CODEC: Codec = "aac"  # of a stem file
AAC_BITRATE = 256_000  # bit/s of each stream of a stem file

BATCH_SIZE: Literal["auto"] = "auto"
WINDOWS = 1  # separated at a time where there is no GPU: more are no faster, and take memory

SAMPLE_SECONDS = 10.0
SAMPLE_TEMPERATURE = 1.0
SAMPLE_ITERATIONS = 32  # of Griffin-Lim, for the phase

APP_HOST = "127.0.0.1"  # this machine alone
APP_PORT = 8765
