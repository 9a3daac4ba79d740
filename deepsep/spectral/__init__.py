"""The spectral domain: priors of log band powers. From here on, data is STFT frames and bands.

`domain` is the way in. May import all that comes before: errors to inference.
"""
