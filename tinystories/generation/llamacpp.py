"""Stories told by llama.cpp: the run as GGUF, exported once and kept, and a server of llama.cpp in this process.

Design decisions
- **`xllamacpp` and no other binding.** It has wheels for Linux, macOS and Windows on the package index, so that nobody
  needs a compiler, and its server draws in the order that it is asked to: penalty over the whole text, temperature,
  top-k, top-p, as `generate()` does. `llama-cpp-python` is compiled while it is installed, and takes the
  temperature last.
- **Exported once.** The file lies in the cache of Hugging Face under the digest of all that it is made of, so that
  another training, tokenizer or preset makes another file, and a second story needs neither torch nor transformers.
- **The same tokens go in.** Prompts are encoded by the run's `tokenizer.json`; the export has compared it with the
  tokenizer in the file.
- **Greedy text is that of `generate()`** with `f32` weights; the cache of keys and values is float32 throughout. Drawn
  stories have the same probabilities and another generator of random numbers, so that a seed tells another story.
- **The server is this process's own.** It has to listen somewhere: on 127.0.0.1, with a key that nobody is told.
"""

import hashlib
import importlib.util
import json
import secrets
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from huggingface_hub import cached_assets_path, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError
from tokenizers import Tokenizer

from .. import __version__
from ..utils.errors import UserError, first_line
from .presets import (
    GGUF_DTYPES,
    MIN_TEMPERATURE,
    PRESETS,
    check_preset,
    check_sampling,
    resolve_max_new_tokens,
    stated_settings,
)
from .prompts import open_prompt


# What a GGUF file is made of.
SOURCES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")
WEIGHTS = ("*.safetensors", "*.safetensors.index.json")


class LlamaCpp:
    """A model in llama.cpp.

    Args:
        file: a GGUF file that `export_gguf` wrote.
        context: of the model, in tokens.
        threads: by default as many as llama.cpp takes, which is one for each core.

    Raises:
        UserError: where the package is not installed, or llama.cpp does not take the file.
    """

    def __init__(self, file: Path, context: int, threads: int | None = None):
        require_package()
        import xllamacpp

        options = xllamacpp.CommonParams()
        self.context = context
        options.model.path = str(file)
        options.n_ctx, options.n_parallel = context, 1
        if threads is not None:
            options.cpuparams.n_threads = options.cpuparams_batch.n_threads = threads
        # Else both are rounded to float16, and greedy text parts from that of `generate()`.
        options.cache_type_k = options.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        options.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        options.fit_params = options.warmup = options.ui = False
        options.api_keys = [secrets.token_hex()]
        options.verbosity = -1
        try:
            self.server = xllamacpp.Server(options)
        except RuntimeError as error:
            raise UserError(f"llama.cpp cannot load {file}: {first_line(error)}.") from None

    def write(
        self,
        ids: list[int],
        settings: dict,
        *,
        max_new_tokens: int,
        seed: int | None = None,
        tell: Callable[[str], None] | None = None,
    ) -> tuple[str, int]:
        """What follows the tokens `ids`, and of how many tokens it is; `tell` gets each piece as it comes.

        Args:
            settings: `temperature` (0 for the likeliest token), `top_k`, `top_p` and `repetition_penalty`.
        """
        pieces: list[str] = []
        counts: list[int] = []
        stopped: list[BaseException] = []

        def take(chunk: dict) -> bool:
            # What is raised in here would be lost in C++.
            try:
                if "error" in chunk:
                    raise RuntimeError(chunk["error"]["message"])
                pieces.append(chunk["choices"][0]["text"])
                if "usage" in chunk:
                    counts.append(chunk["usage"]["completion_tokens"])
                if tell is not None and pieces[-1]:
                    tell(pieces[-1])
            except BaseException as error:
                stopped.append(error)
            return bool(stopped)

        failure = self.server.handle_completions(
            {
                "prompt": ids,
                "max_tokens": max_new_tokens,
                "samplers": ["penalties", "temperature", "top_k", "top_p"],
                "temperature": settings["temperature"],
                "top_k": settings["top_k"],
                "top_p": settings["top_p"],
                "repeat_penalty": settings["repetition_penalty"],
                "repeat_last_n": self.context,
                "seed": -1 if seed is None else seed,
                "cache_prompt": False,
                "stream": True,
            },
            take,
        )
        if failure:
            take(failure)
        if stopped:
            raise stopped[0]
        return "".join(pieces), sum(counts)


def generate_story(
    path: str,
    prompt: str,
    *,
    dtype: str = "f16",
    preset: str | None = None,
    sampling: Mapping[str, float] | None = None,
    max_new_tokens: int | None = None,
    seed: int | None = None,
    stream: bool = False,
) -> str:
    """As `decoding.generate_story`, by llama.cpp, with the model in the run folder (or on the Hub) `path`.

    Args:
        dtype: how the weights are stored, one of `GGUF_DTYPES`.

    Raises:
        UserError: where the package is missing, the model has no GGUF form, or the prompt leaves no room.
    """
    require_package()
    check_dtype(dtype)
    folder = model_folder(path)
    check_sampling(preset, sampling or {})
    settings = {**sampling_settings(folder, preset), **(sampling or {})}
    if settings["temperature"] < MIN_TEMPERATURE:
        settings["temperature"] = 0.0  # which is greedy decoding there
    context = _json(folder / "config.json")["max_position_embeddings"]
    ids = _prompt_ids(folder, prompt)
    room = resolve_max_new_tokens(context, len(ids), max_new_tokens)
    model = LlamaCpp(gguf_file(folder, dtype), context)

    def tell(piece: str) -> None:
        print(piece, end="", flush=True)

    if stream:
        tell(prompt)
    text, _ = model.write(ids, settings, max_new_tokens=room, seed=seed, tell=tell if stream else None)
    if stream:
        print()
    return prompt + text


def _prompt_ids(folder: Path, prompt: str) -> list[int]:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    config = _json(folder / "config.json")
    ends = config.get("eos_token_id")
    return open_prompt(
        lambda text, special: tokenizer.encode(text, add_special_tokens=special).ids,
        prompt,
        begin=config.get("bos_token_id"),
        ends=set(ends) if isinstance(ends, list) else {ends},
    )


def require_package() -> None:
    """Refuse to go on without the packages that this needs, with a `UserError`."""
    missing = [name for name in ("xllamacpp", "gguf") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"llama.cpp needs {' and '.join(missing)}, which is not installed: pip install "
            f"'tinyllama-stories[llamacpp]'."
        )


def check_dtype(dtype: str) -> None:
    """Refuse a way to store weights that there is not, with a `UserError`."""
    if dtype not in GGUF_DTYPES:
        raise UserError(f"llama.cpp has no weights as {dtype!r} here; there are {', '.join(GGUF_DTYPES)}.")


def model_folder(path: str) -> Path:
    """The folder of a model, which is downloaded where `path` is an id on the Hub.

    Raises:
        UserError: where there is none that can be told with.
    """
    folder = Path(path)
    if not folder.exists() and path.count("/") != 1:
        raise UserError(f"There is no run folder {path}; `make quickstart` makes runs/quickstart.")
    if not folder.exists():
        try:
            folder = Path(snapshot_download(path, allow_patterns=[*SOURCES, *WEIGHTS], library_name="tinystories"))
        except (HfHubHTTPError, HFValidationError, HTTPError, OSError) as error:
            raise UserError(f"There is no folder {path}, and no model of that name can be had from the Hub: "
                            f"{first_line(error)}.") from None  # fmt: skip
    for name, what in (("config.json", "is not a run folder"), ("tokenizer.json", "cannot be told with")):
        if not (folder / name).is_file():
            raise UserError(f"{path} {what}: it has no {name}. Give the folder that training wrote.")
    return folder


def gguf_file(folder: Path, dtype: str) -> Path:
    """The model in a folder as a GGUF file in the cache, written there if it is not there yet.

    Raises:
        UserError: where the model has no such form.
    """
    cache = cached_assets_path("tinystories", namespace="gguf", subfolder=_digest(folder)[:16])
    file = cache / f"{dtype}.gguf"
    if not file.is_file():
        from transformers.utils import logging

        from ..export.gguf import export_gguf

        print(f"writing {file}", file=sys.stderr)
        logging.disable_progress_bar()
        try:
            export_gguf(folder, file, dtype)
        except UserError:
            # Another process may have been faster.
            if not file.is_file():
                raise
    return file


def _digest(folder: Path) -> str:
    """Of everything that a GGUF file is made of, and of what makes it."""
    digest = hashlib.sha256(__version__.encode())
    files = {folder / name for name in SOURCES} | {path for kind in WEIGHTS for path in folder.glob(kind)}
    for path in sorted(files):
        if path.is_file():
            with path.open("rb") as file:
                digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def sampling_settings(folder: Path, preset: str | None) -> dict[str, float]:
    """How a story is told: as the preset says, or else `generation_config.json`, where that samples."""
    if preset is None:
        own = _json(folder / "generation_config.json") if (folder / "generation_config.json").is_file() else {}
        if own.get("do_sample"):
            return stated_settings(own)
    preset = preset or "balanced"
    check_preset(preset)
    return PRESETS.get(preset, {"temperature": 0.0, "top_k": 1, "top_p": 1.0, "repetition_penalty": 1.0})


def _json(path: Path) -> dict:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {first_line(error)}.") from None
