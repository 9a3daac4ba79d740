"""One module for each program that decodes audio: libsndfile, PyAV, and the ffmpeg program.

Each has `probe(path) -> AudioInfo | None` (None: it cannot read the file) and `decode(info)`, which yields
blocks of shape (c, t) of any length. `files` decides which one reads a file. Imports errors and `info`.
"""
