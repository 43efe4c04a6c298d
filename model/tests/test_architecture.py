"""Imports point one way, and what a command line needs to answer at once does not wait for TensorFlow."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# From the top to the bottom: a module imports only from lines below its own.
LAYERS = [
    {"train", "evaluate", "visualize_embeddings", "predict", "compare_experiments", "search_hyperparams"},
    {"model.visualization", "model.gallery"},
    {"model.experiment"},
    {"model.estimator"},
    {"model.mining", "model.baselines", "model.preflight", "model.hparams", "model.search"},
    {"model.progress", "model.evaluation"},
    {"model.steps", "model.trials"},
    {"model.learner", "model.input_fn", "model.model_fn", "model.doctor", "model.search_space", "model.comparison"},
    {"model.runs"},
    {"model.partition", "model.scoreboard"},
    {"model.animation", "model.report"},
    {"model.plots", "model.projector", "model.projection"},
    {"model.view", "model.sprite", "model.protocol", "model.prediction"},
    {"model.losses", "model.checkpoints", "model.events", "model.cli", "model.network", "model.datasets"},
    {"model.tfds_source", "model.foreign"},
    {"model.idx", "model.image_folder"},
    {"model.params", "model.record", "model.triplet_loss"},
    {"model.metrics"},
    {"model.json_file", "model.files"},
    {
        "model.child", "model.curves", "model.errors", "model.hardware", "model.neighbors", "model.provenance",
        "model.sampling", "model.signals", "model.table",
    },
]  # fmt: skip
WITHOUT_TENSORFLOW = {
    f"model.{name}"
    for name in (
        "params", "metrics", "neighbors", "sampling", "errors", "files", "signals", "cli", "experiment", "prediction",
        "foreign", "provenance", "comparison", "runs", "table", "doctor", "search", "search_space", "trials",
        "json_file", "curves",
    )
}  # fmt: skip


def modules():
    paths = [*ROOT.glob("*.py"), *ROOT.glob("model/*.py")]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in paths if path.stem != "__init__"}


def imported_modules(path):
    """Every module that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            inside = {f"{node.module}.{name.name}" for name in node.names} & set(modules())
            found |= inside or {node.module}
    return found


def test_every_module_has_its_place():
    placed = [module for layer in LAYERS for module in layer]
    assert sorted(placed) == sorted(modules())


@pytest.mark.parametrize("module", modules())
def test_imports_point_down(module):
    (level,) = (index for index, layer in enumerate(LAYERS) if module in layer)
    below = set().union(*LAYERS[level + 1 :])
    ours = {name for name in imported_modules(modules()[module]) if name.split(".")[0] == "model"}
    assert ours <= below


@pytest.mark.parametrize("module", ["triplet_loss", "neighbors", "sampling"])
def test_the_leaves_import_nothing_of_ours(module):
    assert not any(name.startswith("model") for name in imported_modules(modules()[f"model.{module}"]))


@pytest.mark.parametrize("module", WITHOUT_TENSORFLOW)
def test_no_tensorflow_where_none_is_needed(module):
    assert not {"tensorflow", "keras"} & {name.split(".")[0] for name in imported_modules(modules()[module])}


def test_the_project_imports_heavy_packages_only_where_they_are_used():
    """--help and a bad params.json answer before TensorFlow is there."""
    code = (
        "import sys, train, evaluate, search_hyperparams, compare_experiments; "
        "print({'tensorflow', 'keras', 'sklearn', 'PIL', 'optuna', 'rich', 'scipy'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


@pytest.mark.parametrize("path", modules().values(), ids=modules())
def test_no_assert_in_product_code(path):
    assert not any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(path.read_text())))
