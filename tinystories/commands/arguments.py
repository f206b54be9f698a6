"""Option types and option groups that several verbs share."""

import argparse
import math
import textwrap
from collections.abc import Callable
from typing import Any


LARGEST_INT = 2**31 - 1
LARGEST_SEED = 2**32 - 1


def number(kind: type, least: float, most: float = math.inf) -> Callable[[str], Any]:
    """The `type` of an option that takes an `int` or a `float` between two bounds, both included."""

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most:
            noun = "an integer" if kind is int else "a number"
            bounds = f"of at least {least}" if most == math.inf else f"from {least} to {most}"
            raise argparse.ArgumentTypeError(f"must be {noun} {bounds}, not {text[:40]!r}")
        return value

    return parse


def seed(text: str) -> int:
    """The `type` of `--seed`."""
    return number(int, 0, LARGEST_SEED)(text)


def add_reading_arguments(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    """Add the options for reading stories from files.

    Args:
        default: where the values come from if they are not given, for the help; then the options are None.
    """
    parser.add_argument(
        "--text-column",
        default=None if default else "text",
        help=f"column with the stories (default: {default or 'text, or story if there is none'})",
    )
    parser.add_argument(
        "--split",
        default=None if default else "auto",
        help="how .txt and .md files are split into stories: auto, file, line, blank-lines, or a separator "
        f"(default: {default or 'auto'})",
    )
    parser.add_argument(
        "--one-story-per-file", action="store_const", const="file", dest="split", help="same as --split file"
    )
    parser.add_argument(
        "--skip-bad-rows",
        action="store_true",
        default=None if default else False,
        help="skip unreadable rows and report how many",
    )


def reading_options(options: argparse.Namespace) -> dict[str, Any]:
    """The values of `add_reading_arguments`, as keyword arguments."""
    return {name: getattr(options, name) for name in ("text_column", "split", "skip_bad_rows")}


def comma_separated(text: str) -> list[str]:
    """The `type` of an option that takes several names, such as `llama,gguf`."""
    return [name.strip() for name in text.split(",")]


def add_examples(parser: argparse.ArgumentParser, examples: str) -> None:
    """Add examples to a help text, whose lines argparse would otherwise join."""
    parser.description = textwrap.fill(parser.description or "", 100)
    examples = textwrap.indent(examples.strip(), "  ")
    parser.epilog = f"examples:\n{examples}" + (f"\n\n{parser.epilog}" if parser.epilog else "")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
