"""Audio files: probe and decode them, resample, measure loudness, read and write tags.

`files` is the entry: it picks one of the `decoders` and checks what comes out. Imports errors and config.
"""
