"""Files of all kinds that are not as they should be: each is read, or refused with exit code 2 and one line.

Every case is drawn by `random.Random(f"{kind} {number}")`. One that fails says its kind and number; with
`FUZZ="search.json 17"` in the environment it runs alone.
"""

import contextlib
import gzip
import io
import json
import os
import random
import re
import shutil
import signal
import struct
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

import compare_experiments
import search_hyperparams
from model import experiment
from model.common import cli
from model.common.errors import one_line_errors
from model.data import datasets, idx_files
from model.new_images import answers
from model.params import Params
from model.studies import states
from model.studies.drawn_trials import Drawn
from model.studies.search_space import SearchSpace
from model.tests.experiments import digits
from model.tests.proofs.cases import line_of_refusal, survives
from model.tests.proofs.lives import run
from model.tests.proofs.mutations import damaged, mutated_database, mutated_json
from model.training import event_files

pytestmark = pytest.mark.proof

_SECONDS = 60  # that a case may take, on a machine with much other work
_MEMORY = 2**30  # bytes that all cases of a kind may take more than before


class Hangs(BaseException):
    """A case took too long; nobody catches it by mistake."""


@contextlib.contextmanager
def limited_time() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise Hangs

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, _SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def answer(main: Callable, *arguments: object, **how: object) -> int:
    """Runs the function of a command as the command does; returns its exit code, 0 or 2, the latter with one line."""
    said, printed = io.StringIO(), io.StringIO()
    code = 0
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(printed), limited_time():
            cli.run(main, "", [str(argument) for argument in arguments], **how)
    except SystemExit as end:
        code = end.code
    except Hangs:
        raise AssertionError(f"it takes more than {_SECONDS} seconds") from None
    except Exception:
        raise AssertionError(traceback.format_exc()) from None
    line = said.getvalue()
    assert code in (0, 2) and (code == 2) == bool(line), (code, line)
    if code:
        assert line.endswith("\n") and line[:-1].isprintable() and len(line) <= 4001, f"not one line: {line[:5000]!r}"
        line.encode()
    assert all(part.isprintable() for part in printed.getvalue().split("\n")), f"printed: {printed.getvalue()[:5000]!r}"
    return code


def fuzz(kind: str, num_cases: int, case: Callable[[random.Random], int], tally: Callable) -> None:
    """Runs so many cases of a kind, each drawn by a generator of its own; a case returns its exit code."""
    chosen = os.environ.get("FUZZ")
    if chosen is not None and chosen.rpartition(" ")[0] != kind:
        pytest.skip("another one is chosen")
    names = [f"{kind} {number}" for number in range(num_cases)] if chosen is None else [chosen]
    codes: list[int] = []
    Path("/proc/self/clear_refs").write_text("5")  # the most memory is counted from here on
    before = most_memory()
    survived = sum(survives(name, lambda name=name: codes.append(case(random.Random(name)))) for name in names)
    more = most_memory() - before
    print(f"\n{kind}: {codes.count(2)} refused, {codes.count(0)} read; {more / 2**20:.0f} MiB more memory")
    assert more < _MEMORY
    if chosen is None:
        assert codes.count(0) > num_cases / 50  # some damage does no harm
    tally(f"fuzz, {kind}", tried=len(names), survived=survived)


def most_memory() -> int:
    """The most bytes of memory that this process had."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])


# ------------------------------------------------------------------------------------------- what a person writes

PARAMS = [
    {},
    {"dataset": "digits", "num_epochs": 3, "validation_size": 0.2, "seed": 7},
    {"dataset": "digits", "triplet_strategy": "batch_hard", "margin": "soft", "distance": "squared_euclidean",
     "batch_size": 20, "num_classes_per_batch": 5, "num_images_per_class": 4},
    {"dataset": "digits", "triplet_strategy": "offline", "mining_size": 640, "learning_rate": 1e-4},
    {"dataset": "digits", "holdout_classes": [7, 8, 9], "validation_classes": ["1", "2"], "embedding_size": 2,
     "augmentation": "affine", "augmentation_strength": 2.0, "learning_rate_schedule": "cosine", "warmup_steps": 10},
    {"num_labels": 10, "train_size": 50000, "squared": True, "image_size": 28, "$schema": "../params.schema.json"},
]  # fmt: skip
SEARCHES = [
    {"vary": {"learning_rate": [0.001, 0.01], "margin": [0.2, 0.5]}},
    {"vary": {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}, "num_channels": {"low": 4, "high": 8}},
     "num_trials": 5},
    {"vary": {"margin": ["soft", 0.1], "loss": [{"triplet_strategy": "batch_hard"}, {"margin": 1.0}]}, "num_trials": 3},
    {"vary": {"holdout_classes": [[1, 2], [3, 4], None], "use_batch_norm": [True, False]}},
]  # fmt: skip


def test_params(tmp_path, tally, monkeypatch):
    """As `train.py` opens them, on digits that are not resized."""
    data = digits()
    monkeypatch.setattr(datasets, "load_for", lambda *_: data)

    def open_it(options):
        opened = experiment.open_experiment(options.model_dir, options.data_dir)
        opened.describe()
        again = Params.model_validate_json(opened.params.to_json())
        assert again == opened.params

    def case(draw: random.Random) -> int:
        (tmp_path / "params.json").write_bytes(mutated_json(draw, draw.choice(PARAMS)))
        return answer(open_it, "--model_dir", tmp_path)

    fuzz("params.json", 5000, case, tally)


def test_search_spaces(tmp_path, tally):
    (tmp_path / "params.json").write_text('{"dataset": "digits", "validation_size": 0.2, "margin": 0.3}')

    def case(draw: random.Random) -> int:
        (tmp_path / "search.json").write_bytes(mutated_json(draw, draw.choice(SEARCHES)))
        return answer_search(tmp_path)

    fuzz("search.json", 2000, case, tally)


def drawn_search(parent: Path) -> SearchSpace:
    """Writes the `search.json` of a search that draws, and returns what it says."""
    (parent / "search.json").write_text(json.dumps(SEARCHES[1]))
    return SearchSpace.from_json(parent / "search.json")


def answer_search(parent: Path) -> int:
    return answer(
        search_hyperparams.main, "--parent_dir", parent, "--dry_run",
        add_options=search_hyperparams.add_options, of_an_experiment=False,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------- data


def idx(values: np.ndarray) -> bytes:
    sizes = b"".join(size.to_bytes(4) for size in values.shape)
    return bytes((0, 0, 8, values.ndim)) + sizes + values.tobytes()


def test_idx_files(tmp_path, tally):
    random_numbers = np.random.default_rng(0)
    whole = {}
    for part, name in idx_files.FILES.items():
        shape = (12, 5, 4) if "images" in part else (12,)
        whole[name] = idx(random_numbers.integers(0, 3 if "labels" in part else 256, shape, np.uint8))
    for name, content in whole.items():
        (tmp_path / name).write_bytes(content)

    headers = idx(np.ones((12, 5, 4), np.uint8))[:16], b"\0\0\b\3" + b"\xff" * 12
    bombs = [gzip.compress(header + bytes(2**26)) for header in headers]  # more comes than is said, or less

    def load(options):
        datasets.load("mine", options.data_dir)

    def case(draw: random.Random) -> int:
        name = draw.choice(list(whole))
        compress = gzip.compress if draw.random() < 0.5 else bytes
        content = damaged(draw, compress(whole[name]))
        if draw.random() < 0.3:  # what the header says
            wrong = bytearray(whole[name])
            place = draw.randrange(4 + 4 * wrong[3])
            wrong[place] = draw.choice([0, 1, 3, 8, 9, 11, 13, 127, 128, 255])
            content = compress(bytes(wrong))
        elif draw.random() < 0.05:
            content = draw.choice(bombs)
        (tmp_path / name).write_bytes(content)
        try:
            return answer(load, "--data_dir", tmp_path)
        finally:
            (tmp_path / name).write_bytes(whole[name])

    fuzz("IDX files", 2000, case, tally)


# ------------------------------------------------------------------------------------------- what a run wrote


def test_scores(tmp_path, trained, tally):
    """As the comparison, the search and `predict.py --pair` read them, and whoever draws pictures."""
    seed = json.loads((trained / "metrics.json").read_text())
    seed["params_history"] = [{"from_step": 0, "params": {"margin": 0.5}}, {"from_step": 90, "params": {"margin": 0.2}}]
    seed["validation"] = {"metric": "knn_accuracy", "best_value": 0.5, "best_step": 180}
    seed["baselines"] = {"pca": {"knn_accuracy": 0.5, "eer": 0.1}}
    for name in ("other", "third"):
        shutil.copytree(trained, tmp_path / name, ignore=lambda *_: ["checkpoints"])
    shutil.copytree(trained, tmp_path / "mine", ignore=lambda *_: ["checkpoints"])

    def case(draw: random.Random) -> int:
        content = mutated_json(draw, seed)
        for name in ("metrics.json", "validation.json"):
            (tmp_path / "mine" / name).write_bytes(content)
        answer(lambda options: answers.read_calibration(options.model_dir), "--model_dir", tmp_path / "mine")
        answer(lambda options: states.read_value(options.model_dir, "knn_accuracy"), "--model_dir", tmp_path / "mine")
        more = draw.choice([[], ["--against", "other"], ["--sort", "differs"], ["--metrics", "eer", "loss", "mrr"]])
        return answer(
            compare_experiments.main, tmp_path, *more, "--format", draw.choice(["terminal", "markdown", "csv", "json"]),
            add_options=compare_experiments.add_options, of_an_experiment=False,
        )  # fmt: skip

    fuzz("metrics.json", 500, case, tally)


def test_databases_of_searches(tmp_path, tally):
    parent = tmp_path / "search"
    parent.mkdir()
    (parent / "params.json").write_text('{"dataset": "digits", "validation_size": 0.2}')
    space, whole = drawn_search(parent), tmp_path / "whole.db"
    with contextlib.closing(Drawn(parent, space, 1, lambda trial: None)) as drawn:
        for number in range(3):
            trial = drawn.ask()
            drawn.should_prune(trial, 1, 0.1 * number)
            drawn.tell(trial, 0.5 * number if number else None)
    (parent / "search.db").rename(whole)

    def go_on(options):
        with contextlib.closing(Drawn(parent, space, 1, lambda trial: None)) as drawn:
            trials = drawn.trials()
            for trial in [*trials, drawn.ask(), drawn.ask()]:
                if trial is not None:
                    drawn.should_prune(trial, 2, 0.4)
                    drawn.tell(trial, 0.3)

    def case(draw: random.Random) -> int:
        shutil.copy(whole, parent / "search.db")
        mutated_database(draw, parent / "search.db")
        (parent / "search.db-journal").unlink(missing_ok=True)
        code = answer_search(parent)
        return max(code, answer(go_on))

    fuzz("search.db", 500, case, tally)


def record(draw: random.Random, data: bytes) -> bytes:
    """A record as an event file frames it; of some, the length is not that of what follows."""
    length = len(data) if draw.random() < 0.8 else draw.choice([0, 2**16, 2**31, 2**40, 2**50, 2**62, 2**63, 2**64 - 5])
    header = struct.pack("<Q", length)
    return header + struct.pack("<I", masked_crc32c(header)) + data + struct.pack("<I", masked_crc32c(data))


def test_event_files(tmp_path, tally):
    folder = tmp_path / "mine"
    writer = event_files.open_writer(folder, range(1, 9))
    with contextlib.closing(writer), writer.as_default():
        for step in range(1, 9):
            tf.summary.scalar("loss", 1 / step, step=step)
            tf.summary.text("said", "größe", step=step)
    (whole,) = (path.read_bytes() for path in folder.iterdir())

    def go_on(options):
        with one_line_errors(options.model_dir):
            event_files.open_writer(options.model_dir, range(5, 9)).close()

    def case(draw: random.Random) -> int:
        shutil.rmtree(folder)
        folder.mkdir()
        content = damaged(draw, whole)
        if draw.random() < 0.5:  # records that are right, of what is no event
            event = Event(step=draw.choice([3, -1, 2**62]), file_version="brain.Event:2").SerializeToString()
            strange = [record(draw, damaged(draw, event)) for _ in range(draw.choice([1, 2, 5]))]
            content = draw.choice([b"", whole]) + b"".join(strange) + draw.choice([b"", whole])
        (folder / "events.out.tfevents.1.mine.1").write_bytes(content)
        code = answer(go_on, "--model_dir", folder)
        go_on_again = answer(go_on, "--model_dir", folder)
        assert (code, go_on_again) == (0, 0)
        return code

    fuzz("event files", 2000, case, tally)


# ------------------------------------------------------------------------------------------- whole commands


def test_whole_commands(tmp_path, trained, tally):
    """A few of each kind, in processes of their own."""

    def params(draw: random.Random, folder: Path) -> list[object]:
        (folder / "params.json").write_bytes(mutated_json(draw, draw.choice(PARAMS[1:3])))
        return ["train.py", "--check", "--model_dir", folder]

    def search(draw: random.Random, folder: Path) -> list[object]:
        (folder / "params.json").write_text('{"dataset": "digits", "validation_size": 0.2}')
        (folder / "search.json").write_bytes(mutated_json(draw, draw.choice(SEARCHES)))
        return ["search_hyperparams.py", "--dry_run", "--parent_dir", folder]

    def scores(draw: random.Random, folder: Path) -> list[object]:
        seed = json.loads((trained / "metrics.json").read_text())
        (folder / "metrics.json").write_bytes(mutated_json(draw, seed))
        return ["compare_experiments.py", folder]

    def data(draw: random.Random, folder: Path) -> list[object]:
        (folder / "params.json").write_text('{"dataset": "mine"}')
        for part, name in idx_files.FILES.items():
            content = idx(np.ones((4, 3, 3) if "images" in part else 4, np.uint8))
            (folder / name).write_bytes(damaged(draw, draw.choice([bytes, gzip.compress])(content)))
        return ["train.py", "--model_dir", folder, "--data_dir", folder]

    def database(draw: random.Random, folder: Path) -> list[object]:
        (folder / "params.json").write_text('{"dataset": "digits", "validation_size": 0.2}')
        space = drawn_search(folder)
        with contextlib.closing(Drawn(folder, space, 1, lambda trial: None)) as drawn:
            drawn.ask()
        mutated_database(draw, folder / "search.db")
        return ["search_hyperparams.py", "--dry_run", "--parent_dir", folder]

    def pipe(draw: random.Random, folder: Path) -> list[object]:
        os.mkfifo(folder / "params.json")
        return ["train.py", "--model_dir", folder]

    kinds = [*[params] * 10, *[search] * 8, *[scores] * 8, *[data] * 8, *[database] * 8, pipe]
    survived = 0
    for number, kind in enumerate(kinds):
        name = f"{kind.__name__} {number}"

        def case(name: str = name, kind: Callable = kind) -> None:
            folder = tmp_path / name.replace(" ", "-")
            folder.mkdir()
            code, _, said = run(*kind(random.Random(name), folder))
            assert code in (0, 2), (code, said)
            if code == 2:
                assert len(said.splitlines()) == 1 or kind is params, said
                line_of_refusal(said)

        survived += survives(name, case)
    tally("fuzz, whole commands", tried=len(kinds), survived=survived)
