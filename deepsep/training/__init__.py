"""Training runs: one loop, checkpoints, and a run each for a prior, an encoder and contrast.

What is trained on is the domain's. May import errors to separation.
"""
