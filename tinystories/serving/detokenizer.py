"""Convert tokens to text that can be sent: complete characters, and no possible beginning of a stop string."""

from tokenizers.decoders import DecodeStream
from transformers import PreTrainedTokenizerBase

from ..generation.prompts import decode


class Detokenizer:
    """The text of a completion, token by token.

    The pieces add up to the decoded tokens, up to the first of the `stop` strings. A character of several tokens is
    returned when it is complete.

    Args:
        tokenizer: a fast one.
        prompt_ids: some tokenizers decode a token differently at the start of a text.
        stop: strings that end the completion; they are not part of it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prompt_ids: list[int], stop: tuple[str, ...] = ()):
        self._tokenizer, self._prompt_ids, self._stop = tokenizer, prompt_ids, stop
        self._stream = DecodeStream(ids=prompt_ids, skip_special_tokens=True)
        self._ids: list[int] = []
        self._decoded = ""  # of which `_sent` characters were returned
        self._sent = 0
        self.stopped = False

    def push(self, token: int) -> str:
        """Add a token and return the text that can be sent, often empty."""
        self._ids.append(token)
        self._decoded += self._stream.step(self._tokenizer.backend_tokenizer, token) or ""
        return self._next_piece(final=False)

    def close(self) -> str:
        """The rest of the text; an incomplete character becomes U+FFFD."""
        if not self.stopped:
            head = decode(self._tokenizer, self._prompt_ids)
            text = decode(self._tokenizer, self._prompt_ids + self._ids)
            if text.startswith(head + self._decoded):
                self._decoded = text[len(head) :]
        return self._next_piece(final=True)

    def _next_piece(self, final: bool) -> str:
        if self.stopped:
            return ""
        found = [place for place in (self._decoded.find(string, self._sent) for string in self._stop) if place >= 0]
        if found:
            self.stopped, end = True, min(found)
        else:
            end = len(self._decoded) - (0 if final else self._possible_stop_length())
        piece = self._decoded[self._sent : end]
        self._sent = end
        return piece

    def _possible_stop_length(self) -> int:
        """Number of characters at the end that may be the beginning of a stop string."""
        longest = max(map(len, self._stop), default=0)
        for length in range(min(longest - 1, len(self._decoded) - self._sent), 0, -1):
            if any(string.startswith(self._decoded[-length:]) for string in self._stop):
                return length
        return 0


def token_text(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    """A token as text, or its name in the vocabulary if it is only part of a character."""
    text = decode(tokenizer, [token], skip_special_tokens=False)
    return str(tokenizer.convert_ids_to_tokens(token)) if "\N{REPLACEMENT CHARACTER}" in text else text
