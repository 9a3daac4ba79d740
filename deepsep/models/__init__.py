"""Priors folders: loading, saving, the Hugging Face Hub, model cards.

The one place that knows which domains there are (`folder.DOMAINS`). May import errors to waveform.
"""
