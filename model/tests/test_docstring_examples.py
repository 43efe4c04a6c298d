"""The examples in docstrings run and print what they say, and a new function comes with one."""

import ast
import doctest
import importlib

import pytest

from model.tests.test_architecture import MODULES

WITH_EXAMPLES = [module for module, path in MODULES.items() if ">>> " in path.read_text(encoding="utf-8")]

# In these, each public function has an example, and each class that somebody makes an object of.
COMPLETE = [
    "model.triplet_loss", "model.metric_losses", "model.losses", "model.strategies", "model.data.sampling",
    *(module for module in MODULES if module.startswith("model.scoring.")),
]  # fmt: skip

# But for these, each with the reason.
WITHOUT = {
    "model.triplet_loss.in_blocks": "for those who write a loss",
    "model.triplet_loss.with_gradient": "for those who write a loss",
    "model.triplet_loss.checked": "for those who write a loss",
    "model.scoring.intervals.resamples": "the rows of `resample_counts`",
    "model.scoring.scoreboard.tabulate": "`tables` as text",
    "model.scoring.unseen_classes.choose": "needs an experiment",
}


def is_public(node):
    """Whether a node is a function that somebody calls, or a class that is more than the fields of a record."""
    if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
        return False
    decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
    bases = [ast.unparse(base) for base in getattr(node, "bases", [])]
    return not any(name.startswith("dataclass") for name in decorators) and "NamedTuple" not in bases


def public_names(module):
    """From the names of a module's public functions and classes to their docstrings."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    return {f"{module}.{node.name}": ast.get_docstring(node) or "" for node in tree.body if is_public(node)}


@pytest.mark.parametrize("module", WITH_EXAMPLES)
def test_the_examples_run(module):
    written = MODULES[module].read_text(encoding="utf-8").count(">>> ")
    failed, attempted = doctest.testmod(importlib.import_module(module))
    assert failed == 0
    assert attempted == written, "an example is where doctest does not look: in a comment, or inside a function"


@pytest.mark.parametrize("module", COMPLETE)
def test_every_public_function_has_an_example(module):
    without = [name for name, docstring in public_names(module).items() if ">>> " not in docstring]
    missing = [name for name in without if name not in WITHOUT]
    assert not missing, f"without an example in the docstring: {', '.join(missing)}; see CONTRIBUTING.md"


def test_what_goes_without_an_example_is_there_and_has_none():
    docstrings = {name: text for module in COMPLETE for name, text in public_names(module).items()}
    assert not [name for name in WITHOUT if ">>> " in docstrings.get(name, ">>> ")]
