"""The command line: a thin skin over the library, one module for each command. It may import everything.

Only this folder prints, exits, or catches DeepsepError. torch is imported inside the commands, never for --help.
"""

from .app import app, main

__all__ = ["app", "main"]
