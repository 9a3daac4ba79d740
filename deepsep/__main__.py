"""python -m deepsep."""

from .cli.app import main

main()
