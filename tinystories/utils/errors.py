"""The one exception for a user's mistake: every command prints its message as one line and exits with status 2."""


class UserError(ValueError):
    """Something the user gave is wrong; the message says what, and what to do about it."""


def first_line(error: BaseException) -> str:
    """What a library says of its error, as one line without its closing mark, to put into a `UserError`."""
    text = str(error).strip()
    return text.splitlines()[0].strip().rstrip(".!") if text else type(error).__name__
