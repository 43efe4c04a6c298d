"""Imports between rooms point one way, and what a command line answers at once does not wait for TensorFlow."""

import ast
import subprocess
import sys

import pytest

from model.common.commands import ROOT

# From the top to the bottom: a file imports from its own room, and from rooms on lines below.
ROOMS = [
    {"scripts"},
    {"model.start", "model.pictures", "model.new_images", "model.exports"},
    {"model.runner"},
    {"model.studies"},
    {"model.training"},
    {"model.scoring"},
    {"model.experiment"},
    {"model.data"},
    {"model.params", "model.losses"},
    {"model.strategies", "model.networks"},
    {"model.metric_losses"},
    {"model.triplet_loss"},
    {"model.common"},
]
# What every room stands on.
GROUND = {
    "model.common", "model.params", "model.strategies", "model.networks", "model.metric_losses", "model.triplet_loss",
}  # fmt: skip
MOST_ARROWS = 61

# What has to answer before TensorFlow is there, or where there is none.
WITHOUT_TENSORFLOW = [
    "model.common", "model.data", "model.scoring", "model.params", "model.strategies", "model.networks.entries",
    "model.experiment", "model.start",
    "model.studies.search", "model.studies.comparison", "model.new_images.convert", "model.new_images.answers",
    "model.new_images.refusal", "model.new_images.questions",
    "model.exports.export", "model.exports.formats", "model.exports.gallery", "model.exports.readme",
    "model.training.doctor", "model.training.guard", "model.training.run_state",
]  # fmt: skip


def modules():
    paths = [*ROOT.glob("*.py"), *ROOT.glob("model/*.py"), *ROOT.glob("model/*/*.py")]
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in paths}
    return {
        name: path for name, path in names.items() if path.stem != "__init__" and not name.startswith("model.tests")
    }


MODULES = modules()


def imported(path):
    """Every module that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(ROOT).parts[: -node.level] if node.level else ()  # of a relative import
            module = ".".join([*package, *([node.module] if node.module else [])])
            found |= {f"{module}.{name.name}" for name in node.names} & set(MODULES) or {module}
    return found


def room_of(module):
    parts = module.split(".")
    return "scripts" if parts[0] != "model" else ".".join(parts[:2])


def floor_of(module):
    (floor,) = (floor for floor, rooms in enumerate(ROOMS) if room_of(module) in rooms)
    return floor


def arrows():
    """Each import of a file of another room."""
    return [
        (module, other)
        for module, path in MODULES.items()
        for other in sorted(imported(path) & set(MODULES))
        if room_of(other) != room_of(module)
    ]


@pytest.mark.parametrize("module", MODULES)
def test_imports_between_rooms_point_down(module):
    others = {name for name in imported(MODULES[module]) & set(MODULES) if room_of(name) != room_of(module)}
    assert all(floor_of(other) > floor_of(module) for other in others)


def test_few_arrows_cross_between_rooms():
    """Between the files of all rooms and the scripts; those to the ground are printed, and not limited."""
    crossing = arrows()
    for room, other in sorted({(room_of(module), room_of(other)) for module, other in crossing}):
        count = sum((room_of(a), room_of(b)) == (room, other) for a, b in crossing)
        print(f"{room:<20} -> {other:<20} {count}")
    upward = [(a, b) for a, b in crossing if floor_of(a) >= floor_of(b)]
    to_the_ground = [(a, b) for a, b in crossing if room_of(b) in GROUND]
    between = len(crossing) - len(to_the_ground)
    print(
        f"{len(MODULES)} files on {len(ROOMS)} floors: {between} arrows between rooms, {len(to_the_ground)} to the "
        f"ground ({', '.join(sorted(GROUND))}), {len(upward)} upward"
    )
    assert between <= MOST_ARROWS
    assert not upward


def test_no_circle_within_a_room():
    """Each file can be read after those that it imports."""
    left = {module: imported(path) & set(MODULES) for module, path in MODULES.items()}
    while left:
        leaves = {module for module, others in left.items() if not others & set(left)}
        assert leaves, f"these import each other: {sorted(left)}"
        left = {module: others for module, others in left.items() if module not in leaves}


@pytest.mark.parametrize("room", [p.parent.name for p in sorted((ROOT / "model").glob("*/__init__.py"))])
def test_every_room_says_what_it_is_for(room):
    assert ast.get_docstring(ast.parse((ROOT / "model" / room / "__init__.py").read_text())) or room == "tests"


@pytest.mark.parametrize("module", ["model.triplet_loss", "model.scoring.neighbors", "model.common.draws"])
def test_the_leaves_import_nothing_of_ours(module):
    assert not any(name.startswith("model") for name in imported(MODULES[module]))


def test_no_tensorflow_where_none_is_needed():
    names = [name for name in MODULES if name in WITHOUT_TENSORFLOW or room_of(name) in WITHOUT_TENSORFLOW]
    names.remove("model.data.tfds_sets")
    assert len(names) > 30
    code = f"import importlib, sys; [importlib.import_module(name) for name in {names}]; "
    code += "print({'tensorflow', 'keras'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_the_project_imports_heavy_packages_only_where_they_are_used():
    """--help and a bad params.json answer before TensorFlow is there."""
    code = (
        "import sys, train, evaluate, predict, export, search_hyperparams, compare_experiments; "
        "print({'tensorflow', 'keras', 'sklearn', 'PIL', 'optuna', 'rich', 'scipy'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_a_question_does_not_wait_for_packages_that_keras_would_import():
    """Nor does a training; whoever needs them gets them afterwards."""
    code = (
        "import sys; from model.common import devices; devices.start_tensorflow(); "
        "import model.runner, model.new_images.embed; "
        "print({'sklearn', 'matplotlib', 'pandas'} & set(sys.modules)); "
        "import sklearn.base, matplotlib.figure"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


@pytest.mark.parametrize("path", MODULES.values(), ids=MODULES)
def test_no_assert_in_product_code(path):
    assert not any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(path.read_text())))
