"""GGUF files of models in the Hugging Face cache, keyed by a digest of the files that the export reads.

torch and transformers are imported only if a file has to be written.
"""

import hashlib
import sys
from pathlib import Path

from huggingface_hub import cached_assets_path

from .. import __version__
from ..generation.presets import GGUF_DTYPES
from ..runs.download import SAFETENSORS, local_folder
from ..runs.run_folder import require_run
from ..utils.errors import UserError


SOURCES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")
WEIGHTS = (SAFETENSORS, "*.safetensors.index.json")


def model_folder(path: str) -> Path:
    """The folder of a model, which is downloaded if `path` is an id on the Hub.

    Raises:
        UserError: if there is no such model, or its folder has no config or tokenizer.
    """
    require_run(path)
    folder = local_folder(path, SAFETENSORS)
    for name in ("config.json", "tokenizer.json"):
        if not (folder / name).is_file():
            raise UserError(f"{path} is not a run folder: it has no {name}. Specify the folder that training wrote.")
    return folder


def cached_gguf(folder: Path, dtype: str) -> Path:
    """The model in `folder` as a GGUF file with weights of `dtype`, one of `GGUF_DTYPES`.

    Raises:
        UserError: for another dtype, or if the model cannot be exported.
    """
    if dtype not in GGUF_DTYPES:
        raise UserError(f"--engine llama.cpp does not support --dtype {dtype}: use one of {', '.join(GGUF_DTYPES)}.")
    file = cached_assets_path("tinystories", namespace="gguf", subfolder=_digest(folder)[:16]) / f"{dtype}.gguf"
    if not file.is_file():
        from transformers.utils import logging

        from .gguf import export_gguf

        print(f"Converting the model to GGUF once: {file}", file=sys.stderr)
        logging.disable_progress_bar()
        try:
            export_gguf(folder, file, dtype)
        except UserError:
            if not file.is_file():  # another process may have written it
                raise
    return file


def _digest(folder: Path) -> str:
    digest = hashlib.sha256(__version__.encode())
    files = {folder / name for name in SOURCES} | {path for kind in WEIGHTS for path in folder.glob(kind)}
    for path in sorted(files):
        if path.is_file():
            with path.open("rb") as file:
                digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()
