"""Inference in any domain: how sources make a mixture, the posterior, its sampler, windows of a track, and the
protocol that a domain fulfils. May import errors, config, progress, audio, recordings and flows.
"""
