"""From tokens to text that can be sent: whole characters, and nothing that may still turn out to be a stop string."""

from tokenizers.decoders import DecodeStream
from transformers import PreTrainedTokenizerBase


class StoryText:
    """How a story goes on, piece by piece.

    The pieces joined are what the tokenizer makes of all tokens at once, up to the first of the `stop` strings. A
    character that is spread over several tokens comes when it is whole.

    Args:
        tokenizer: one of the "fast" kind.
        prompt_ids: what was before; some tokenizers write a token differently at the beginning of a text.
        stop: strings that end the story; they are not part of it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prompt_ids: list[int], stop: tuple[str, ...] = ()):
        self._tokenizer, self._prompt_ids, self._stop = tokenizer, prompt_ids, stop
        self._stream = DecodeStream(ids=prompt_ids, skip_special_tokens=True)
        self._ids: list[int] = []
        self._decoded = ""  # all that the tokens gave, of which `_sent` characters were handed out
        self._sent = 0
        self.stopped = False

    def push(self, token: int) -> str:
        """The text that can be sent now that this token is known; often nothing."""
        self._ids.append(token)
        self._decoded += self._stream.step(self._tokenizer.backend_tokenizer, token) or ""
        return self._release(final=False)

    def close(self) -> str:
        """What is left when no token follows; a broken character at the end shows as U+FFFD."""
        if not self.stopped:
            whole, head = (
                self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
                for ids in (self._prompt_ids + self._ids, self._prompt_ids)
            )
            if whole.startswith(head + self._decoded):
                self._decoded = whole[len(head) :]
        return self._release(final=True)

    def _release(self, final: bool) -> str:
        if self.stopped:
            return ""
        found = [place for place in (self._decoded.find(string, self._sent) for string in self._stop) if place >= 0]
        if found:
            self.stopped, end = True, min(found)
        else:
            end = len(self._decoded) - (0 if final else self._held_back())
        piece = self._decoded[self._sent : end]
        self._sent = end
        return piece

    def _held_back(self) -> int:
        """Characters at the end that a stop string may begin with."""
        longest = max(map(len, self._stop), default=0)
        for length in range(min(longest - 1, len(self._decoded) - self._sent), 0, -1):
            if any(string.startswith(self._decoded[-length:]) for string in self._stop):
                return length
        return 0


def token_name(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    """A token as text, or as its vocabulary spells it where it is only part of a character."""
    text = tokenizer.decode([token], clean_up_tokenization_spaces=False)
    return tokenizer.convert_ids_to_tokens(token) if "\N{REPLACEMENT CHARACTER}" in text else text
