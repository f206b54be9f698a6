"""How a story is told: loading a model, named decoding presets, streaming to the terminal, and mending a story's look.

`storytelling.py` tells many stories at once, for evaluation.
"""

import copy
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from transformers import (
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TextStreamer,
    set_seed,
)

from .native import accelerated
from .presets import (  # noqa: F401  part of this interface
    COLDEST,
    GREEDY,
    PRESETS,
    check_preset,
    check_sampling,
    room_for_story,
)
from .prompts import encode_prompt


def preset_config(preset: str, tokenizer: PreTrainedTokenizerBase, max_new_tokens: int) -> GenerationConfig:
    """The `GenerationConfig` of a preset or of "greedy". A story ends by itself or after `max_new_tokens`."""
    return GenerationConfig(
        do_sample=preset != GREEDY,
        **PRESETS.get(preset, {}),
        max_new_tokens=max_new_tokens,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def stop_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Every id that ends a story: the tokenizer's, and those of the model's own generation config."""
    of_model = model.generation_config.eos_token_id
    candidates = [tokenizer.eos_token_id, *(of_model if isinstance(of_model, list) else [of_model])]
    return sorted({index for index in candidates if index is not None})


@contextmanager
def generating_as(config: GenerationConfig, model: PreTrainedModel) -> Iterator[None]:
    """Within the block the model is in evaluation mode, fast where it can be, and `config` is its own; afterwards all
    is as it was.

    `generate` fills what its config leaves open from the model's own: a greedy story would take its penalty.
    """
    modes = [(module, module.training) for module in model.modules()]
    own = model.generation_config
    model.eval()
    model.generation_config = config
    try:
        with accelerated(model):
            yield
    finally:
        model.generation_config = own
        for module, training in modes:
            module.training = training


def tell_story(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    *,
    preset: str | None = None,
    sampling: Mapping[str, float] | None = None,
    max_new_tokens: int | None = None,
    seed: int | None = None,
    stream: bool = False,
) -> str:
    """Generate a completion of `prompt` and return both; with `stream`, print the text as it is generated.

    Args:
        preset: sampling settings by name; by default those of the model's own `generation_config.json`, or "balanced"
            where that does not sample.
        sampling: what replaces some of them: `temperature` (0 is greedy decoding), `top_k`, `top_p` and
            `repetition_penalty`.
        max_new_tokens: at most so many; by default the remaining context length.
        seed: the same seed generates the same text on the same machine.

    Raises:
        UserError: where the prompt leaves no room in the context, `max_new_tokens` asks for more than there is, or a
            setting is out of range.
    """
    check_sampling(preset, sampling or {})
    ids = torch.tensor([encode_prompt(tokenizer, prompt)], device=model.device)
    room = room_for_story(model.config.max_position_embeddings, ids.shape[1], max_new_tokens)
    if preset is None and model.generation_config.do_sample:
        config = copy.deepcopy(model.generation_config)
        config.max_length, config.max_new_tokens = None, room
    else:
        config = preset_config(preset or "balanced", tokenizer, room)
        config.eos_token_id = stop_ids(model, tokenizer) or None
    for name, value in (sampling or {}).items():
        setattr(config, name, value)
    if config.do_sample and config.temperature is not None and config.temperature < COLDEST:
        config.do_sample, config.temperature, config.top_k, config.top_p = False, 1.0, 50, 1.0
    if seed is not None:
        set_seed(seed)
    streamer = TextStreamer(tokenizer, skip_special_tokens=True) if stream else None
    with generating_as(config, model):
        output = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config, streamer=streamer)
    return tokenizer.decode(output[0], skip_special_tokens=True)


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
