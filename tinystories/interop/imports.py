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

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from modeling_tinyllama import TinyLlamaForCausalLM

from ..decoding import load_tokenizer, preset_config
from ..errors import UserError
from ..objective import loss_ahead
from ..sample import sample_stories
from .llama2c import KINDS, load_llama2c, load_llama2c_tokenizer, read_header
from .stock import TOLERANCE, check_out, compare, from_stock, load_stock, written_beside
from .wikimini import load_wikimini, load_wikimini_tokenizer


STORIES_SCORED = 6
# In tokens: at two of them, nothing stands two ahead.
SHORTEST_CONTEXT = 3
# In nats. A model that has not learnt anything yet is equally bad at both distances, give or take a little.
CLEAR = 0.1


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
    read = _reader(Path(source))(source, tokenizer)
    model = read.model
    entries = 1 + max(read.tokenizer.get_vocab().values())
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
        raise UserError(f"There is no tokenizer beside {source}: name the folder that it lies in with --tokenizer.")
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
    usual = [source.parent / name for name in (f"tok{header.vocab_size}.bin", "tokenizer.bin")]
    if tokenizer is None:
        tokenizer = next((file for file in usual if file.is_file()), None)
    if tokenizer is None:
        names = " or ".join(file.name for file in usual)
        raise UserError(f"There is no {names} beside {source}: name the tokenizer's file with --tokenizer.")
    words = load_llama2c_tokenizer(tokenizer, header.vocab_size, header.seq_len)
    model = load_llama2c(source)
    generation = preset_config("plain", words, max_new_tokens=header.seq_len * 3 // 4)
    generation.eos_token_id = [words.eos_token_id, words.bos_token_id]
    model.generation_config = generation
    return Source(f"llama2.c, {KINDS[header.version]}", model, words, model)


def _read_stock(source: str | Path, tokenizer: str | Path | None) -> Source:
    stock = load_stock(source)
    words = load_tokenizer(str(tokenizer or source))
    return Source(type(stock).__name__, from_stock(stock), words, stock)
