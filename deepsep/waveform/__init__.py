"""The time domain: waveform priors, the thesis' own experiment. `domain` is the way in.

May import errors to inference, and the spectrum of the spectral domain for its mean spectra.
"""
