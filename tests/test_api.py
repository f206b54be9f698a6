"""`from tinystories import ...`: the functions that the package offers, and what importing them costs."""

import inspect
import pydoc
import subprocess
import sys

import pytest

import modeling_tinyllama
import tinystories
from modeling_tinyllama import TinyLlamaConfig


def test_the_package_imports_only_the_standard_library():
    code = """
import sys
before = set(sys.modules)
import tinystories
dir(tinystories), tinystories.__all__, tinystories.__version__
print(*set(sys.modules) - before)"""
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "tinystories" in loaded
    assert {name.partition(".")[0] for name in loaded} <= {*sys.stdlib_module_names, "tinystories"}


def test_load_recipe_and_metric_path_do_not_import_torch():
    code = """
import sys
from tinystories import load_recipe, metric_path
metric_path("repetition")
print(*sys.modules)"""
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "tinystories.recipe" in loaded and not {"torch", "transformers", "datasets"} & set(loaded)


@pytest.mark.parametrize("name", tinystories.__all__)
def test_every_name_is_a_documented_function(name):
    function = getattr(tinystories, name)
    assert function.__name__ == name and name in dir(tinystories)
    text = inspect.getdoc(function)
    assert "\nRaises:\n" in text and "\nArgs:\n" in text
    for parameter in inspect.signature(function).parameters.values():
        assert parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        assert parameter.annotation is not parameter.empty
        assert parameter.name in text.partition("Args:")[2], f"{name}: {parameter.name} is not described"
    assert f"{name}{inspect.signature(function)}" in pydoc.plain(pydoc.render_doc(tinystories))


def test_type_checkers_see_the_same_names():
    source = inspect.getsource(tinystories)
    block = source.partition("if TYPE_CHECKING:\n")[2].partition("\n\n")[0]
    imports = {line.split(" import ")[1]: line.split()[1] for line in block.splitlines()}
    assert imports == {name: f".{module}" for name, module in tinystories._MODULES.items()}
    assert sorted(imports) == tinystories.__all__


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'tinystories' has no attribute 'tell_story'"):
        tinystories.tell_story  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'tell_story'"):
        from tinystories import tell_story  # noqa: F401


def test_the_signature_of_the_configuration_shows_its_fields_and_their_defaults():
    """A `__new__` of ours once hid them behind `*args, **kwargs`."""
    parameters = inspect.signature(TinyLlamaConfig).parameters
    config = TinyLlamaConfig()
    own = [name for name in TinyLlamaConfig.__annotations__ if name in TinyLlamaConfig.__dataclass_fields__]
    assert len(own) == 22
    for name in own:
        assert parameters[name].default == vars(TinyLlamaConfig)[name]
        assert f"    {name} (`" in TinyLlamaConfig.__doc__
    assert parameters["hidden_size"].default == config.hidden_size == 448
    assert "hidden_size: int = 448" in pydoc.plain(pydoc.render_doc(TinyLlamaConfig))


def test_the_documentation_of_the_models_names_them():
    """`auto_docstring` takes the name of a model from its path within transformers; elsewhere it is "None"."""
    for name in modeling_tinyllama.__all__:
        text = pydoc.plain(pydoc.render_doc(getattr(modeling_tinyllama, name)))
        assert "None Model" not in text, name
