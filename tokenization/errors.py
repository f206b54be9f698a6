"""The exception for input that this package cannot use."""


class TokenizerError(ValueError):
    """The texts, the tokenizer or the size given is wrong; the message says what to change."""
