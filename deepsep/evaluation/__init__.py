"""Scores of separations: songs whose sources are known, metrics, baselines, tables of results.

May import errors to output.
"""
