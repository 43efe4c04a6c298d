"""`params.json`: what is accepted, what is refused, and that a refusal is one line that helps."""

import json
import re
from pathlib import Path

import pydantic
import pytest

from model.common.errors import UserError
from model.params import WITHOUT_EFFECT, Params, json_schema
from model.strategies import STRATEGIES
from model.triplet_loss import DISTANCES

ROOT = Path(__file__).parents[2]

# The keys of the files that people have from TensorFlow 1 times, with the values of its batch-all experiment.
ANCESTOR = {
    "learning_rate": 1e-3, "batch_size": 64, "num_epochs": 20, "num_channels": 32, "use_batch_norm": False,
    "bn_momentum": 0.9, "margin": 0.5, "embedding_size": 64, "triplet_strategy": "batch_all", "squared": False,
    "image_size": 28, "num_labels": 10, "train_size": 50000, "eval_size": 10000, "num_parallel_calls": 4,
    "save_summary_steps": 50,
}  # fmt: skip


def read(tmp_path, text):
    return read_with_notes(tmp_path, text)[0]


def read_with_notes(tmp_path, text):
    path = tmp_path / "params.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return Params.from_json_with_notes(path)


def refusal(tmp_path, text):
    """Returns the message, which must be one line that starts with the path of the file."""
    with pytest.raises(UserError) as raised:
        read(tmp_path, text)
    message = str(raised.value)
    assert message.startswith(f"{tmp_path / 'params.json'}: ")
    assert "\n" not in message
    return message.removeprefix(f"{tmp_path / 'params.json'}: ")


def test_an_empty_file_has_the_defaults_of_the_ancestors_batch_all(tmp_path):
    params = read(tmp_path, "{}")
    without = {"squared", "image_size", *WITHOUT_EFFECT}
    of_today = {key: value for key, value in ANCESTOR.items() if key not in without}
    assert {key: getattr(params, key) for key in of_today} == of_today
    assert params.distance == "euclidean"  # what "squared": false means
    assert params.image_size is None  # that of the data, which for MNIST is the ancestor's 28
    assert (params.seed, params.keep_checkpoint_max, params.dataset) == (230, 5, "mnist")


def test_every_key_of_the_ancestor_is_accepted_and_those_without_effect_are_told(tmp_path):
    params, notes = read_with_notes(tmp_path, json.dumps(ANCESTOR))
    assert params == read(tmp_path, '{"image_size": 28}')
    told = " ".join(notes)
    assert all(f"'{key}'" in told for key in ("num_labels", "train_size", "eval_size", "num_parallel_calls"))
    assert read_with_notes(tmp_path, "{}")[1] == []
    assert set(WITHOUT_EFFECT) <= set(ANCESTOR)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"marign": 1}', r"unknown key 'marign'; did you mean 'margin'\?"),
        ('{"qqqq": 1}', r"unknown key 'qqqq'; see experiments/params.schema.json"),
        ('{"batch_size": "64"}', r"'batch_size' must be a valid integer, received \"64\""),
        ('{"batch_size": 64.5}', r"'batch_size' must be a valid integer, received 64.5"),
        ('{"batch_size": true}', r"'batch_size' must be a valid integer, received true"),
        ('{"batch_size": null}', r"'batch_size' must be a valid integer, received null"),
        ('{"batch_size": 2}', r"'batch_size' must be greater than or equal to 3, received 2"),
        ('{"margin": NaN}', r"'margin' must be a finite number or .*, received NaN"),
        ('{"margin": -1e-9}', r"'margin' must be greater than or equal to 0 or .*, received -1e-09"),
        ('{"num_epochs": NaN}', r"'num_epochs' must be a valid integer, received NaN"),
        ('{"learning_rate": 1e999}', r"'learning_rate' must be a finite number, received Infinity"),
        ('{"learning_rate": 0}', r"'learning_rate' must be greater than 0, received 0"),
        ('{"squared": 1}', r"'squared' must be a valid boolean, received 1"),
        ('{"image_size": 0}', r"'image_size' must be greater than or equal to 1, received 0"),
        ('{"bn_momentum": 1}', r"'bn_momentum' must be less than 1, received 1"),
        ('{"bn_momentum": 0.99}', r"'bn_momentum' needs batch normalization, which \"cnn\" has none of"),
        (
            '{"network": "ConvNeXtTiny", "bn_momentum": 0.99}',
            r"'bn_momentum' needs batch normalization, which \"ConvNeXtTiny\" has none of",
        ),
        ('{"seed": 4294967296}', r"'seed' must be less than 4294967296"),
        ('{"triplet_strategy": "batch_al"}', r"'triplet_strategy' must be 'batch_all', 'batch_hard', "),
        ('{"margin": "hard"}', r"'margin' must be a valid number or be 'soft', received \"hard\""),
        ('{"margin": "soft"}', r"'margin' \"soft\" needs triplet_strategy \"batch_hard\", received \"batch_all\""),
        ('{"squared": true, "distance": "cosine"}', r"'squared' needs a euclidean distance"),
        ('{"squared": true, "distance": "bogus"}', r"'distance' must be 'euclidean', .*, received \"bogus\""),
        ('{"squared": true, "distance": 42}', r"'distance' must be 'euclidean', .*, received 42"),
        ('{"precision": "float16"}', r"'precision' must be 'float32', 'mixed_bfloat16' or 'auto'"),
        ('{"dataset": "../secrets"}', r"'dataset' must match pattern"),
        ('{"num_classes_per_batch": 8}', r"'num_classes_per_batch' is set without 'num_images_per_class'"),
        ('{"num_images_per_class": 8}', r"'num_images_per_class' is set without 'num_classes_per_batch'"),
        (
            '{"num_classes_per_batch": 10, "num_images_per_class": 16}',
            r"'batch_size' must be .* = 10 x 16 = 160, received 64",
        ),
        (
            '{"triplet_strategy": "offline_hard", "num_classes_per_batch": 8, "num_images_per_class": 8}',
            r"'num_classes_per_batch' needs a strategy that mines inside the batch, received 8 with \"offline_hard\"",
        ),
        ('{"triplet_strategy": "offline_hard", "mining_size": 63}', r"'mining_size' must be at least batch_size = 64"),
        ('{"validation_size": 0}', r"'validation_size' must be greater than or equal to 1 or be greater than 0, rec"),
        ('{"validation_size": 1.5}', r"'validation_size' must be .* less than 1, received 1.5"),
        ('{"validation_size": 9, "validation_classes": 2}', r"'validation_size' and 'validation_classes' are both set"),
        ('{"holdout_classes": []}', r"'holdout_classes' must .*at least 1 item.*, received \[\]"),
        ('{"batch_classes": "siblings"}', "'batch_classes' needs 'num_classes_per_batch', received \"siblings\""),
        ('{"batch_classes": "cousins"}', "'batch_classes' must be .*'any' or 'siblings'"),
        ('{"exclude_same_group": 1}', "'exclude_same_group' must be a valid boolean"),
        ('{"holdout_classes": [1.5]}', r"'holdout_classes' must .*received"),
        ('{"holdout_classes": 1}', r"'holdout_classes' must be greater than or equal to 2 or .*received 1"),
        ('{"holdout_classes": "8"}', r"'holdout_classes' must .*valid list, received \"8\""),
        ('{"mining_size": 640}', r"'mining_size' needs triplet_strategy \"offline_semi_hard\" or \"offline_hard\""),
        (
            '{"mining_size": 10}',
            r"^'mining_size' needs triplet_strategy \"offline_semi_hard\" or \"offline_hard\", rec",
        ),
        (
            '{"temperature": 0.1}',
            r"'temperature' needs .*_strategy \"supervised_contrastive\", received 0.1 with \"batch",
        ),
        (
            '{"triplet_strategy": "circle", "temperature": 0.1}',
            r"'temperature' needs .* \"supervised_contrastive\", received 0.1 with \"circle\"",
        ),
        (
            '{"triplet_strategy": "multi_similarity", "scale": 9}',
            '\'scale\' needs triplet_strategy "circle" or "proxy_anchor" or "arcface", received 9',
        ),
        (
            '{"triplet_strategy": "arcface", "memory_size": 64}',
            "'memory_size' needs a strategy that compares images with each other, received 64 with \"arcface\"",
        ),
        (
            '{"class_vector_learning_rate_factor": 2}',
            '\'class_vector_learning_rate_factor\' needs triplet_strategy "proxy_anchor" or "arcface", received 2',
        ),
        (
            '{"triplet_strategy": "arcface", "class_vector_learning_rate_factor": 0}',
            "'class_vector_learning_rate_factor' must be greater than or equal to 0.001, received 0",
        ),
        ('{"triplet_strategy": "proxy_anchor", "temperature": 1}', "'temperature' needs .*\"supervised_contrastive\""),
        ('{"triplet_strategy": "lifted_structured", "scale_positive": 2}', "'scale_positive' needs .*multi_similarity"),
        ('{"triplet_strategy": "circle", "scale": 0}', "'scale' must be greater than or equal to 0.001, received 0"),
        (
            '{"triplet_strategy": "circle", "distance": "euclidean"}',
            r"'distance' must be \"cosine\" with \"circle\", rec",
        ),
        ('{"triplet_strategy": "circle", "squared": true}', r"'distance' must be \"cosine\" .* \"squared_euclidean\""),
        ('{"triplet_strategy": "circle", "margin": "soft"}', '\'margin\' "soft" needs triplet_strategy "batch_hard"'),
        (
            '{"triplet_strategy": "supervised_contrastive", "margin": 0.5}',
            r"'margin' needs a strategy that has one, received 0.5 with \"supervised_contrastive\"",
        ),
        (
            '{"triplet_strategy": "arcface", "margin": 28.6}',  # half of a radian, in degrees
            r"'margin' must be below 1\.571 with \"arcface\", received 28\.6",
        ),
        ('{"triplet_strategy": "circle", "margin": 1}', "'margin' must be below 1 with \"circle\", received 1"),
        ('{"margin": null}', r"'margin' must be a number with \"batch_all\", received null"),
        ('{"triplet_strategy": ["circle"]}', r"'triplet_strategy' must be a valid string"),
        ('{"augmentation_strength": 0.5}', r"'augmentation_strength' needs augmentation \"affine\" or .*received 0.5"),
        (
            '{"learning_rate_schedule": "cosine", "warmup_steps": 2147483648}',
            r"'warmup_steps' must be less than or equal",
        ),
        (
            '{"learning_rate_schedule": "cosine", "warmup_steps": 1' + "0" * 400 + "}",
            r"'warmup_steps' must be less than",
        ),
        ('{"embedding_size": 65536}', r"'embedding_size' must be less than or equal to 4096, received 65536"),
        (
            '{"num_classes_per_batch": 1' + "0" * 400 + ', "num_images_per_class": 2}',
            r"'num_classes_per_batch' must be",
        ),
        ('{"holdout_classes": [0, 1' + "0" * 400 + "]}", r"'holdout_classes' must .*, received"),
        ('{"warmup_steps": 10}', r"'warmup_steps' needs learning_rate_schedule \"cosine\""),
        ('{"triplet_strategy": "offline_hard", "memory_size": 9}', r"'memory_size' needs a strategy that mines inside"),
        ('{"memory_start_step": 9}', r"'memory_start_step' needs 'memory_size', received 9 steps without it"),
        ('{"memory_size": 0}', r"'memory_size' must be greater than or equal to 1, received 0"),
        (
            '{"memory_size": 1048576, "embedding_size": 512}',
            r"'memory_size' must be at most 524288 with embedding_size = 512, received 1048576",
        ),
        ('{"micro_batch_size": 48}', r"'micro_batch_size' must divide the 64 images of a batch, received 48"),
        (
            '{"micro_batch_size": 128, "triplet_strategy": "offline_hard"}',
            r"'micro_batch_size' must divide the 192 images of a batch, received 128",
        ),
        ('{"margin": 1, "margin": 2}', r"'margin' is there twice"),
        ("", r"not valid JSON: .* line 1, column 1"),
        ('{"margin": 0.5,}', r"not valid JSON: .* line 1"),
        ("[1, 2]", r"expected a JSON object \{\.\.\.\}, received \[1, 2\]"),
        ("[" * 100_000, r"nested deeper than 32 levels"),
        ('{"seed": ' + "9" * 5000 + "}", r"digits"),
        (b"\xff\xfe{}0", r"cannot be read as a text file"),
        ('{"dataset": "' + "x" * 500 + '!"}', r"\.\.\.$"),
    ],
)
def test_a_bad_file_is_refused_with_its_key_and_what_was_expected(tmp_path, text, expected):
    assert re.search(expected, refusal(tmp_path, text), re.IGNORECASE)


def test_several_problems_stand_in_one_line(tmp_path):
    message = refusal(tmp_path, '{"marign": 1, "batch_size": 0}')
    assert "'marign'" in message and "'batch_size'" in message


def test_a_missing_file_and_a_folder_in_its_place(tmp_path):
    with pytest.raises(UserError, match=r"nowhere/params.json: no such file"):
        Params.from_json(tmp_path / "nowhere" / "params.json")
    with pytest.raises(UserError, match="cannot be read"):
        Params.from_json(tmp_path)


def test_a_margin_below_the_limit_of_its_loss_is_accepted():
    for strategy, margin in (("arcface", 1.57), ("circle", 0.99), ("proxy_anchor", 3.0), ("batch_all", 28.6)):
        assert Params(triplet_strategy=strategy, margin=margin).margin == margin


def test_p_x_k_that_fills_the_batch_is_accepted(tmp_path):
    text = '{"num_classes_per_batch": 10, "num_images_per_class": 16, "batch_size": 160, "image_size": null}'
    params = read(tmp_path, text)
    assert (params.num_classes_per_batch, params.num_images_per_class, params.image_size) == (10, 16, None)


def test_the_old_name_of_the_squared_distance(tmp_path):
    assert read(tmp_path, '{"squared": true}') == read(tmp_path, '{"distance": "squared_euclidean"}')
    assert read(tmp_path, '{"squared": false, "distance": "cosine"}').distance == "cosine"
    assert "squared" not in json.loads(read(tmp_path, '{"squared": true}').to_json())


def test_params_are_frozen():
    with pytest.raises(pydantic.ValidationError):
        Params().margin = 1.0


def test_the_resolved_file_reads_back_as_equal(tmp_path):
    params = Params(margin=0.1 + 0.2, image_size=None, seed=2**32 - 1)
    assert read(tmp_path, params.to_json()) == params
    assert set(json.loads(params.to_json())) == set(Params.model_fields)


# What each strategy fills in: margin, distance, and what its loss has of its own.
FILLED_IN = {
    "batch_all": (0.5, "euclidean", {}),
    "multi_similarity": (
        0.1, "cosine", {"scale_positive": 2.0, "scale_negative": 50.0, "similarity_threshold": 1.0},
    ),
    "supervised_contrastive": (None, "cosine", {"temperature": 0.1}),
    "lifted_structured": (1.0, "euclidean", {}),
    "circle": (0.4, "cosine", {"scale": 80.0}),
}  # fmt: skip
OF_LOSSES = {"temperature", "scale", "scale_positive", "scale_negative", "similarity_threshold"}


@pytest.mark.parametrize("strategy", FILLED_IN)
def test_a_strategy_fills_in_what_a_file_does_not_say(tmp_path, strategy):
    params = read(tmp_path, json.dumps({"triplet_strategy": strategy}))
    margin, distance, own = FILLED_IN[strategy]
    assert (params.margin, params.distance) == (margin, distance)
    assert {key: getattr(params, key) for key in OF_LOSSES} == dict.fromkeys(OF_LOSSES) | own
    assert params.model_fields_set == {"triplet_strategy"}  # by somebody
    assert params.differences().keys() <= {"seed", "triplet_strategy"}
    assert json.loads(params.to_json())["margin"] == margin  # as the run had it
    assert read(tmp_path, params.to_json()) == params == Params.model_validate_json(params.to_json())
    nulls = {"triplet_strategy": strategy, **dict.fromkeys(OF_LOSSES)}
    assert read(tmp_path, json.dumps(nulls)) == params
    assert read(tmp_path, json.dumps(nulls)).model_fields_set == {"triplet_strategy"}


@pytest.mark.parametrize(
    "said",
    [
        {"triplet_strategy": "circle", "margin": 0.5, "scale": 64.0},  # a margin that is the default of others
        {"triplet_strategy": "lifted_structured", "distance": "cosine", "margin": 0.5},
        {"triplet_strategy": "multi_similarity", "similarity_threshold": 0.5},
        {"triplet_strategy": "supervised_contrastive", "temperature": 0.07},
        {"margin": 0.4},
    ],
)
def test_what_a_file_says_is_kept_and_what_differs_reads_back(tmp_path, said):
    params = read(tmp_path, json.dumps(said))
    assert params.differences() == {"seed": 230, **said}
    assert read(tmp_path, json.dumps(params.differences())) == params == read(tmp_path, params.to_json())
    assert params.model_fields_set == said.keys()


def test_a_change_of_the_loss_is_told_with_all_that_changes_with_it():
    changes = Params(triplet_strategy="circle").changes_from(Params())
    assert changes == {
        "triplet_strategy": ("batch_all", "circle"), "margin": (0.5, 0.4), "distance": ("euclidean", "cosine"),
        "scale": (None, 80.0),
    }  # fmt: skip


def test_an_editor_may_name_the_schema(tmp_path):
    assert read(tmp_path, '{"$schema": "../params.schema.json"}') == Params()


def test_the_committed_schema_is_current():
    """If this fails: make schema."""
    assert (ROOT / "experiments" / "params.schema.json").read_text() == json_schema()


def test_every_committed_experiment_is_valid_and_holds_only_what_differs():
    paths = sorted((ROOT / "experiments").glob("*/params.json"))
    assert {"base_model", "batch_all", "batch_hard", "digits"} <= {path.parent.name for path in paths}
    defaults = Params()
    for path in paths:
        params = Params.from_json(path)
        assert all(getattr(params, key) != getattr(defaults, key) for key in params.model_fields_set), path


def test_the_strategies_that_params_accept_are_those_that_there_are():
    strategies = Params.model_json_schema()["properties"]["triplet_strategy"]["enum"]
    assert set(strategies) == set(STRATEGIES)
    assert set(Params.model_json_schema()["properties"]["distance"]["enum"]) == set(DISTANCES)
