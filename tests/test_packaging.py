"""The contents of an installation, which does not use common module names."""

import configparser
import subprocess
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).parent.parent


def test_every_package_is_installed():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    listed = set(setup["options"]["packages"].split())
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for package in ("modeling_tinyllama", "tinystories")
        for path in (ROOT / package).rglob("__init__.py")
    }
    assert listed == found | {"tinystories.configs", "tinystories.metrics", "tinystories.tokenization"}
    assert {name.partition(".")[0] for name in listed} == {"modeling_tinyllama", "tinystories"}
    assert "py_modules" not in setup["options"]
    assert "py.typed" in setup["options.package_data"]["*"].split()
    for package in ("modeling_tinyllama", "tinystories", "tokenization"):
        assert (ROOT / package / "py.typed").exists()


@pytest.mark.slow
def test_modules_of_the_user_may_have_the_names_of_our_folders_and_scripts(tmp_path):
    for name in ("tokenization", "configs", "metrics", "train_hf", "push_to_hub", "benchmarks", "tests"):
        (tmp_path / f"{name}.py").write_text(f'raise SystemExit("{name} of the user was run")\n')
    code = (
        "import tinystories.data.packing, tinystories.training.build, tinystories.hub.upload; "
        "import tinystories.tokenization as ours; "
        "from tinystories.cli import main; print(ours.train_bpe.__module__)"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (result.returncode, result.stdout.strip()) == (0, "tinystories.tokenization.bpe"), result.stderr
