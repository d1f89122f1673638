"""`python -m hostd` is the command `hostd`."""

import sys


def main() -> None:
    """The entry point: Ctrl-C is quiet even while the command is still being imported."""
    try:
        from .commands.cli import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
