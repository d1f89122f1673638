"""`python -m hostd` is the command `hostd`."""

from .cli import main

main()
