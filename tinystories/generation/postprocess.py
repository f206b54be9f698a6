"""Cleaning a generated story for readers: spaces, capitals and the final full stop."""

import re


# Spaces before a mark go, but not before "...", ".5" or ":)".
_SPACE_BEFORE_MARK = re.compile(r" +(?=[,!?]|[;:](?:[\s\"“”]|$)|\.(?!\.)(?:[\s\"”’')]|$))")
# "Hello,she", "Stop!she" and "home.She" lack a space; "3,5", "a.m." and "U.S." do not.
_NO_SPACE_AFTER_MARK = re.compile(
    r"(?<=[^\W\d_][,;!?])(?=[^\W\d_]{2}|[aiAI]\b)|(?<=[a-zß-öø-ÿ]\.)(?=[A-ZÀ-ÖØ-Þ][a-zß-öø-ÿ]|[AI]\b)"
)
_SMALL_I = re.compile(r"(?<![\w.'’-])i(?=$|[\s,!?;:…\"”]|\.(?!\w)|['’](?:m|ll|ve|d)\b)")
# Where a sentence begins: at the beginning, after a full stop that is no ellipsis, and on a new line after the end of
# a sentence or of speech. After speech on the same line the sentence goes on: "Hello!" she said.
_SENTENCE_START = re.compile(
    r"""(?:\A | (?<![.…])(?P<stop>[.!?])[)\]]?\s+ | (?<![.…])[.!?]["”'’]\n+) ["“'‘(\[]* (?P<letter>[^\W\d_])""",
    re.VERBOSE,
)
_ABBREVIATIONS = frozenset({"mr", "mrs", "ms", "dr", "st", "prof", "jr", "sr", "mt", "vs", "etc"})


def post_process(text: str) -> str:
    """Mend the look of a story, and never its words: spaces, capitals and the full stop at the end.

    Runs of spaces become one and runs of empty lines one empty line. Spaces before a mark go, missing ones after it
    come; straight quotes lose the spaces inside them where it is clear which of them open and which close. Sentences
    and the word "I" get their capital, and the text its last full stop. Nothing is ever made small: names stay.
    A text that needs nothing of this comes back as it is, and so does one that was mended before.

    For readers only. Whatever scores grammar must see the text as the model wrote it: capitals and full stops that
    were forced on it would be scored as the model's own.
    """
    text = re.sub(r"[^\S\n]+", " ", text.replace("\r\n", "\n").replace("\r", "\n"))
    text = re.sub(r"\n{3,}", "\n\n", re.sub(r" ?\n ?", "\n", text)).strip()
    text = _NO_SPACE_AFTER_MARK.sub(" ", _SPACE_BEFORE_MARK.sub("", text))
    text = _mend_end("\n".join(map(_mend_quotes, text.split("\n"))))
    return _SENTENCE_START.sub(_capital, _SMALL_I.sub("I", text))


def _mend_quotes(line: str) -> str:
    """Spaces around the double quotes of a line, which open and close in turn; where one contradicts that, none."""
    line = re.sub(r"(?:^|(?<= ))“ +", "“", re.sub(r" +”(?= |$)", "”", line))
    pieces = line.split('"')
    mended = [pieces[0]]
    for number, (before, after) in enumerate(zip(pieces, pieces[1:], strict=False)):
        opens = number % 2 == 0
        left, right = before[-1:], after[:1]
        looks_open = left in ("", *" (['‘“-–—") and right.isalnum()
        looks_closed = left not in ("", *" (['‘“-–—") and (not right or not right.isalnum())
        if (looks_closed if opens else looks_open) or not (before or number == 0):
            return line
        if opens:
            mended[-1] += " " if left.isalnum() or left in tuple(",.!?;:") else ""
            mended.append(after.lstrip(" "))
        else:
            mended[-1] = mended[-1].rstrip(" ")
            mended.append(" " + after if right.isalnum() else after)
    return '"'.join(mended)


def _capital(start: re.Match) -> str:
    """The beginning of a sentence with a capital, unless the stop before it is that of "Mr." or of an initial."""
    letter = start["letter"]
    if start["stop"] == ".":
        word = re.search(r"\w*$", start.string[max(0, start.start() - 20) : start.start()])[0]
        if word.lower() in _ABBREVIATIONS or (len(word) == 1 and word.isalpha() and word not in "Ii"):
            return start[0]
    # Some letters have no capital of their own: "ﬁ" becomes two letters, and "ı" the capital of another.
    return start[0][:-1] + letter.upper() if letter.upper().lower() == letter else start[0]


def _mend_end(text: str) -> str:
    """A full stop at the end, within quotes and after brackets; a comma there becomes one. Other signs are left."""
    speech_in_single_quotes = re.search(r"""(?:^|[\s("“])['‘]\w""", text)
    body = text.rstrip("\"”)]'’" if speech_in_single_quotes else '"”)]')
    tail = text[len(body) :]
    if body.endswith((",", ";", ":")) and not tail.startswith(")"):
        return body[:-1].rstrip() + "." + tail
    if not re.search(r"[^\W_]['’]?$", body):
        return text
    return text + "." if tail.endswith((")", "]")) else body + "." + tail
