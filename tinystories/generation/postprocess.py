"""Correct spaces, capitals and the final full stop of a generated story, for readers."""

import re


# Spaces before punctuation are removed, but not before "...", ".5" or ":)".
_SPACE_BEFORE_MARK = re.compile(r" +(?=[,!?]|[;:](?:[\s\"“”]|$)|\.(?!\.)(?:[\s\"”’')]|$))")
# "Hello,she", "Stop!she" and "home.She" lack a space; "3,5", "a.m." and "U.S." do not.
_NO_SPACE_AFTER_MARK = re.compile(
    r"(?<=[^\W\d_][,;!?])(?=[^\W\d_]{2}|[aiAI]\b)|(?<=[a-zß-öø-ÿ]\.)(?=[A-ZÀ-ÖØ-Þ][a-zß-öø-ÿ]|[AI]\b)"
)
_SMALL_I = re.compile(r"(?<![\w.'’-])i(?=$|[\s,!?;:…\"”]|\.(?!\w)|['’](?:m|ll|ve|d)\b)")
# A sentence begins at the start of the text, after a full stop that is not part of an ellipsis, and on a new line
# after the end of a sentence or of speech. On the same line, speech continues the sentence: "Hello!" she said.
_SENTENCE_START = re.compile(
    r"""(?:\A | (?<![.…])(?P<stop>[.!?])[)\]]?\s+ | (?<![.…])[.!?]["”'’]\n+) ["“'‘(\[]* (?P<letter>[^\W\d_])""",
    re.VERBOSE,
)
_ABBREVIATIONS = frozenset({"mr", "mrs", "ms", "dr", "st", "prof", "jr", "sr", "mt", "vs", "etc"})


def post_process(text: str) -> str:
    """Correct the spaces, the capitals and the final full stop of a story; its words stay as they are.

    - Repeated spaces and empty lines become one. Spaces before punctuation are removed, and missing ones after it are
      inserted. Spaces inside straight quotes are removed where it is clear which quotes open and which close.
    - Sentences and the word "I" get a capital, and the text a final full stop. Capitals are never removed.
    - It is idempotent.

    Metrics must not use it: they would score its capitals and full stops as the model's own.
    """
    text = re.sub(r"[^\S\n]+", " ", text.replace("\r\n", "\n").replace("\r", "\n"))
    text = re.sub(r"\n{3,}", "\n\n", re.sub(r" ?\n ?", "\n", text)).strip()
    text = _NO_SPACE_AFTER_MARK.sub(" ", _SPACE_BEFORE_MARK.sub("", text))
    text = _end_sentence("\n".join(map(_space_quotes, text.split("\n"))))
    return _SENTENCE_START.sub(_capital, _SMALL_I.sub("I", text))


def _space_quotes(line: str) -> str:
    """Correct the spaces around double quotes, if they open and close alternately throughout the line."""
    line = re.sub(r"(?:^|(?<= ))“ +", "“", re.sub(r" +”(?= |$)", "”", line))
    pieces = line.split('"')
    spaced = [pieces[0]]
    for number, (before, after) in enumerate(zip(pieces, pieces[1:], strict=False)):
        opens = number % 2 == 0
        left, right = before[-1:], after[:1]
        looks_open = left in ("", *" (['‘“-–—") and right.isalnum()
        looks_closed = left not in ("", *" (['‘“-–—") and (not right or not right.isalnum())
        if (looks_closed if opens else looks_open) or not (before or number == 0):
            return line
        if opens:
            spaced[-1] += " " if left.isalnum() or left in tuple(",.!?;:") else ""
            spaced.append(after.lstrip(" "))
        else:
            spaced[-1] = spaced[-1].rstrip(" ")
            spaced.append(" " + after if right.isalnum() else after)
    return '"'.join(spaced)


def _capital(start: re.Match) -> str:
    """Capitalize the beginning of a sentence, unless the stop before it belongs to an abbreviation or an initial."""
    letter = start["letter"]
    if start["stop"] == ".":
        word = re.split(r"\W", start.string[max(0, start.start() - 20) : start.start()])[-1]
        if word.lower() in _ABBREVIATIONS or (len(word) == 1 and word.isalpha() and word not in "Ii"):
            return start[0]
    # The capital of "ﬁ" is two letters, and that of "ı" is the capital of another letter.
    return start[0][:-1] + letter.upper() if letter.upper().lower() == letter else start[0]


def _end_sentence(text: str) -> str:
    """Add a final full stop, inside quotes and after brackets; a final comma, semicolon or colon becomes one."""
    speech_in_single_quotes = re.search(r"""(?:^|[\s("“])['‘]\w""", text)
    body = text.rstrip("\"”)]'’" if speech_in_single_quotes else '"”)]')
    tail = text[len(body) :]
    if body.endswith((",", ";", ":")) and not tail.startswith(")"):
        return body[:-1].rstrip() + "." + tail
    if not re.search(r"[^\W_]['’]?$", body):
        return text
    return text + "." if tail.endswith((")", "]")) else body + "." + tail
