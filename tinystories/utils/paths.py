"""Paths as users type them."""

import os


def expand_user(path: str) -> str:
    """A path with the home folder for a leading `~`, which no shell replaces in a recipe and behind `--option=`."""
    return os.path.expanduser(path)
