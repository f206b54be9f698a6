"""The exception for a user's mistake: every command prints its message as one line and exits with status 2."""

import sys


class UserError(ValueError):
    """A mistake in the user's input; the message says what is wrong and how to fix it."""


def is_user_error(error: BaseException) -> bool:
    """Whether an error is a user's mistake: a `UserError`, or a `TokenizerError`.

    `tinystories.tokenization` is slow to import and imports nothing of this package. Its error can only occur once it
    has been imported.
    """
    tokenization = sys.modules.get("tinystories.tokenization")
    return isinstance(error, UserError) or (
        tokenization is not None and isinstance(error, tokenization.TokenizerError)
    )


def install_command(extra: str) -> str:
    """The command that installs an extra of this package, which is not on the package index, for use in a message."""
    return f"pip install '.[{extra}]' (in a clone of the repository)"


def first_line(error: BaseException) -> str:
    """The first line of a library's error message, without its final punctuation, for use in a `UserError`.

    A line that ends in a colon is joined with the next one. A KeyError, TypeError or the like, whose message says
    little, is named.
    """
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.strerror}: {error.filename}"
    text, *others = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    for line in others:
        if not text.endswith(":"):
            break
        text += f" {line}"
    text = text.rstrip(".!:")
    if isinstance(error, LookupError | TypeError | AttributeError | ArithmeticError | AssertionError) and str(error):
        return f"{type(error).__name__}: {text}"
    return text
