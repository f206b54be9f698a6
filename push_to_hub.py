"""Publish a run folder on the Hub, and check it: `python push_to_hub.py RUN --repo-id USER/NAME [...]`."""

import sys

from tinystories.cli import main


if __name__ == "__main__":
    sys.exit(main(["push", *sys.argv[1:]]))
