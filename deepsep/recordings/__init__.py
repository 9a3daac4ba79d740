"""Training data in any domain: folders of recordings, caches of them, banks to draw examples from.

May import errors, staging, config, progress and audio.
"""
