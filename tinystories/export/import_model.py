"""Import a model of another format as a run folder.

- The content of the source determines its format: a zip file is a torch checkpoint, a file with the magic number
  `ak42` or a header that matches the file size is a llama2.c model, and a folder has the architecture in its
  `config.json`.
- The folder is written next to its destination, loaded back and compared with the source before it is moved there.
- The loss on built-in stories is measured one and two tokens ahead, to detect models trained on labels that were
  shifted twice; these are imported nevertheless, with a warning.
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
from tinystories.tokenization import PreTrainedTokenizerFast

from ..data.synthetic import sample_stories
from ..evaluation.likelihood import loss_ahead
from ..generation.generate import default_new_tokens, preset_config
from ..runs.download import may_be_hub_id
from ..runs.loading import load_tokenizer
from ..utils.errors import UserError
from ..utils.paths import refuse_special_file, require_new_folder, require_readable, staged
from .llama2c import FORMATS, Header, is_llama2c, load_llama2c, read_header
from .piece_files import alternative_to, find_piece_tokenizer
from .sentencepiece import load_piece_tokenizer, set_eos_token
from .stock import from_stock, load_stock
from .verify import TOLERANCE, Verified, check_difference, check_vocabulary, compare
from .wikimini import load_wikimini, load_wikimini_tokenizer


logger = logging.getLogger(__name__)

STORIES_SCORED = 6
SHORTEST_CONTEXT = 3  # tokens: with two, the loss two tokens ahead cannot be measured
CLEAR_DIFFERENCE = 0.1  # nats per token; an untrained model is about equally bad at both distances
# For finding the EOS token of a llama2.c model: texts sampled, their length, and the probability that counts as clear.
SAMPLES = 8
LONGEST_SAMPLE = 1024  # tokens
SURE = 0.2


@dataclass(frozen=True)
class Source:
    """A model and its tokenizer.

    Attributes:
        kind: name of the format, for messages.
        reference: the model that the imported one is compared with: transformers' own model, if there is one.
    """

    kind: str
    model: TinyLlamaForCausalLM
    tokenizer: PreTrainedTokenizerBase
    reference: PreTrainedModel


@dataclass(frozen=True)
class Import(Verified):
    """Result of `import_model`.

    Attributes:
        next_token_loss: in nats per token, on built-in stories.
        two_ahead_loss: the same for the token after the next one.
    """

    folder: Path
    kind: str
    dtype: torch.dtype
    next_token_loss: float
    two_ahead_loss: float
    vocab_size: int

    @property
    def shifted_twice(self) -> bool:
        """Whether the model clearly predicts the token after the next one, and better than chance."""
        return self.two_ahead_loss < min(self.next_token_loss, math.log(self.vocab_size)) - CLEAR_DIFFERENCE


def import_model(source: str | Path, out: str | Path, tokenizer: str | Path | None = None) -> Import:
    """Write the model in `source` to the folder `out` as a TinyLlama.

    Args:
        source: a `.pth` checkpoint of karthyick/llm_tinystories, a `.bin` model of llama2.c, or a Llama or Phi-3 of
            transformers in a folder or on the Hub.
        tokenizer: path of the tokenizer, if it is not in the folder, or next to the file under its usual name.

    Raises:
        UserError: if the source cannot be read, or `out` is not empty. Then nothing is written.
    """
    out = Path(out)
    require_new_folder(out)
    read = read_source(source, tokenizer)
    model, context = read.model, read.model.config.max_position_embeddings
    check_vocabulary(read.tokenizer, model.config.vocab_size, source)
    if context < SHORTEST_CONTEXT:
        raise UserError(f"The context length of the model in {source} is {context}; at least {SHORTEST_CONTEXT} is "
                        f"needed.")  # fmt: skip
    stories = list(islice(sample_stories(STORIES_SCORED), STORIES_SCORED))
    parameters, dtype = model.num_parameters(), model.dtype
    next_token_loss, two_ahead_loss = (loss_ahead(model, read.tokenizer, stories, distance) for distance in (1, 2))
    with staged(out) as folder:
        model.save_pretrained(folder)
        read.tokenizer.save_pretrained(folder)
        difference, positions = compare(read.reference, read.tokenizer, folder)
        check_difference(difference, TOLERANCE, "The imported model", source, out)
    return Import(
        parameters=parameters,
        positions=positions,
        difference=difference,
        folder=out,
        kind=read.kind,
        dtype=dtype,
        next_token_loss=next_token_loss,
        two_ahead_loss=two_ahead_loss,
        vocab_size=model.config.vocab_size,
    )


class UnknownFormatError(UserError):
    """A file that no reader of this module recognises."""


def read_source(source: str | Path, tokenizer: str | Path | None = None) -> Source:
    """Read the model and the tokenizer of [`import_model`]'s arguments.

    Raises:
        UserError: if they cannot be read.
    """
    for path in (source, tokenizer):
        if path is not None:
            refuse_special_file(path)
            if Path(path).exists():
                require_readable(Path(path))
    return _reader(Path(source))(source, tokenizer)


def _reader(source: Path) -> Callable[[str | Path, str | Path | None], Source]:
    if not source.is_file():
        if not source.exists() and not may_be_hub_id(source):
            raise UserError(f"There is no file or folder {source}.")
        if source.is_dir() and not (source / "config.json").is_file():
            raise UserError(
                f"{source} is not a model folder: it has no config.json. To import a checkpoint, specify its file."
            )
        return _read_stock
    with source.open("rb") as file:
        start = file.read(9)
    if start.startswith(b"PK\x03\x04") and not source.name.startswith("pytorch_model"):
        return _read_wikimini
    if start.startswith(b"GGUF"):
        raise UserError(f"{source} is a GGUF file, which cannot be imported: specify the original model.")
    if start[8:9] == b"{" or source.suffix == ".safetensors":
        raise UserError(f"{source} contains weights without a configuration: specify the folder of the model.")
    if source.suffix.lower() == ".gguf":
        raise UserError(f"{source} is not a GGUF file, and GGUF files cannot be imported: specify the original model.")
    if source.suffix.lower() in (".pth", ".pt"):
        raise UserError(
            f"{source} is damaged, or was not written with `torch.save` of torch 1.6 or newer: it is not a zip file. "
            f"Download or save it again."
        )
    if source.name.startswith("pytorch_model"):
        raise UserError(f"{source} contains weights without a configuration: specify the folder of the model.")
    if source.suffix.lower() != ".bin" and not is_llama2c(source):
        raise UnknownFormatError(
            f"{source} cannot be imported: specify a WikiMini checkpoint (.pth), a llama2.c model (.bin), or the "
            f"folder or Hub id of a Llama or Phi-3."
        )
    return _read_llama2c


def _read_wikimini(source: str | Path, tokenizer: str | Path | None) -> Source:
    beside = Path(source).parent / "tokenizer.json"
    if tokenizer is None and not beside.is_file():
        raise UserError(f"There is no tokenizer.json next to {source}: specify it, or its folder, with --tokenizer.")
    model = load_wikimini(source)
    context = model.config.max_position_embeddings
    loaded = load_wikimini_tokenizer(tokenizer or beside, context)
    _set_special_tokens(model, loaded)
    model.generation_config = preset_config("balanced", loaded, max_new_tokens=default_new_tokens(context))
    return Source("WikiMini checkpoint", model, loaded, model)


def _set_special_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(model.config, name, getattr(tokenizer, name))


def _read_llama2c(source: str | Path, tokenizer: str | Path | None) -> Source:
    source = Path(source)
    header = read_header(source)
    loaded = _llama2c_tokenizer(source, header, tokenizer)
    model = load_llama2c(source)
    # llama2.c trains on `<s> story <s> story`, but a model of Meta in its format ends texts with `</s>`.
    specials = {i: token.content for i, token in loaded.added_tokens_decoder.items() if i != loaded.unk_token_id}
    ends = Counter(_sampled_ends(model, loaded, list(specials)))
    if ends and (most_common := ends.most_common(1)[0])[1] > SAMPLES / 2:
        set_eos_token(loaded, specials[most_common[0]])
    _set_special_tokens(model, loaded)
    generation = preset_config("plain", loaded, max_new_tokens=default_new_tokens(header.seq_len))
    others = [token for token in specials if token not in (loaded.eos_token_id, loaded.pad_token_id)]
    generation.eos_token_id = [loaded.eos_token_id, *others]
    model.generation_config = generation
    return Source(f"llama2.c, {FORMATS[header.version]}", model, loaded, model)


def _llama2c_tokenizer(source: Path, header: Header, path: str | Path | None) -> PreTrainedTokenizerFast:
    """The tokenizer in `path`, a file or a folder; by default the one next to the model."""
    sizes = header.vocab_size, header.seq_len
    folder = source.parent if path is None else Path(path)
    if path is not None and not folder.is_dir():
        return load_piece_tokenizer(path, *sizes)
    file, names = find_piece_tokenizer(folder, header.vocab_size)
    if file is None:
        where = f"next to {source}" if path is None else f"in {folder}"
        raise UserError(f"There is no {', '.join(names[:-1])} or {names[-1]} {where}: specify the tokenizer file "
        f"with --tokenizer.")  # fmt: skip
    tokenizer = load_piece_tokenizer(file, *sizes)
    other = alternative_to(file, header.vocab_size)
    if other is not None:
        trained_with = load_piece_tokenizer(other, *sizes)
        for story in sample_stories(STORIES_SCORED):
            if trained_with(story, verbose=False)["input_ids"] != tokenizer(story, verbose=False)["input_ids"]:
                logger.warning("%s and %s encode text differently; %s is used.", file.name, other.name, other.name)
                return trained_with
    return tokenizer


@torch.no_grad()
def _sampled_ends(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tokens: list[int]) -> Iterator[int]:
    """Yield which of the tokens ends each sampled text, if the model gives it a clear probability."""
    begin = torch.full((SAMPLES, 1), tokenizer.bos_token_id)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        # mypy takes `generate` for an attribute of `nn.Module`, a tensor or a module.
        rows = model.generate(  # type: ignore[operator]
            begin,
            attention_mask=torch.ones_like(begin),
            do_sample=True,
            top_k=0,
            max_length=min(model.config.max_position_embeddings, LONGEST_SAMPLE),
            eos_token_id=tokens,
            pad_token_id=tokenizer.pad_token_id,
        )
    for row in rows:
        end = next((i for i, token in enumerate(row.tolist()) if i and token in tokens), None)
        if end is not None:
            probability = model(row[None, :end]).logits[0, -1].float().softmax(-1)[row[end]]
            if probability > SURE:
                yield row[end].item()


def _read_stock(source: str | Path, tokenizer: str | Path | None) -> Source:
    stock = load_stock(source)
    loaded = _stock_tokenizer(source, stock, None if tokenizer is None else Path(tokenizer))
    return Source(type(stock).__name__, from_stock(stock), loaded, stock)


def _stock_tokenizer(source: str | Path, stock: PreTrainedModel, path: Path | None) -> PreTrainedTokenizerBase:
    """The tokenizer in `path`, a folder or a file; by default that of the model."""
    if path is None or path.is_dir() or not (path.exists() or path.suffix in (".json", ".model", ".bin")):
        return load_tokenizer(str(path or source))
    if not path.is_file():
        raise UserError(f"There is no tokenizer {path}: specify its file or folder with --tokenizer.")
    if path.suffix == ".json":
        if path.name != "tokenizer.json":
            raise UserError(f"{path} is not named tokenizer.json: specify the folder of the tokenizer.")
        return load_tokenizer(str(path.parent))
    tokenizer = load_piece_tokenizer(path, stock.config.vocab_size, stock.config.max_position_embeddings)
    eos = stock.config.eos_token_id
    eos = eos[0] if isinstance(eos, list) else eos
    eos_token = None if eos in (None, -1) else tokenizer.convert_ids_to_tokens(eos)
    if eos_token is not None:
        set_eos_token(tokenizer, eos_token)
    return tokenizer
