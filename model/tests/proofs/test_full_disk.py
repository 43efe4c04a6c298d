"""Disks of many sizes, each too small: one line says so, nothing is half-written, and with room it ends the same.

The disks are real: a `tmpfs` of so many bytes. The system lets root have one, or anybody under
`unshare --map-root-user --mount`.
"""

import contextlib
import json
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from model.tests.experiments import digits, write_params
from model.tests.images import save
from model.tests.proofs.cases import check_whole, line_of_refusal, survives
from model.tests.proofs.lives import complete, differences, run

pytestmark = pytest.mark.proof

_PAGE = 4096  # bytes, of which such a disk has a whole number
_ROOM = 64 * 2**20

# A few steps of all that writes: curves, checkpoints and the deletion of old ones, evaluations, scores.
LEARNS = {"num_epochs": 2, "validation_size": 0.2, "evaluate_every_epochs": 1, "keep_checkpoint_max": 2}


class Disk:
    """A small disk in a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def resize(self, size: int) -> None:
        """Makes it larger or smaller."""
        subprocess.run(["mount", "-o", f"remount,size={size}", self.path], check=True)

    @property
    def used(self) -> int:
        """Bytes that are taken."""
        usage = shutil.disk_usage(self.path)
        return usage.total - usage.free

    @contextlib.contextmanager
    def watched(self) -> Iterator[list[int]]:
        """Yields a list whose last number is, after the block, how many bytes were taken at most while it ran."""
        most, is_done = [self.used], threading.Event()

        def watch() -> None:
            while not is_done.wait(0.001):
                most.append(max(most[-1], self.used))

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            yield most
        finally:
            is_done.set()
            watcher.join()


@contextlib.contextmanager
def mounted(path: Path) -> Iterator[Disk]:
    """A disk on which there is room, while the block runs."""
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={_ROOM}", "none", str(path)]
    mount = subprocess.run(command, capture_output=True, text=True)
    if mount.returncode != 0:
        pytest.skip(f"may not mount a small disk; `unshare --map-root-user --mount` lets anybody: {mount.stderr}")
    try:
        yield Disk(path)
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


# ------------------------------------------------------------------------------------------- what starts from what


def to_train(folder: Path, trained: Path) -> list[object]:
    return ["--model_dir", write_params(folder, **LEARNS)]


def to_evaluate(folder: Path, trained: Path) -> list[object]:
    shutil.copytree(trained, folder, ignore=shutil.ignore_patterns("eval", "metrics.json"))
    return ["--model_dir", folder]


def to_predict(folder: Path, trained: Path) -> list[object]:
    shutil.copytree(trained, folder)
    image = save(folder / "image.png", digits().test.images[0, ..., 0])
    return [image, "--model_dir", folder, "--output", folder / "embeddings.npy"]


def to_visualize(folder: Path, trained: Path) -> list[object]:
    shutil.copytree(trained, folder)
    return ["--model_dir", folder, "--no_tsne", "--num_images", 100]


def to_search(folder: Path, trained: Path) -> list[object]:
    write_params(folder, **LEARNS)
    (folder / "search.json").write_text(json.dumps({"vary": {"learning_rate": [0.001, 0.002]}}))
    return ["--parent_dir", folder]


# By script: how a folder is made ready and which options follow, how many disks.
COMMANDS: dict[str, tuple[Callable[[Path, Path], list[object]], int]] = {
    "train.py": (to_train, 7),
    "evaluate.py": (to_evaluate, 3),
    "predict.py": (to_predict, 3),
    "visualize_embeddings.py": (to_visualize, 4),
    "search_hyperparams.py": (to_search, 3),
}


@pytest.mark.parametrize("script", COMMANDS)
def test_a_disk_that_is_too_small(tmp_path, trained, tally, script):
    prepare, num_disks = COMMANDS[script]
    with mounted(tmp_path / "disk") as disk:
        folder = disk.path / "mine"
        arguments = prepare(folder, trained)
        at_first = disk.used
        with disk.watched() as most:
            complete(script, *arguments)
        expected, needed = shutil.copytree(folder, tmp_path / "expected"), most[-1] - at_first
        refused = []

        def on_a_disk_of(size: int) -> None:
            shutil.rmtree(folder)
            prepare(folder, trained)
            disk.resize(disk.used + size)
            code, _, said = run(script, *arguments)
            disk.resize(_ROOM)
            check_whole(folder)
            # Where only what could be spared found no room, a line says so, and the command goes on.
            spared = [line for line in said.splitlines() if "cannot be written" in line]
            line = line_of_refusal(said) if code else " ".join(spared)
            print(f"{size:,} of {needed:,} bytes: {line}")
            assert code == 2 or (code == 0 and spared), (code, said)
            assert str(folder) in line and (code == 0 or "No space left on device" in line), said
            refused.append(code == 2)
            complete(script, *arguments)
            check_whole(folder)
            different = differences(folder, expected)
            assert not different, different

        # From no byte at all, to those which leave one page too few.
        pages = needed // _PAGE - 1
        sizes = [pages * number // (num_disks - 1) * _PAGE for number in range(num_disks)]
        survived = sum(survives(f"{size:,} bytes", lambda size=size: on_a_disk_of(size)) for size in sizes)
        assert sum(refused) > num_disks / 2
    tally(f"disk full, {script}", tried=num_disks, survived=survived)
