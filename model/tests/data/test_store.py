"""A store holds what its sources become, whatever happened to the process, the files or the sources before."""

import errno
import json
import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.common.errors import UserError
from model.data import store as module
from model.data.store import Contents, Item, fingerprints, store

SHAPE = (2, 3, 3)


def image_of(number):
    """What a source becomes: every seventh is damaged, every fifth grey."""
    if number % 7 == 6:
        return None
    pixels = np.random.default_rng(number).integers(0, 256, SHAPE, np.uint8)
    return pixels[:, :, :1] if number % 5 == 4 else pixels


class Killed(BaseException):
    """The end of a process, which nothing handles."""


@dataclass
class Source:
    """Sources that are numbers, and what was asked of them."""

    numbers: list
    made_with: object = "all"
    dies_at: int | None = None
    made: list = field(default_factory=list)
    shapes_asked: int = 0
    time: int = 0
    digests_asked: list = field(default_factory=list)
    is_changed: object = lambda number: False

    def contents(self):
        sources = [[f"{n}.png", n, 0, self.time] for n in self.numbers]
        return Contents(sources, {"how": self.made_with}, self.shape, self.items, self.digests)

    def digests(self, indices):
        for index in indices:
            number = self.numbers[index]
            self.digests_asked.append(number)
            yield f"{number} {self.is_changed(number)}"

    def shape(self):
        self.shapes_asked += 1
        return SHAPE

    def items(self, indices):
        for index in indices:
            if len(self.made) == self.dies_at:
                raise Killed
            self.made.append(self.numbers[index])
            number = self.numbers[index]
            yield Item(image_of(number), {"number": number}, f"{number} {self.is_changed(number)}")


def check(stored, numbers):
    """Holds the images, and what is known of the sources, of these numbers."""
    there = [n for n in numbers if image_of(n) is not None]
    assert stored.is_there.tolist() == [image_of(n) is not None for n in numbers]
    assert stored.about == [{"number": n} for n in numbers]
    assert stored.images.shape == (len(there), *SHAPE)
    expected = [np.broadcast_to(image_of(n), SHAPE) for n in there]
    np.testing.assert_array_equal(stored.images[:], np.array(expected, np.uint8).reshape(-1, *SHAPE))


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(module, "_BYTES_OF_A_CHUNK", 4 * int(np.prod(SHAPE)))


def test_the_second_time_nothing_is_made(tmp_path):
    source = Source(list(range(30)))
    check(store(tmp_path / "a/b", source.contents()), source.numbers)
    assert source.made == source.numbers and source.shapes_asked == 1
    check(store(tmp_path / "a/b", source.contents()), source.numbers)
    assert source.made == source.numbers and source.shapes_asked == 1
    assert sorted(path.name for path in (tmp_path / "a/b").iterdir()) == [".lock", "manifest.jsonl", "pixels.u8"]


@pytest.mark.parametrize("first", range(0, 30, 3))
def test_a_process_that_is_killed_loses_a_chunk_at_most(tmp_path, first):
    source = Source(list(range(30)), dies_at=first)
    with pytest.raises(Killed):
        store(tmp_path, source.contents())
    source.made.clear()
    source.dies_at = None
    check(store(tmp_path, source.contents()), source.numbers)
    assert source.made == source.numbers[first // 4 * 4 :]
    assert source.shapes_asked == 1


@pytest.mark.parametrize("file", ["manifest.jsonl", "pixels.u8"])
def test_what_a_crash_of_the_system_leaves(tmp_path, file):
    """Either file may end anywhere."""
    source = Source(list(range(13)))
    store(tmp_path / "whole", source.contents())
    size = (tmp_path / "whole" / file).stat().st_size
    for length in {*range(0, size, 41), size - 1}:
        shutil.copytree(tmp_path / "whole", tmp_path / str(length))
        os.truncate(tmp_path / str(length) / file, length)
        check(store(tmp_path / str(length), source.contents()), source.numbers)


def test_pixels_that_somebody_has_written_to(tmp_path):
    source = Source(list(range(30)))
    store(tmp_path, source.contents())
    source.made.clear()
    with (tmp_path / "pixels.u8").open("r+b") as pixels:
        pixels.seek(14 * 18)  # in the second half of the images
        pixels.write(b"??")
    os.utime(tmp_path / "pixels.u8", (1, 1))  # the clock of a disk may be coarse
    check(store(tmp_path, source.contents()), source.numbers)
    assert 0 < len(source.made) < 20


def test_pixels_that_were_only_copied_are_checked_and_kept(tmp_path):
    source = Source(list(range(30)))
    store(tmp_path / "here", source.contents())
    source.made.clear()
    shutil.copytree(tmp_path / "here", tmp_path / "there", copy_function=shutil.copyfile)
    for _ in range(2):
        check(store(tmp_path / "there", source.contents()), source.numbers)
    assert source.made == []


@pytest.mark.parametrize(
    "manifest",
    [
        b"", b"\n", b"{}\n", b"[]\n", b"\xff\xfe\n", b"null\n", b"[" * 10_000 + b"\n",
        b'{"version": 2, "shape": [2, 3], "made_with": {"how": "all"}}\n',
        b'{"version": 2, "shape": [2, -3, 3], "made_with": {"how": "all"}}\n',
        b'{"version": 1, "shape": [2, 3, 3], "made_with": {"how": "all"}}\n{"entries": []}\n',
        b'{"version": 2, "shape": [2, 3, 3], "made_with": {"how": "all"}}\n{"entries": 3}\n',
    ],
)  # fmt: skip
def test_a_manifest_that_is_none(tmp_path, manifest):
    (tmp_path / "manifest.jsonl").write_bytes(manifest)
    (tmp_path / "pixels.u8").write_bytes(b"anything")
    source = Source([1, 2, 3])
    check(store(tmp_path, source.contents()), source.numbers)


@pytest.mark.parametrize(
    "line",
    [
        '{"entries": 3}',
        '{"entries": [[1]]}',
        '{"entries": [[5, 1, 1, 1]], "sha256": ""}',
        '{"time": "x"}',
        '{"what": 1}',
        "5",
        '{"renewed": 1}',
        '{"renewed": [["another.png"]]}',
    ],
)
def test_a_line_that_is_none(tmp_path, line):
    source = Source(list(range(9)))
    store(tmp_path, source.contents())
    lines = (tmp_path / "manifest.jsonl").read_text().splitlines()
    (tmp_path / "manifest.jsonl").write_text("\n".join([*lines[:2], line, *lines[3:]]) + "\n")
    check(store(tmp_path, source.contents()), source.numbers)


@pytest.mark.parametrize("lines", [slice(1, 1), slice(1, 2), slice(1, -1)])
def test_lines_that_are_there_twice_or_not_at_all(tmp_path, lines):
    """The last one still says that all are there."""
    source = Source(list(range(9)))
    store(tmp_path, source.contents())
    header, *chunks, last = (tmp_path / "manifest.jsonl").read_text().splitlines()
    for body in (chunks + chunks[lines], chunks[lines]):
        (tmp_path / "manifest.jsonl").write_text("\n".join([header, *body, last]) + "\n")
        check(store(tmp_path, source.contents()), source.numbers)


@given(st.lists(st.lists(st.integers(0, 40), unique=True, max_size=25), min_size=2, max_size=4), st.data())
@settings(max_examples=60, deadline=None)
def test_sources_that_come_change_and_go(tmp_path_factory, versions, data):
    """Whatever was stored of others before, and however that ended; nothing is made that was there and whole."""
    folder = tmp_path_factory.mktemp("store")
    whole, was_killed = set(), False
    for time_, numbers in enumerate([*versions, versions[-1]]):
        is_last = time_ == len(versions)
        dies_at = None if is_last else data.draw(st.one_of(st.none(), st.integers(0, 25)))
        source = Source(numbers, dies_at=dies_at, time=data.draw(st.integers(0, 1)))
        # Images make room once none of them is asked for. What has no image takes none, and that stays known.
        if not whole & set(numbers) and (was_killed or any(image_of(n) is not None for n in whole)):
            whole = set()
        known = set(whole)
        try:
            check(store(folder, source.contents()), numbers)
            whole |= set(numbers)
        except Killed:
            was_killed = True
        assert not known & set(source.made)
        assert was_killed or source.made == [n for n in numbers if n not in known]
    size = (folder / "pixels.u8").stat().st_size
    assert was_killed or size == 18 * sum(image_of(n) is not None for n in whole)


def test_what_comes_and_goes_is_added_at_the_end(tmp_path):
    """So that it takes only its own room, wherever it is in the order of the sources."""
    store(tmp_path, Source(list(range(20, 40))).contents())
    before = (tmp_path / "pixels.u8").read_bytes()
    for numbers in ([10, *range(20, 40)], [*range(20, 30), 7, 8, *range(30, 40)], list(range(39, 20, -1))):
        check(store(tmp_path, Source(numbers).contents()), numbers)
        assert (tmp_path / "pixels.u8").read_bytes().startswith(before)
    assert (tmp_path / "pixels.u8").stat().st_size == len(before) + 3 * 18


def test_what_nobody_asks_for_any_more_makes_room_once_nothing_is_of_use(tmp_path):
    store(tmp_path, Source([1, 2, 3]).contents())
    check(store(tmp_path, Source([4, 5]).contents()), [4, 5])
    assert (tmp_path / "pixels.u8").stat().st_size == 2 * 18


def test_that_a_source_has_no_image_stays_known_where_nothing_has_to_make_room(tmp_path):
    assert image_of(34) is None
    for numbers, made in (([34], [34]), ([], []), ([34], [])):
        source = Source(numbers)
        check(store(tmp_path, source.contents()), numbers)
        assert source.made == made


def test_where_only_times_differ_the_contents_decide(tmp_path):
    """As after copying a folder; it is looked at once, and what has changed is made anew."""
    store(tmp_path, Source(list(range(30))).contents())
    changed = {"time": 5, "is_changed": lambda number: number in (3, 17)}
    source = Source(list(range(30)), **changed)
    check(store(tmp_path, source.contents()), source.numbers)
    assert source.made == [3, 17] and source.digests_asked == source.numbers
    for _ in range(2):
        again = Source(list(range(30)), **changed)
        check(store(tmp_path, again.contents()), again.numbers)
        assert again.made == again.digests_asked == [] and again.shapes_asked == 0


@pytest.mark.parametrize("file", ["manifest.jsonl", "pixels.u8"])
def test_what_a_crash_of_the_system_leaves_of_what_was_added(tmp_path, file):
    """Wherever either file ends, in lines of each kind."""
    numbers = [40, *range(13), 50]
    store(tmp_path / "whole", Source(list(range(13))).contents())
    store(tmp_path / "whole", Source(numbers, time=1).contents())
    size = (tmp_path / "whole" / file).stat().st_size
    for length in {*range(0, size, 41), size - 1}:
        shutil.copytree(tmp_path / "whole", tmp_path / str(length))
        os.truncate(tmp_path / str(length) / file, length)
        check(store(tmp_path / str(length), Source(numbers, time=1).contents()), numbers)


def test_a_refusal_loses_nothing(tmp_path, monkeypatch):
    """Complete, with too little room for one more; and without that one it is as it was."""
    store(tmp_path, Source(list(range(9))).contents())
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 17, 17))
    with pytest.raises(UserError, match="of this disk are free"):
        store(tmp_path, Source([*range(9), 20]).contents())
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    source = Source(list(range(9)))
    check(store(tmp_path, source.contents()), source.numbers)
    assert source.made == []
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 18, 18))
    check(store(tmp_path, Source([20, *range(9)]).contents()), [20, *range(9)])


def test_an_image_that_changes_meanwhile(tmp_path):
    source = Source([1, 2])
    source.shape = lambda: (*SHAPE[:2], 1)  # by what the files said before they were decoded
    with pytest.raises(UserError, match=r"^1\.png: has changed meanwhile; start again"):
        store(tmp_path, source.contents())


def test_tuples_and_lists_say_the_same(tmp_path):
    """As of the files of a TFDS set, which JSON gives back as lists."""
    source = Source(list(range(9)), made_with=[("train-0.tfrecord", 1, 2)])
    for _ in range(2):
        check(store(tmp_path, source.contents()), source.numbers)
    assert source.made == source.numbers


def test_what_is_made_in_another_way_is_made_anew(tmp_path):
    store(tmp_path, Source(list(range(9))).contents())
    source = Source(list(range(9)), made_with="otherwise")
    check(store(tmp_path, source.contents()), source.numbers)
    assert source.made == source.numbers


def test_whoever_reads_goes_on_with_what_was_there(tmp_path):
    before = store(tmp_path, Source(list(range(9))).contents())
    for changed in (Source([3, 1]), Source([5, 4], made_with="otherwise")):
        check(store(tmp_path, changed.contents()), changed.numbers)
    check(before, list(range(9)))


def test_two_processes_store_once(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(module, "_SECONDS_BETWEEN_TRIES", 0.01)
    slow, quick, begun = Source(list(range(9))), Source(list(range(9))), threading.Event()
    items = slow.items

    def slowly(indices):
        for item in items(indices):
            begun.set()
            time.sleep(0.02)
            yield item

    slow.items = slowly
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(store, tmp_path, slow.contents())
        assert begun.wait(60)
        check(store(tmp_path, quick.contents()), quick.numbers)
        check(first.result(), slow.numbers)
    assert quick.made == []
    assert [message for message in caplog.messages if "waiting for it" in message] == [
        f"{tmp_path}: another process stores images there; waiting for it."
    ]


def test_a_disk_that_is_too_small_is_told_before(tmp_path, monkeypatch):
    source = Source(list(range(9)))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 100, 100))
    with pytest.raises(UserError, match=r"the images take 0\.0 GB more, and 0\.0 GB of this disk are free; make room"):
        store(tmp_path, source.contents())
    assert source.made == []


def test_a_disk_that_becomes_full(tmp_path, monkeypatch):
    source, number = Source(list(range(9))), 0
    flush = module._flush

    def full(file):
        nonlocal number
        number += 1
        if number == 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(file)

    monkeypatch.setattr(module, "_flush", full)
    with pytest.raises(
        UserError, match=rf"{tmp_path}: No space left on device; make room on the disk.*--images memory"
    ):
        store(tmp_path, source.contents())
    monkeypatch.setattr(module, "_flush", flush)
    check(store(tmp_path, source.contents()), source.numbers)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "data").touch()
    with pytest.raises(UserError, match=r"data/\.decoded.*Not a directory.*--images memory does without"):
        store(tmp_path / "data/.decoded", Source([1]).contents())


def test_a_link_in_the_place_of_the_pixels_is_not_followed(tmp_path):
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "store").mkdir()
    (tmp_path / "store/pixels.u8").symlink_to(tmp_path / "precious")
    check(store(tmp_path / "store", Source([1, 2]).contents()), [1, 2])
    assert (tmp_path / "precious").read_text() == "precious"


def test_fingerprints_are_those_of_arrays_and_are_kept(tmp_path, monkeypatch):
    images = store(tmp_path, Source(list(range(30))).contents()).images
    labels = np.arange(len(images), dtype=np.int32)
    halves = [slice(None, 11), slice(11, None)]
    expected = fingerprints([(images[half], [labels[half]]) for half in halves])
    assert fingerprints([(images.subset(half), [labels[half]]) for half in halves]) == expected
    computed = []
    monkeypatch.setattr(module, "_fingerprints", computed.append)
    assert fingerprints([(images.subset(half), [labels[half]]) for half in halves]) == expected
    assert not computed
    for other in ([(images, [labels])], [(images.subset(half), [labels[half] + 1]) for half in halves]):
        fingerprints(other)
    assert len(computed) == 2
    assert json.loads((tmp_path / "fingerprints.json").read_text())
