"""The model that is installed with the package, so that a story can be generated before anything is trained.

`benchmarks/builtin_model.py` makes it. Its card, `builtin/README.md`, says what it was trained on and how good it is.
"""

from pathlib import Path

from ..utils.paths import expand_user


BUILTIN = "builtin"  # its name wherever a run folder may be given
FOLDER = Path(__file__).parent / "builtin"


def model_path(name: str) -> str:
    """The `type` of options that take a model: `builtin` becomes its folder, and a leading `~` is expanded.

    A folder that is called `builtin` in the current folder takes precedence.
    """
    return str(FOLDER) if name == BUILTIN and not Path(name).exists() else expand_user(name)
