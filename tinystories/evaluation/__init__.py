"""Likelihoods, text statistics, minimal pairs, a judge, and the report on models that brings them together."""

from ..utils.errors import UserError
from ..utils.paths import installed_folder


def metric_path(name: str) -> str:
    """The folder of an `evaluate` module of this package: `evaluate.load(metric_path("bits_per_byte"))`.

    Args:
        name: of the module, such as `bits_per_byte`.

    Raises:
        UserError: for an unknown name.
    """
    folder = installed_folder("metrics")
    if not (folder / name / f"{name}.py").is_file():
        names = ", ".join(sorted(path.parent.name for path in folder.glob("*/README.md")))
        raise UserError(f"There is no metric {name!r}; the metrics are {names}.")
    return str(folder / name)
