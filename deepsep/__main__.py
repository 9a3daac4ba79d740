"""python -m deepsep."""

from .cli import main

main()
