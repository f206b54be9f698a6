"""Check a tokenizer: its special tokens, what it adds to prompts, and how it encodes stories."""

import math

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tinystories.tokenization import PAD, tokenizer_report

from ..evaluation.articles import ARTICLES
from ..generation.prompts import added_tokens
from ..utils.console import counted
from .batch_contents import START_ADVICE
from .findings import Finding, as_check, error, inconclusive, note, ok
from .forward import embedding_count


# Bytes per token on TinyStories by size of vocabulary, as measured on the same held-out stories: byte-level BPE
# trained on stories (4,096 and 10,000), GPT-2's and Llama 2's.
USUAL_BYTES = {4_096: 3.96, 10_000: 4.10, 32_000: 3.77, 50_257: 4.06}
ALIKE = 2.2  # factor between the sizes of vocabularies that are compared
DECODED = 200  # stories that are decoded again


@as_check("vocabulary size")
def check_vocabulary(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel | None = None) -> Finding:
    """Compare the size of the vocabulary with the embeddings of a model."""
    size = len(tokenizer)
    if model is None:
        return ok(f"{size:,} entries")
    count, parameters = embedding_count(model), model.num_parameters()
    highest = max(tokenizer.get_vocab().values())
    if highest >= count:
        return error(
            f"the tokenizer has ids up to {highest:,}, but the model has {count:,} embeddings",
            "Use the tokenizer of this model, or resize_token_embeddings.",
        )
    fraction = sum(weight.numel() for weight in model.get_input_embeddings().parameters()) / parameters
    evidence = f"{size:,} entries; {count:,} embeddings, {fraction:.0%} of the {parameters:,} parameters"
    if count - size > 0.1 * count:
        return note(evidence, "The model has embeddings that no token uses.")
    if fraction > 0.5:
        return note(evidence, "A smaller vocabulary leaves more parameters for the layers; 10,000 suits stories.")
    return ok(evidence)


@as_check("articles")
def check_articles(tokenizer: PreTrainedTokenizerBase) -> Finding:
    """Whether " a", " an" and " the" are single tokens, and "A", "An" and "The" at the beginning of a sentence."""

    def tokens(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    articles = sorted(ARTICLES)
    # Each after a word, because some tokenizers add a space before a text.
    counts = {f'" {word}"': tokens(f"saw {word}") - tokens("saw") for word in articles}
    counts |= {f'". {word.title()}"': tokens(f"ran. {word.title()}") - tokens("ran.") for word in articles}
    counts |= {f'"{word.title()}"': tokens(word.title()) for word in articles}
    several = ", ".join(f"{place} ({count} tokens)" for place, count in counts.items() if count != 1)
    if not several:
        return ok('"a", "an" and "the" are single tokens, also when capitalised')
    return note(
        f"not single tokens: {several}",
        "A vocabulary trained on the stories has single tokens for articles; split articles cost more tokens, but do "
        "not cause omissions.",
    )


@as_check("bytes per token")
def check_tokens(tokenizer: PreTrainedTokenizerBase, stories: list[str]) -> list[Finding]:
    """Bytes per token, text lost by encoding, and the fraction of the vocabulary that these stories use."""
    report = tokenizer_report(tokenizer, stories)
    return [
        _check_bytes_per_token(report["bytes_per_token"], report["vocab_size"], len(stories)),
        _check_unused(report["unused_tokens"], report["vocab_size"], report["tokens"]),
        *check_lost_text(tokenizer, stories[:DECODED]),
    ]


def _check_bytes_per_token(bytes_per_token: float, size: int, stories: int) -> Finding:
    known = min(USUAL_BYTES, key=lambda other: abs(math.log(other / size)))
    usual = USUAL_BYTES[known]
    evidence = f"{bytes_per_token:.2f} with {size:,} entries, measured on {counted(stories, 'story')}"
    if not 1 / ALIKE < size / known < ALIKE:
        return ok(evidence)
    evidence += f" (usual: {usual:.2f} with {known:,} entries)"
    if bytes_per_token < 0.85 * usual:
        advice = "The vocabulary was not trained on similar text: train one with `tinystories tokenizer`."
        return note(evidence, advice)
    return ok(evidence)


def _check_unused(unused: int, size: int, tokens: int) -> Finding:
    check = "unused vocabulary"
    evidence = f"{unused:,} of {size:,} entries ({unused / size:.0%}) do not occur in {tokens:,} tokens"
    enough = tokens >= 50 * size or (tokens >= 5 * size and unused > 0.5 * size)
    if not enough:
        return inconclusive(f"{evidence}: the sample is too small", check=check)
    if unused > 0.2 * size:
        advice = "Train a tokenizer on the stories, or prune this one with `tinystories tokenizer --top-k-of`."
        return note(evidence, advice, check=check)
    return ok(evidence, check=check)


@as_check("round trip")
def check_lost_text(tokenizer: PreTrainedTokenizerBase, stories: list[str]) -> Finding:
    """Whether stories are the same after encoding and decoding."""
    encoded = tokenizer(stories, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
    unknown = tokenizer.unk_token_id
    missing = sum(unknown in ids for ids in encoded) if unknown is not None else 0
    if missing:
        judge = error if missing > 0.01 * len(stories) else note
        return judge(
            f"{missing:,} of {counted(len(stories), 'story')} contain text that is encoded as {tokenizer.unk_token}",
            "Use a byte-level vocabulary, which can encode all text.",
        )
    decoded = tokenizer.batch_decode(encoded, clean_up_tokenization_spaces=False)
    # SentencePiece adds a space before a text, which loses nothing.
    changed = sum(text.strip() != story.strip() for text, story in zip(decoded, stories, strict=True))
    if changed:
        return note(
            f"{changed:,} of {counted(len(stories), 'story')} changed by encoding and decoding",
            "Case, accents or spaces are lost, so a model cannot learn to generate them.",
        )
    return ok(f"{counted(len(stories), 'story')} unchanged by encoding and decoding")


@as_check("special tokens")
def check_special_tokens(tokenizer: PreTrainedTokenizerBase, in_recipe: bool = False) -> Finding:
    """Whether the tokenizer has the special tokens that packed rows need.

    Args:
        in_recipe: it is the tokenizer of a recipe, which training completes.
    """
    tokens = {name: getattr(tokenizer, name) for name in ("bos_token", "eos_token", "pad_token")}
    missing = [name for name, token in tokens.items() if token is None]
    evidence = f"there is no {' and no '.join(missing)}"
    if "eos_token" in missing:
        return error(evidence, "Add it, or train a tokenizer with `tinystories tokenizer`.")
    if missing and in_recipe:
        added = {"bos_token": f"begins stories with {tokenizer.eos_token}", "pad_token": f"adds {PAD}"}
        return note(f"{evidence}; `tinystories train` {' and '.join(added[name] for name in missing)}")
    if missing:
        values = {"bos_token": tokenizer.eos_token, "pad_token": PAD}
        code = f"tokenizer.add_special_tokens({ {name: values[name] for name in missing} })"
        return error(evidence, f"`tinystories train` adds what is missing; for other trainers, `{code}`.")
    if tokenizer.pad_token_id == tokenizer.eos_token_id:
        evidence = f"pad_token and eos_token are both {tokenizer.eos_token!r}"
        return error(evidence, "Add a separate pad token to the tokenizer.")
    return ok(", ".join(f"{name} {token!r}" for name, token in tokens.items()))


@as_check("end of a prompt")
def check_prompt_ends(tokenizer: PreTrainedTokenizerBase) -> Finding:
    """Whether the tokenizer appends something to a prompt; after an EOS token, the model does not continue it."""
    _, behind = added_tokens(tokenizer)
    if not behind:
        return ok("the tokenizer appends nothing to a prompt")
    names = " ".join(tokenizer.convert_ids_to_tokens(behind))
    return error(
        f"the tokenizer appends {names!r} to every prompt, after which the model does not continue the prompt",
        "Remove this token from the post-processor in tokenizer.json, and set add_eos_token to false in "
        "tokenizer_config.json. The commands of this package remove it from prompts; `pipeline` and other tools do "
        "not.",
    )


@as_check("beginning of a prompt")
def check_prompt_start(tokenizer: PreTrainedTokenizerBase, trained: list[int]) -> Finding:
    """Whether a prompt begins with `trained`, the tokens with which stories begin in training."""
    front, _ = added_tokens(tokenizer)
    wanted, given = (" ".join(tokenizer.convert_ids_to_tokens(ids)) or "nothing" for ids in (trained, front))
    if front == trained:
        return ok(f"prompts begin with {given}, as stories do in training")
    return error(
        f"the tokenizer adds {given} in front of prompts, but in training, stories begin with {wanted}",
        START_ADVICE.replace("it", wanted, 1)
        if trained
        else "Remove this token from the post-processor in tokenizer.json.",
    )
