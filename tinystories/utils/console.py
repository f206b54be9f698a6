"""What every command of this project does with a console."""

import sys


def print_any_character() -> None:
    """Let standard output and error write what their encoding lacks as an escape such as `\\U0001f431`.

    A console of Windows and a redirected output have encodings of their own (cp1252, ASCII). Without this, the first
    character that such an encoding lacks raises `UnicodeEncodeError`, perhaps after hours of training.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def one_line(message: object) -> str:
    """A message with its control characters as escapes: a file name may hold a line break or a terminal's command."""
    return "".join(c.encode("unicode_escape").decode() if c < " " or "\x7f" <= c < "\xa0" else c for c in str(message))


def is_text(argument: str) -> bool:
    """Whether an argument was valid UTF-8: what was not has arrived as lone surrogates, which no library encodes."""
    try:
        argument.encode()
    except UnicodeEncodeError:
        return False
    return True
