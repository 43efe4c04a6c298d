import json
import os
import shutil
import socket
import struct
import sys
import threading
import time
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import tensorflow_datasets as tfds

from model.data import tfds_sets
from model.data.datasets import load
from model.data.decoding import Decoding
from model.tests.experiments import error_of

pytestmark = pytest.mark.slow

PIXELS = np.random.default_rng(7).integers(0, 256, (30, 5, 4, 3), np.uint8)


class SmallSet(tfds.core.GeneratorBasedBuilder):
    """30 images of three classes, of which b never occurs; subclasses change one thing each."""

    VERSION = tfds.core.Version("1.0.0")
    image = tfds.features.Image(shape=(5, 4, 3))
    label = tfds.features.ClassLabel(names=["a", "b", "c"])
    splits: ClassVar = {"train": range(20), "test": range(20, 30)}
    supervised_keys: ClassVar[tuple[str, str] | None] = ("picture", "kind")

    def _info(self):
        features = {"kind": self.label, "note": tfds.features.Text(), "picture": self.image}
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=self.supervised_keys,
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(numbers) for split, numbers in self.splits.items()}

    def _generate_examples(self, numbers):
        for i in numbers:
            yield i, {"picture": self.picture(i), "kind": self.kind(i), "note": "x"}

    def picture(self, i):
        return PIXELS[i]

    def kind(self, i):
        return "ac"[i % 2]


class SmallValidation(SmallSet):
    splits: ClassVar = {"validation": range(20, 30), "train": range(20)}


class SmallTrainOnly(SmallSet):
    splits: ClassVar = {"train": range(30)}


class SmallTestOnly(SmallSet):
    splits: ClassVar = {"test": range(30)}


class SmallUnlabelled(SmallSet):
    def kind(self, i):
        return -1 if i == 25 else i % 3


class SmallManySizes(SmallSet):
    image = tfds.features.Image(shape=(None, None, 3))

    def picture(self, i):
        return PIXELS[i][: 3 + i % 3]


class SmallDeep(SmallSet):
    image = tfds.features.Image(shape=(5, 4, 1), dtype=np.uint16)


class SmallNumbers(SmallSet):
    label = tfds.features.Scalar(np.int64)


class SmallWithoutKeys(SmallSet):
    supervised_keys = None


class SmallMissingModule(SmallSet):
    def _info(self):
        import no_such_module  # type: ignore[import-not-found]  # noqa: F401


class SmallBroken(SmallSet):
    def kind(self, i):
        raise RuntimeError("first line\nsecond line")


def as_set(split) -> set[tuple[bytes, int]]:
    return {(image.tobytes(), label) for image, label in zip(split.images, split.labels.tolist(), strict=True)}


def expected_set(numbers) -> set[tuple[bytes, int]]:
    return {(PIXELS[i].tobytes(), i % 2) for i in numbers}


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        pytest.fail("the network was used")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


# Loading


@pytest.mark.parametrize("name", ["small_set", "small_validation"])
def test_prepares_once_and_loads_without_network(tmp_path, name, no_network, monkeypatch):
    first = load(name, tmp_path)
    assert as_set(first.train) == expected_set(range(20))
    assert as_set(first.test) == expected_set(range(20, 30))
    assert first.class_names == ("a", "c")  # those that occur
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tfds"]

    monkeypatch.setattr(SmallSet, "_generate_examples", lambda *args: pytest.fail("prepared again"))
    again = load(name, tmp_path)
    np.testing.assert_array_equal(first.train.images, again.train.images)
    np.testing.assert_array_equal(first.test.labels, again.test.labels)


def test_train_alone_is_split(tmp_path):
    dataset = load("small_train_only", tmp_path)
    assert as_set(dataset.train) | as_set(dataset.test) == expected_set(range(30))
    assert np.bincount(dataset.test.labels).tolist() == [3, 3]


def test_many_sizes_need_image_size_and_are_told_before_the_download(tmp_path):
    assert 'set "image_size"' in error_of("small_many_sizes", tmp_path)
    assert not list(tmp_path.iterdir())
    dataset, blank = (
        load("small_many_sizes", tmp_path, Decoding(image_size=6, blank=blank)) for blank in (False, True)
    )
    assert blank.train.images.shape == dataset.train.images.shape and not any(blank.train.images.strides)
    np.testing.assert_array_equal(blank.test.labels, dataset.test.labels)
    assert dataset.train.images.shape == (20, 6, 6, 3)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("small_test_only", "has the splits test, expected train"),
        ("small_unlabelled", "some of its images have no label"),
        ("small_deep", "shape (5, 4, 1), uint16, expected 1 or 3 channels of uint8"),
        ("small_numbers", "not a TFDS set of images with one class each"),
        ("small_without_keys", "not a TFDS set of images with one class each"),
        ("small_missing_module", "No module named 'no_such_module'"),
        ("small_broken", "could not prepare it (RuntimeError: first line"),
        ("smal_set", "unknown; did you mean 'small_set'"),
        ("emnist/leters", "unknown; did you mean 'emnist/letters'"),
        ("mnist/letters", "unknown"),
        ("../mnist", "unknown"),
        ("no such set", "unknown; expected digits, a name of TFDS (mnist"),
    ],
)
def test_unusable_sets(tmp_path, name, expected):
    message = error_of(name, tmp_path)
    assert expected in message and repr(name) in message


def test_data_that_are_not_found_name_the_folder_that_was_searched(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert f"your own files in {tmp_path / 'data' / 'mine'}, where none lie" in error_of("mine")


def test_emnist_is_the_same_from_tfds_and_from_idx_files(tmp_path, monkeypatch, no_network):
    upright = np.random.default_rng(3).integers(0, 256, (6, 28, 28), np.uint8)
    stored, labels = upright.transpose(0, 2, 1), np.array([26, 1, 3, 1, 26, 3], np.uint8)

    builder = tfds.builder("emnist/letters", data_dir=tmp_path / "a/tfds")

    def examples(self, dl_manager):
        one_by_one = [(i, {"image": stored[i][..., None], "label": labels[i]}) for i in range(6)]
        return {"train": one_by_one, "test": one_by_one[:4]}

    monkeypatch.setattr(type(builder), "_split_generators", examples)
    builder.download_and_prepare()
    from_tfds = load("emnist/letters", tmp_path / "a")

    (tmp_path / "b").mkdir()
    for split, count in {"train": 6, "test": 4}.items():
        images = struct.pack(">4I", 0x803, count, 28, 28) + stored[:count].tobytes()
        (tmp_path / f"b/emnist-letters-{split}-images-idx3-ubyte").write_bytes(images)
        numbers = struct.pack(">2I", 0x801, count) + labels[:count].tobytes()
        (tmp_path / f"b/emnist-letters-{split}-labels-idx1-ubyte").write_bytes(numbers)
    from_idx = load("emnist/letters", tmp_path / "b")

    assert from_tfds.class_names == from_idx.class_names == ("1", "3", "26")
    np.testing.assert_array_equal(from_idx.train.images[..., 0], upright)
    assert as_set(from_tfds.train) == as_set(from_idx.train)
    assert as_set(from_tfds.test) == as_set(from_idx.test)


# What lies there


def records(folder: Path) -> Path:
    return next(folder.glob("*-train.tfrecord-*"))


def empty(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder of data in which small_set has been prepared; to be copied."""
    folder = tmp_path_factory.mktemp("prepared")
    load("small_set", folder)
    return folder


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda folder: records(folder).unlink(), "damaged, NotFoundError"),
        (
            lambda folder: records(folder).write_bytes(records(folder).read_bytes()[:-9]),
            "damaged, DataLossError",
        ),
        (lambda folder: records(folder).write_bytes(b""), "damaged, "),
        (lambda folder: (folder / "dataset_info.json").unlink(), "damaged, it lacks metadata"),
        (lambda folder: (folder / "dataset_info.json").write_text("{"), "cannot open it"),
        (empty, "damaged, it lacks metadata"),
    ],
    ids=["no records", "truncated", "emptied", "no metadata", "broken metadata", "empty folder"],
)
def test_damaged_preparation_is_no_data(prepared, tmp_path, damage, expected):
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    damage(tmp_path / "tfds/small_set/1.0.0")
    message = error_of("small_set", tmp_path)
    assert expected in message and f"{tmp_path}/tfds" in message and "delete" in message


def test_what_a_killed_preparation_left_is_no_data(tmp_path):
    left = tmp_path / "tfds/small_set/1.0.0.incompleteABC123"
    left.mkdir(parents=True)
    (left / "small_set-train.tfrecord-00000-of-00001").write_bytes(b"half")
    assert as_set(load("small_set", tmp_path).train) == expected_set(range(20))


def test_disk_that_refuses_is_one_line(tmp_path):
    (tmp_path / "tfds").write_text("a file where the folder has to be")
    assert "could not prepare it" in error_of("small_set", tmp_path)


# What lies there is read and never run, and leads nowhere else


@pytest.fixture
def evil(prepared, tmp_path, monkeypatch):
    """A set that TFDS knows from its folder alone, and a module that would be found if somebody imported it."""
    version = tmp_path / "tfds/evil_set/1.0.0"
    shutil.copytree(prepared / "tfds/small_set/1.0.0", version)
    for path in version.glob("small_set-*"):
        path.rename(version / path.name.replace("small_set", "evil_set"))
    info = version / "dataset_info.json"
    info.write_text(info.read_text().replace("small_set", "evil_set"))
    for folder in (tmp_path / "tfds", tmp_path / "tfds/evil_set", version):
        for name in ("evil_payload", "evil_set", "evil_set_dataset_builder", "__init__"):
            (folder / f"{name}.py").write_text(f"import pathlib; pathlib.Path({str(tmp_path / 'executed')!r}).touch()")
        monkeypatch.syspath_prepend(folder)
    monkeypatch.chdir(version)
    return tmp_path


def change(path, changes):
    content = json.loads(path.read_text())
    changes(content)
    path.write_text(json.dumps(content))


PAYLOAD = "evil_payload.X"
OWN = "tensorflow_datasets.core.features"
SEQUENCE = {"pythonClassName": f"{OWN}.sequence_feature.Sequence"}
INNER = {"feature": {"type": PAYLOAD, "content": {}}, "length": None}


def text_feature(**feature):
    """Features like those of the set, of which the one that nobody needs is another."""

    def changes(content):
        content["featuresDict"]["features"]["note"] = feature

    return changes


NAMED = {
    "features.json": ("features.json", text_feature(pythonClassName=PAYLOAD, text={})),
    "another spelling": ("features.json", text_feature(python_class_name=PAYLOAD, text={})),
    "the old form": ("features.json", lambda content: content.update(type=PAYLOAD, content={})),
    "within a sequence": (
        "features.json", text_feature(**SEQUENCE, sequence={"feature": {"pythonClassName": PAYLOAD, "text": {}}}),
    ),
    "JSON within JSON": ("features.json", text_feature(**SEQUENCE, jsonFeature={"json": json.dumps(INNER)})),
    "dataset_info.json": (
        "dataset_info.json", lambda content: content.update(features={"pythonClassName": PAYLOAD, "text": {}}),
    ),
    "a module of TFDS that has no features": (
        "features.json", text_feature(pythonClassName="tensorflow_datasets.scripts.cli.main.X", text={}),
    ),
}  # fmt: skip


def test_a_set_that_is_known_from_its_folder_alone_is_read(evil):
    change(evil / "tfds/evil_set/1.0.0/dataset_info.json", lambda content: content.update(moduleName="evil_payload"))
    assert as_set(load("evil_set", evil).train) == expected_set(range(20))
    assert not (evil / "executed").exists() and "evil_payload" not in sys.modules


@pytest.mark.parametrize(("file", "changes"), NAMED.values(), ids=NAMED)
def test_no_code_that_lies_with_the_data_is_run(evil, file, changes):
    change(evil / "tfds/evil_set/1.0.0" / file, changes)
    message = error_of("evil_set", evil)
    assert f"{evil}/tfds: a features.json or dataset_info.json in it names the Python class '" in message
    assert not (evil / "executed").exists() and "evil_payload" not in sys.modules


def test_the_payloads_of_these_tests_would_run(evil):
    """Otherwise the tests above would prove nothing."""
    change(evil / "tfds/evil_set/1.0.0/features.json", text_feature(pythonClassName=PAYLOAD, text={}))
    with pytest.raises(ValueError, match="Unrecognized FeatureConnector type"):
        tfds.builder("evil_set", data_dir=evil / "tfds")
    assert (evil / "executed").exists()
    sys.modules.pop("evil_payload", None)


def test_tfds_is_left_as_it_was(evil):
    before = vars(tfds.features.FeatureConnector)["cls_from_name"]
    load("evil_set", evil)
    assert vars(tfds.features.FeatureConnector)["cls_from_name"] is before


def test_a_folder_does_not_lead_out_of_itself(evil, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    shutil.copytree(evil / "tfds/evil_set/1.0.0", outside / "1.0.0")
    shutil.rmtree(evil / "tfds/evil_set/1.0.0")
    (evil / "tfds/evil_set/.config").mkdir()
    relative = os.path.relpath(outside, evil / "tfds/evil_set")
    (evil / "tfds/evil_set/.config/metadata.json").write_text(json.dumps({"default_config_name": relative}))
    assert f"{evil}/tfds: leads to " in error_of("evil_set", evil)


def test_the_records_of_a_folder_lie_in_it(evil):
    template = "../../../{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    change(
        evil / "tfds/evil_set/1.0.0/dataset_info.json",
        lambda content: [split.update(filepathTemplate=template) for split in content["splits"]],
    )
    assert f"{evil}/tfds: leads to " in error_of("evil_set", evil)


# Network


class Proxy(BaseHTTPRequestHandler):
    """Answers a look with `head_status` and a download with 404, and remembers what it was asked."""

    head_status = 200
    asked: ClassVar[list[str]] = []

    def do_HEAD(self):
        self.asked.append(self.path)
        self.send_response(self.head_status)
        self.end_headers()

    def do_GET(self):
        self.asked.append(self.path)
        self.send_error(404)

    def log_message(self, *args):
        pass


@pytest.fixture
def proxy(monkeypatch):
    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        monkeypatch.setattr(Proxy, "asked", [])
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        use_proxy(monkeypatch, server.server_port)
        yield Proxy
        server.shutdown()


def use_proxy(monkeypatch, port: int) -> None:
    for variable in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(variable, f"http://127.0.0.1:{port}")
    for variable in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(variable, raising=False)


def offline_error(folder: Path, name: str = "kmnist") -> str:
    start = time.monotonic()
    message = error_of(name, folder)
    assert time.monotonic() - start < 8
    assert f"data set {name!r}: no network" in message
    assert "python train.py --model_dir experiments/digits" in message
    assert not list(folder.iterdir())  # nothing that the next run could take for data
    return message


def test_without_network_it_says_which_files_to_put_where(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    message = offline_error(tmp_path)
    for file in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        assert f"{file}-ubyte.gz" in message
    assert f"into {tmp_path}" in message and "codh.rois.ac.jp" in message
    assert f"one folder of images per class into {tmp_path}" in offline_error(tmp_path, "cifar10")


def test_server_that_never_answers_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(tfds_sets, "NETWORK_SECONDS", 0.3)
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        use_proxy(monkeypatch, silent.getsockname()[1])
        offline_error(tmp_path)


def test_proxy_without_network_is_no_network(tmp_path, proxy, monkeypatch):
    monkeypatch.setattr(Proxy, "head_status", 503)
    offline_error(tmp_path)
    assert len(proxy.asked) == 1


def test_download_goes_through_the_proxy_and_its_failure_is_one_line(tmp_path, proxy):
    for attempt in (1, 2):  # what the first left is no data
        message = error_of("kmnist", tmp_path)
        assert "could not prepare it (DownloadError: Failed to get url http://codh.rois.ac.jp" in message
        assert f"into {tmp_path}" in message
        # one look and four downloads, of which TFDS ends some only after the first has failed
        deadline = time.monotonic() + 10
        while len(proxy.asked) < 5 * attempt and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(proxy.asked) == 5 * attempt and all("codh.rois.ac.jp" in url for url in proxy.asked)


def test_a_name_look_up_that_hangs_is_given_up_and_keeps_no_process_alive(tmp_path, monkeypatch):
    """It knows no time limit, and Python waits at its end for every thread that is not a daemon."""
    hangs, has_hung = threading.Event(), threading.Event()

    def hang(*args, **kwargs):
        has_hung.set()
        hangs.wait(60)
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    for variable in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(variable)
    assert tfds_sets.NETWORK_SECONDS < 8
    monkeypatch.setattr(socket, "getaddrinfo", hang)
    monkeypatch.setattr(tfds_sets, "NETWORK_SECONDS", 0.5)
    before = set(threading.enumerate())
    try:
        offline_error(tmp_path, "fashion_mnist")
        left = set(threading.enumerate()) - before
        assert has_hung.is_set() and left and all(thread.daemon for thread in left)
    finally:
        hangs.set()
