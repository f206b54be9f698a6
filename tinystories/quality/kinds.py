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


_TAKEN_OUT, _DROPPED, _FIRST_KEPT = "Cleaning takes them out.", "Cleaning drops them.", "Cleaning keeps the first."
KINDS = {
    "empty": Kind("fault", "no text", _DROPPED),
    "special_tokens": Kind(
        "fault",
        "the name of a special token, which becomes that token",
        f"Cleaning takes them out, and parts stories at {END_OF_TEXT}; a story that lost a word to <unk> is dropped.",
    ),
    "control_characters": Kind("fault", "control characters, or private ones", _TAKEN_OUT),
    "invisible_characters": Kind("fault", "zero-width characters, soft hyphens, marks of direction", _TAKEN_OUT),
    "mojibake": Kind("fault", "decoded by the wrong table", "Cleaning mends them, or drops what has lost characters."),
    "html": Kind("fault", "HTML", "Cleaning drops them. Better: make text of it with an HTML parser."),
    "html_entities": Kind("fault", "HTML entities", "Cleaning puts the characters in their place."),
    "very_short": Kind("warning", f"fewer than {MIN_CHARACTERS} characters", _DROPPED),
    "very_long": Kind("warning", f"more than {MAX_CHARACTERS:,} characters", "See whether stories run together."),
    "duplicates": Kind("warning", "the same as an earlier story", _FIRST_KEPT),
    "near_duplicates": Kind("warning", "an earlier story but for case, spaces and punctuation", _FIRST_KEPT),
    "instructions": Kind("warning", "a prompt, a template or the voice of an assistant", _DROPPED),
    "markdown": Kind("warning", "Markdown", _DROPPED),
    "web_addresses": Kind("warning", "web addresses", _DROPPED),
    "email_addresses": Kind("warning", "e-mail addresses", _DROPPED),
    "backslashes": Kind("warning", "backslashes, mostly of JSON", r"Cleaning mends \" and \n, and drops the others."),
    "unfinished": Kind("warning", "cut off: no mark at the end", _DROPPED),
    "not_english": Kind(
        "warning",
        "few common English words, or letters of another script",
        "Nothing, where another language is meant; but what is said of grammar holds for English.",
    ),
    "repetitive": Kind("warning", "goes round in circles", "See whether a model wrote it and did not stop."),
    "begins_midway": Kind("info", "a small letter at the beginning", "Nothing, unless beginnings are missing."),
    "odd_quotes": Kind("info", "quotation marks without a partner, or doubled", "Nothing, unless they are many."),
    "mixed_quotes": Kind("info", "straight and curly quotation marks in one story", "Nothing."),
    "asterisks": Kind("info", "words between asterisks", "Nothing, where they stress a word."),
    "missing_spaces": Kind("info", "no space between two sentences", "Nothing, unless they are many."),
    "spaces": Kind("info", "doubled, odd or trailing spaces", "Cleaning mends them."),
}
SEVERITIES = ("fault", "warning", "info")
FAULTS = tuple(kind for kind, about in KINDS.items() if about.severity == "fault")
WARNINGS = tuple(kind for kind, about in KINDS.items() if about.severity == "warning")
DROPPED = tuple(kind for kind in WARNINGS if kind not in ("very_long", "not_english", "repetitive"))
