"""One HTML page to listen to a separated track on: player, waveforms, spectrograms, settings.

`page.write_report` writes it, from `template.html`; the player in it (`player.py`, `player.js`) is also that of the
application. The page needs no network and no other file. It holds every track as mp3 in pieces of a few seconds
(`sound`), which the browser decodes when their turn comes: neither the first paint nor the browser's memory for
samples depends on the length of the song. Imports errors, audio and `staged`.
"""
