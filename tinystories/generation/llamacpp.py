"""Generation with llama.cpp, through the package `xllamacpp`.

- `xllamacpp` has wheels for Linux, macOS and Windows, and its server applies samplers in the order it is given: that
  of `generate()`. `llama-cpp-python` needs a compiler and applies the temperature last.
- With float32 weights, greedy text equals that of `generate()`, because keys and values are cached in float32. Sampled
  text has the same distribution, but another random number generator, so the same seed gives another story.
- `xllamacpp` starts an HTTP server in this process, which listens on 127.0.0.1 and needs a random API key.
- Imports neither torch nor transformers.
"""

import importlib.util
import json
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path

from tokenizers import Tokenizer

from ..utils.errors import UserError, first_line, install_command
from .presets import MIN_TEMPERATURE, SamplingSettings, check_sampling, resolve_max_new_tokens
from .prompts import encode_prompt_with


class LlamaCpp:
    """A model in llama.cpp.

    Args:
        file: GGUF file.
        context: context length of the model, in tokens.
        threads: by default one per core.

    Raises:
        UserError: if the package is not installed, or llama.cpp cannot load the file.
    """

    def __init__(self, file: Path, context: int, threads: int | None = None):
        require_packages()
        import xllamacpp

        self.context = context
        options = xllamacpp.CommonParams()
        options.model.path = str(file)
        options.n_ctx, options.n_parallel = context, 1
        if threads is not None:
            options.cpuparams.n_threads = options.cpuparams_batch.n_threads = threads
        # The default float16 would change greedy text.
        options.cache_type_k = options.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        options.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        options.fit_params = options.warmup = options.ui = False
        options.api_keys = [secrets.token_hex()]
        options.verbosity = -1
        try:
            self._server = xllamacpp.Server(options)
        except RuntimeError as error:
            raise UserError(f"llama.cpp cannot load {file}: {first_line(error)}.") from None

    def complete(
        self,
        ids: list[int],
        settings: SamplingSettings,
        *,
        max_new_tokens: int,
        seed: int | None = None,
        on_text: Callable[[str], None] = lambda text: None,
    ) -> tuple[str, int]:
        """The completion of `ids` and its number of tokens; `on_text` gets each piece as it is generated."""
        pieces: list[str] = []
        counts: list[int] = []
        errors: list[BaseException] = []

        def receive(chunk: dict) -> bool:
            """Returns whether to stop. Exceptions are kept, since they would be lost in C++."""
            try:
                if "error" in chunk:
                    raise RuntimeError(chunk["error"]["message"])
                pieces.append(chunk["choices"][0]["text"])
                if "usage" in chunk:
                    counts.append(chunk["usage"]["completion_tokens"])
                if pieces[-1]:
                    on_text(pieces[-1])
            except BaseException as error:
                errors.append(error)
            return bool(errors)

        failure = self._server.handle_completions(
            {
                "prompt": ids,
                "max_tokens": max_new_tokens,
                "samplers": ["penalties", "temperature", "top_k", "top_p"],
                "temperature": settings.temperature if settings.do_sample else 0.0,
                "top_k": settings.top_k,
                "top_p": settings.top_p,
                "repeat_penalty": settings.repetition_penalty,
                "repeat_last_n": self.context,
                "seed": -1 if seed is None else seed,
                "cache_prompt": False,
                "stream": True,
            },
            receive,
        )
        if failure:
            receive(failure)
        if errors:
            raise errors[0]
        return "".join(pieces), sum(counts)


def generate_story(
    folder: Path,
    prompt: str,
    *,
    gguf: Callable[[], Path],
    preset: str | None = None,
    sampling: Mapping[str, float] | None = None,
    max_new_tokens: int | None = None,
    seed: int | None = None,
    stream: bool = False,
) -> str:
    """`generate.generate_story` with llama.cpp.

    Args:
        folder: of the model: its config and tokenizer are read.
        gguf: returns the GGUF file of the model; called once everything else has been checked.

    Raises:
        UserError: if a package is missing, a setting is out of range, or the prompt fills the context.
    """
    require_packages()
    check_sampling(preset, sampling or {})
    settings = sampling_settings(folder, preset).replace(**(sampling or {}))
    if settings.temperature < MIN_TEMPERATURE:
        settings = settings.replace(do_sample=False)
    config = _read_json(folder / "config.json")
    ids = prompt_ids(folder, config, prompt)
    context = config["max_position_embeddings"]
    max_new_tokens = resolve_max_new_tokens(context, len(ids), max_new_tokens)
    model = LlamaCpp(gguf(), context)

    def show(text: str) -> None:
        if stream:
            print(text, end="", flush=True)

    show(prompt)
    text, _ = model.complete(ids, settings, max_new_tokens=max_new_tokens, seed=seed, on_text=show)
    show("\n")
    return prompt + text


def prompt_ids(folder: Path, config: Mapping, prompt: str) -> list[int]:
    """`prompts.encode_prompt` with the `tokenizer.json` of a folder; `config` is its `config.json`."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ends = config.get("eos_token_id")
    return encode_prompt_with(
        lambda text, special: tokenizer.encode(text, add_special_tokens=special).ids,
        prompt,
        bos_token_id=config.get("bos_token_id"),
        eos_token_ids=ends if isinstance(ends, list) else [ends],
    )


def require_packages() -> None:
    """Raises `UserError` if the packages of the extra are not installed."""
    missing = [name for name in ("xllamacpp", "gguf") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"The llama.cpp engine needs {' and '.join(missing)}, which is not installed: "
            f"{install_command('llamacpp')}."
        )


def sampling_settings(folder: Path, preset: str | None) -> SamplingSettings:
    """The settings of a preset, by default those of the folder's `generation_config.json`."""
    if preset is not None:
        return SamplingSettings.from_preset(preset)
    file = folder / "generation_config.json"
    return SamplingSettings.from_generation_config(_read_json(file) if file.is_file() else {})


def _read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {first_line(error)}.") from None
