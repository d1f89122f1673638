"""`python -m guestd` is the command `guestd`."""

from .cli import main

main()
