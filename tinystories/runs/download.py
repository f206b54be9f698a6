"""Models on the Hub, as folders in its cache. Imports neither torch nor transformers."""

import logging
from pathlib import Path, PurePath

from huggingface_hub import constants, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import GatedRepoError, HFValidationError, HTTPError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id

from ..utils.errors import UserError, first_line
from ..utils.hub_connection import require_hub
from ..utils.paths import require_readable


logger = logging.getLogger(__name__)

TEXTS = ("*.json", "*.jinja", "*.txt", "*.model")  # configurations and tokenizers
SAFETENSORS, PICKLES = "*.safetensors", "pytorch_model*.bin"
RUNS = "runs"  # the folder of runs in the recipes
FILE_SUFFIXES = (".bin", ".gguf", ".json", ".model", ".onnx", ".pt", ".pth", ".safetensors")


def may_be_hub_id(name: str | PurePath) -> bool:
    """Whether a name may be the id of a model on the Hub.

    It must be of the form owner/name, valid on the Hub, and name nothing on this machine. A path in `runs`, or with
    the suffix of a model file, is a mistyped path.
    """
    name = name.as_posix() if isinstance(name, PurePath) else name
    owner, slash, _ = name.partition("/")
    if not slash or owner == RUNS or name.lower().endswith(FILE_SUFFIXES) or Path(name).exists():
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def local_folder(name: str | Path, *weights: str) -> Path:
    """A folder on this machine, or the one with the downloaded files of a model on the Hub.

    Without a connection, the files downloaded earlier are used. Subfolders, which hold other formats and checkpoints,
    are not downloaded.

    Args:
        weights: patterns of weights, such as `SAFETENSORS`; only the first kind that the model has is downloaded.

    Raises:
        UserError: if there is no such folder, a file in it cannot be read, or the model cannot be downloaded.
    """
    folder, unreachable = Path(name), None
    if folder.exists():
        for pattern in (*TEXTS, *weights):
            for file in folder.glob(pattern):
                require_readable(file)
        return folder
    try:
        validate_repo_id(str(name))
    except HFValidationError:
        raise UserError(
            f"There is no folder {name}, and it is not the id of a model on the Hub (owner/name)."
        ) from None
    try:
        try:
            require_hub()
        except ConnectionError as error:
            unreachable = error
        for kind in weights or TEXTS[:1]:
            folder = Path(
                snapshot_download(
                    str(name),
                    allow_patterns=[*TEXTS, kind],
                    ignore_patterns="*/*",
                    local_files_only=unreachable is not None,
                )
            )
            if any(folder.glob(kind)):
                break
    except GatedRepoError:
        raise UserError(f"The model {name} is gated: request access on its page, and run `hf auth login`.") from None
    except RepositoryNotFoundError:
        raise UserError(
            f"There is no folder {name}, and the Hub has no model of that name. If it is private, run `hf auth login`."
        ) from None
    except (HTTPError, OSError, ValueError) as error:
        if unreachable is not None:
            raise _not_available(name, unreachable) from None
        raise UserError(
            f"There is no folder {name}, and it cannot be loaded from the Hub: {first_line(error)}."
        ) from None
    if unreachable is not None:
        logger.warning("%s: the Hub cannot be reached (%s); using the files downloaded earlier", name, unreachable)
    return folder


def require_available(name: str | Path) -> None:
    """Check that a model on the Hub has been downloaded, or that the Hub can be reached.

    Raises:
        UserError: if not.
    """
    if isinstance(try_to_load_from_cache(str(name), "config.json"), str):
        return
    try:
        require_hub()
    except ConnectionError as error:
        raise _not_available(name, error) from None


def _not_available(name: str | Path, reason: ConnectionError) -> UserError:
    return UserError(
        f"There is no folder {name} and no complete download of the model {name}, and the Hub ({constants.ENDPOINT}) "
        f"cannot be reached: {reason}."
    )
