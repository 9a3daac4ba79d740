"""Normalizing flows: invertible maps, the networks that condition them, and the density they make together.

Knows nothing of sound. May import errors and config.
"""
