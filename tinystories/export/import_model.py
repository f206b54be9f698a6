"""A model of others as a run folder: what kind it is, the folder, and the proof that it is the same model.

Design decisions
- **The source is told by what is in it**, never by its name: a zip is a checkpoint of torch, `ak42` or a header that
  fits the length is a model of llama2.c, a folder says in its `config.json` what it is.
- **A model comes with its tokenizer or not at all**: one without the other is of no use, and the wrong one is worse.
- **Checked before it is there.** The folder is written beside its place, loaded back, and its logits and tokens are
  compared with those of the source; only then it is moved to its place.
- **Asked what it has learnt.** The importer scores a few of the built-in stories one token and two tokens ahead. A
  model of labels that were shifted twice is written all the same, and the user is told.
"""

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from modeling_tinyllama import TinyLlamaForCausalLM
from tinystories.tokenization import PreTrainedTokenizerFast, vocabulary_size

from ..data.synthetic import sample_stories
from ..evaluation.likelihood import loss_ahead
from ..generation.generate import preset_config
from ..runs.loading import load_tokenizer
from ..utils.errors import UserError
from .llama2c import KINDS, Header, load_llama2c, read_header
from .sentencepiece import alternative_to, end_with, find_piece_tokenizer, load_piece_tokenizer
from .stock import TOLERANCE, check_out, compare, from_stock, load_stock, written_beside
from .wikimini import load_wikimini, load_wikimini_tokenizer


logger = logging.getLogger(__name__)

STORIES_SCORED = 6
# In tokens: at two of them, nothing stands two ahead.
SHORTEST_CONTEXT = 3
# In nats. A model that has not learnt anything yet is equally bad at both distances, give or take a little.
CLEAR = 0.1
# To see which token ends a text.
SAMPLES = 8
SURE = 0.2
LONGEST_SAMPLE = 1024


@dataclass(frozen=True)
class Source:
    """A model and its tokenizer as they were read."""

    kind: str
    model: TinyLlamaForCausalLM
    tokenizer: PreTrainedTokenizerBase
    reference: PreTrainedModel
    """What the folder is compared with: the model of transformers, or ours where there is none."""


@dataclass(frozen=True)
class Import:
    """What `import_model` wrote, and what was found."""

    folder: Path
    kind: str
    parameters: int
    dtype: torch.dtype
    positions: int
    """Positions at which the logits were compared."""
    difference: float
    """The largest difference between two logits there."""
    next_token_loss: float
    """Nats a token on built-in stories."""
    two_ahead_loss: float
    """The same for the token after the next one."""
    vocab_size: int

    @property
    def shifted_twice(self) -> bool:
        """Whether it clearly predicts the token after the next one, and has learnt something at all."""
        return self.two_ahead_loss < min(self.next_token_loss, math.log(self.vocab_size)) - CLEAR


def import_model(source: str | Path, out: str | Path, tokenizer: str | Path | None = None) -> Import:
    """Write the model in `source` to the folder `out`, as a TinyLlama.

    Args:
        source: a `.pth` checkpoint of the WikiMini model, a `.bin` model of llama2.c, or a folder (or model on the
            Hub) of transformers' Llama or Phi-3.
        tokenizer: where the tokenizer is, if not in the folder, or beside the file under its usual name.

    Raises:
        UserError: where the source cannot be read, or `out` is not empty; then nothing is written.
    """
    out = Path(out)
    check_out(out)
    read = read_source(source, tokenizer)
    model = read.model
    entries = vocabulary_size(read.tokenizer)
    if entries > model.config.vocab_size:
        raise UserError(
            f"The tokenizer has {entries:,} entries and the model {model.config.vocab_size:,}: they do not belong "
            f"together."
        )
    if model.config.max_position_embeddings < SHORTEST_CONTEXT:
        raise UserError(
            f"The context of the model in {source} is {model.config.max_position_embeddings} tokens, which is too "
            f"short to tell anything of it: {SHORTEST_CONTEXT} is the least."
        )
    stories = list(islice(sample_stories(STORIES_SCORED), STORIES_SCORED))
    parameters, dtype = model.num_parameters(), model.dtype
    losses = [loss_ahead(model, read.tokenizer, stories, distance) for distance in (1, 2)]
    with written_beside(out) as folder:
        model.save_pretrained(folder)
        read.tokenizer.save_pretrained(folder)
        difference, positions = compare(read.reference, read.tokenizer, folder)
        if not difference <= TOLERANCE:
            raise UserError(
                f"Loaded back, the model does not give the logits of {source} (largest difference {difference:.1e}, "
                f"allowed {TOLERANCE:.0e}), so nothing was written to {out}."
            )
    return Import(
        folder=out,
        kind=read.kind,
        parameters=parameters,
        dtype=dtype,
        positions=positions,
        difference=difference,
        next_token_loss=losses[0],
        two_ahead_loss=losses[1],
        vocab_size=model.config.vocab_size,
    )


def read_source(source: str | Path, tokenizer: str | Path | None = None) -> Source:
    """The model and the tokenizer in `source`, for which the arguments are those of [`import_model`].

    Raises:
        UserError: where they cannot be read.
    """
    return _reader(Path(source))(source, tokenizer)


def _reader(source: Path) -> Callable[[str | Path, str | Path | None], Source]:
    """What reads this source."""
    if not source.is_file():
        if not source.exists() and (source.is_absolute() or len(source.parts) != 2):
            raise UserError(f"There is no file or folder {source}.")
        if source.is_dir() and not (source / "config.json").exists():
            raise UserError(f"{source} is no model folder: it has no config.json. A checkpoint is named by its file.")
        return _read_stock
    with source.open("rb") as file:
        start = file.read(9)
    if start.startswith(b"PK\x03\x04"):
        return _read_wikimini
    if start.startswith(b"GGUF"):
        raise UserError(f"{source} is a GGUF file, which cannot be imported: give the model that it was made from.")
    if start[8:9] == b"{" or source.suffix == ".safetensors":
        raise UserError(f"{source} holds weights and no configuration: give the folder that it lies in.")
    return _read_llama2c


def _read_wikimini(source: str | Path, tokenizer: str | Path | None) -> Source:
    source = Path(source)
    beside = source.parent / "tokenizer.json"
    if tokenizer is None and not beside.is_file():
        raise UserError(f"There is no tokenizer.json beside {source}: name it, or its folder, with --tokenizer.")
    model = load_wikimini(source)
    context = model.config.max_position_embeddings
    words = load_wikimini_tokenizer(tokenizer or beside, context)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(model.config, name, getattr(words, name))
    model.generation_config = preset_config("balanced", words, max_new_tokens=context * 3 // 4)
    return Source("WikiMini checkpoint", model, words, model)


def _read_llama2c(source: str | Path, tokenizer: str | Path | None) -> Source:
    source = Path(source)
    header = read_header(source)
    words = _llama2c_tokenizer(source, header, tokenizer)
    model = load_llama2c(source)
    # llama2.c trains on `<s> story <s> story`, but a model of Meta in its format ends with `</s>`.
    specials = {i: token.content for i, token in words.added_tokens_decoder.items() if i != words.unk_token_id}
    ends = Counter(_own_ends(model, words, list(specials)))
    if ends and (likeliest := ends.most_common(1)[0])[1] > SAMPLES / 2:
        end_with(words, specials[likeliest[0]])
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(model.config, name, getattr(words, name))
    generation = preset_config("plain", words, max_new_tokens=header.seq_len * 3 // 4)
    others = [token for token in specials if token not in (words.eos_token_id, words.pad_token_id)]
    generation.eos_token_id = [words.eos_token_id, *others]
    model.generation_config = generation
    return Source(f"llama2.c, {KINDS[header.version]}", model, words, model)


def _llama2c_tokenizer(source: Path, header: Header, named: str | Path | None) -> PreTrainedTokenizerFast:
    """The tokenizer that is `named`, as a file or a folder, or else the one beside the model."""
    vocab_size, context = header.vocab_size, header.seq_len
    folder = source.parent if named is None else Path(named)
    if named is not None and not folder.is_dir():
        return load_piece_tokenizer(named, vocab_size, context)
    file, names = find_piece_tokenizer(folder, vocab_size)
    if file is None:
        where = f"beside {source}" if named is None else f"in {folder}"
        raise UserError(f"There is no {', '.join(names[:-1])} or {names[-1]} {where}: name the tokenizer's file with "
                        f"--tokenizer.")  # fmt: skip
    words = load_piece_tokenizer(file, vocab_size, context)
    other = alternative_to(file, vocab_size)
    if other is not None:
        trained_with = load_piece_tokenizer(other, vocab_size, context)
        for story in sample_stories(STORIES_SCORED):
            if trained_with(story, verbose=False)["input_ids"] != words(story, verbose=False)["input_ids"]:
                logger.warning("%s does not encode as %s does, which is taken instead.", file.name, other.name)
                return trained_with
    return words


@torch.no_grad()
def _own_ends(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tokens: list[int]) -> Iterator[int]:
    """Which of the tokens ends each of some texts that the model samples, where it is sure of that token."""
    begin = torch.full((SAMPLES, 1), tokenizer.bos_token_id)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        rows = model.generate(
            begin,
            attention_mask=torch.ones_like(begin),
            do_sample=True,
            top_k=0,
            max_length=min(model.config.max_position_embeddings, LONGEST_SAMPLE),
            eos_token_id=tokens,
            pad_token_id=tokenizer.pad_token_id,
        )
    for row in rows:
        place = next((i for i, token in enumerate(row.tolist()) if i and token in tokens), None)
        if place is not None:
            chance = model(row[None, :place]).logits[0, -1].float().softmax(-1)[row[place]]
            if chance > SURE:
                yield row[place].item()


def _read_stock(source: str | Path, tokenizer: str | Path | None) -> Source:
    stock = load_stock(source)
    words = _stock_tokenizer(source, stock, None if tokenizer is None else Path(tokenizer))
    return Source(type(stock).__name__, from_stock(stock), words, stock)


def _stock_tokenizer(source: str | Path, stock: PreTrainedModel, named: Path | None) -> PreTrainedTokenizerBase:
    """The tokenizer in the model's folder or on the Hub, or the one that is named: a folder, or a file of its own."""
    if named is None or named.is_dir() or not (named.exists() or named.suffix in (".json", ".model", ".bin")):
        return load_tokenizer(str(named or source))
    if not named.is_file():
        raise UserError(f"There is no tokenizer {named}.")
    if named.suffix == ".json":
        if named.name != "tokenizer.json":
            raise UserError(f"{named} is not named tokenizer.json: give the folder that the tokenizer lies in.")
        return load_tokenizer(str(named.parent))
    words = load_piece_tokenizer(named, stock.config.vocab_size, stock.config.max_position_embeddings)
    ends = stock.config.eos_token_id
    end = words.convert_ids_to_tokens(ends[0] if isinstance(ends, list) else ends) if ends not in (None, -1) else None
    if end is not None:
        end_with(words, end)
    return words
