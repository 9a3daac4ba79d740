"""From files to files: what was typed becomes inputs, each input gets its outputs, and one track is separated.

`inputs` -> `paths` (everything planned and checked before any work) -> `tracks.run` -> `stems` or `ni_stem`, and
`report`. Files appear only when they are complete (`staging`). May import all but evaluation, api and cli.
"""
