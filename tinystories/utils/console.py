"""Text on a console: encodings, control characters, invalid arguments."""

import sys


def print_any_character() -> None:
    """Make stdout and stderr write characters that their encoding lacks as escapes such as `\\U0001f431`.

    Windows consoles and redirected output may be cp1252 or ASCII. Without this, the first such character raises
    `UnicodeEncodeError`, perhaps after hours of training.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def one_line(message: object) -> str:
    """A message with its control characters escaped: file names may contain line breaks and escape sequences."""
    return "".join(c.encode("unicode_escape").decode() if c < " " or "\x7f" <= c < "\xa0" else c for c in str(message))


def counted(number: int, noun: str) -> str:
    """A number with its noun in the right form: "1 story", "1,500 stories"."""
    if number == 1:
        return f"1 {noun}"
    return f"{number:,} {noun.removesuffix('y')}ies" if noun.endswith("y") else f"{number:,} {noun}s"


def is_text(argument: str) -> bool:
    """Whether an argument was valid UTF-8; invalid bytes arrive as lone surrogates."""
    try:
        argument.encode()
    except UnicodeEncodeError:
        return False
    return True
