"""The kinds of findings, how grave each is, and the thresholds."""

from typing import NamedTuple

from ..corpus import SEPARATOR


# The TinyStories at hand have 234 to 4,107 characters. Below 100, the whole of them has interrupted beginnings such as
# "Once upon a time, there" (huggingface.co/datasets/roneneldan/TinyStories/discussions/15).
MIN_CHARACTERS, MAX_CHARACTERS = 100, 10_000
# Their share in a story is at least 0.109 in TinyStories, and was under 0.04 in passages of eight other languages.
COMMON_WORDS = frozenset(
    "the and to of they you that his her with for said she it not had at be but him them what were".split()
)
MIN_COMMON_WORDS = 0.06
# Different runs of four words among all such runs: at least 0.81 in TinyStories.
MIN_DIFFERENT_RUNS = 0.5

END_OF_TEXT = SEPARATOR.decode()
# These stand where a word was: taking them out would leave a hole.
LOST_WORDS = ("<unk>", "[UNK]", "<mask>", "[MASK]")
OTHER_TOKENS = (
    *("<s>", "</s>", "<pad>", "<bos>", "<eos>", "<sep>", "<cls>", "[PAD]", "[CLS]", "[SEP]", "[BOS]", "[EOS]"),
    *("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<start_of_turn>", "<end_of_turn>", "<think>", "</think>"),
)


class Kind(NamedTuple):
    severity: str
    what: str
    remedy: str


_REMOVED, _DROPPED = "--clean removes them.", "--clean drops these stories."
_FIRST_KEPT = "--clean keeps the first of them."
KINDS = {
    "empty": Kind("fault", "no text", _DROPPED),
    "special_tokens": Kind(
        "fault",
        "the name of a special token, which becomes that token",
        f"--clean removes them, and splits stories at {END_OF_TEXT}; it drops a story that lost a word to <unk>.",
    ),
    "control_characters": Kind("fault", "control characters, or characters for private use", _REMOVED),
    "invisible_characters": Kind("fault", "zero-width characters, soft hyphens or direction marks", _REMOVED),
    "mojibake": Kind(
        "fault", "text decoded with the wrong encoding", "--clean repairs them, or drops what has lost characters."
    ),
    "html": Kind("fault", "HTML", "--clean drops these stories; an HTML parser would keep their text."),
    "html_entities": Kind("fault", "HTML entities", "--clean replaces them with the characters."),
    "very_short": Kind("warning", f"fewer than {MIN_CHARACTERS} characters", _DROPPED),
    "very_long": Kind(
        "warning", f"more than {MAX_CHARACTERS:,} characters", "Check whether several stories are joined in one."
    ),
    "duplicates": Kind("warning", "equal to an earlier story", _FIRST_KEPT),
    "near_duplicates": Kind(
        "warning", "equal to an earlier story except for case, spaces and punctuation", _FIRST_KEPT
    ),
    "instructions": Kind("warning", "a prompt, a template or an assistant's remarks", _DROPPED),
    "markdown": Kind("warning", "Markdown", _DROPPED),
    "web_addresses": Kind("warning", "web addresses", _DROPPED),
    "email_addresses": Kind("warning", "e-mail addresses", _DROPPED),
    "backslashes": Kind(
        "warning", "backslashes, mostly of JSON", r"--clean unescapes \" and \n, and drops the other stories."
    ),
    "unfinished": Kind("warning", "cut off: no punctuation at the end", _DROPPED),
    "not_english": Kind(
        "warning",
        "few common English words, or letters of another script",
        "Nothing, where another language is meant; figures on grammar are for English.",
    ),
    "repetitive": Kind(
        "warning", "the same phrases again and again", "Check whether a model generated it and did not stop."
    ),
    "begins_midway": Kind(
        "info", "a small letter at the beginning", "Check whether beginnings are missing, where it is frequent."
    ),
    "odd_quotes": Kind("info", "unpaired or doubled quotation marks", "Nothing, unless it is frequent."),
    "mixed_quotes": Kind("info", "straight and curly quotation marks in one story", "Nothing."),
    "asterisks": Kind("info", "words between asterisks", "Nothing, where they mark emphasis."),
    "missing_spaces": Kind("info", "no space between two sentences", "Nothing, unless it is frequent."),
    "spaces": Kind(
        "info", "double, unusual or trailing spaces, and line ends other than \\n", "--clean normalizes them."
    ),
}
SEVERITIES = ("fault", "warning", "info")
FAULTS = tuple(kind for kind, about in KINDS.items() if about.severity == "fault")
WARNINGS = tuple(kind for kind, about in KINDS.items() if about.severity == "warning")
DROPPED = tuple(kind for kind in WARNINGS if kind not in ("very_long", "not_english", "repetitive"))
