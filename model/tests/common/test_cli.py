"""How a command ends: its exit code, one line instead of a traceback, and what its log holds."""

import argparse
import errno
import logging
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tqdm

from model.common import cli
from model.common.commands import ROOT
from model.common.errors import Interrupted, UserError

LOG = logging.getLogger("model.tests")


def run(main, *arguments, **options):
    """Runs a command; returns the code with which the process would end, 0 if it simply returns."""
    try:
        cli.run(main, "Does something.", arguments, **options)
    except SystemExit as ended:
        return ended.code
    return 0


def raising(error):
    def main(options):
        raise error

    return main


def test_a_command_that_works_gets_its_options(tmp_path, capsys):
    seen = []
    add_options = lambda parser: parser.add_argument("--times", type=cli.whole_number(1))  # noqa: E731
    arguments = ["--model_dir", str(tmp_path), "--data_dir", "some data", "--times", "3"]
    assert run(seen.append, *arguments, add_options=add_options) == 0
    (options,) = seen
    assert (options.model_dir, str(options.data_dir), options.times) == (tmp_path, "some data", 3)
    assert capsys.readouterr() == ("", "")


def test_a_command_that_is_not_of_an_experiment(capsys):
    seen = []
    assert run(seen.append, of_an_experiment=False) == 0
    assert vars(seen[0]) == {}
    assert run(seen.append, "--model_dir", "x", of_an_experiment=False) == 2
    assert "unrecognized arguments: --model_dir x" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("x.json: no such file"), 2, "x.json: no such file"),
        (Interrupted("Stopped at step 7", signal.SIGTERM), 143, "Stopped at step 7"),
        (Interrupted("Stopped at step 7", signal.SIGINT), 130, "Stopped at step 7"),
        (Interrupted("Stopped at step 7", signal.SIGHUP), 129, "Stopped at step 7"),
        (KeyboardInterrupt(), 130, "Stopped."),
        (
            OSError(errno.ENOSPC, "No space left on device", "x.npy"),
            2,
            "x.npy: No space left on device; make room on the disk, and start the same command again",
        ),
        (OSError("of no file"), 2, "of no file"),
        (PermissionError(errno.EACCES, "Permission denied", "x.npy"), 2, "x.npy: Permission denied"),
    ],
)
def test_an_end_that_has_a_reason_is_one_line(capsys, error, code, line):
    assert run(raising(error)) == code
    assert capsys.readouterr() == ("", f"{line}\n")


def test_out_of_memory_says_what_to_do(capsys):
    assert run(raising(MemoryError("Unable to allocate 3 GiB"))) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "out of memory: Unable to allocate 3 GiB; make images, network or batches smaller" in line


def test_a_mistake_of_the_program_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        cli.run(raising(ZeroDivisionError()), "", [])
    assert logging.getLogger("model").handlers == []


def test_a_new_process_ends_with_the_code_and_the_line():
    code = (
        "from model.common import cli; from model.common.errors import UserError\n"
        "def main(options): print('half'); raise UserError('what came, what was expected')\n"
        "cli.run(main, '', [])"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (2, "half\n", "what came, what was expected\n")


def test_names_that_a_terminal_cannot_show_are_printed_nevertheless():
    code = "from model.common import cli; cli.run(lambda _: print('bad-\\udcff-gr\\xf6\\xdfe'), '', [])"
    options = {"cwd": ROOT, "env": {"PYTHONIOENCODING": "ascii"}, "capture_output": True, "text": True}
    result = subprocess.run([sys.executable, "-c", code], **options)
    assert (result.returncode, result.stdout) == (0, "bad-\\udcff-gr\\xf6\\xdfe\n")


# ------------------------------------------------------------------------------------------- streams

# Logs, draws a bar, prints, and says in a file that it has come to its end.
BUSY = """
import logging, pathlib, sys, tqdm
from model.common import cli
folder, count = pathlib.Path(sys.argv[1]), int(sys.argv[2])
def main(_):
    cli.start_log(folder / "train.log")
    for _ in tqdm.trange(1000, disable=None): logging.getLogger("model.x").info("a line")
    (folder / "saved").touch()
    print("result\\n" * count)
    (folder / "ended").touch()
cli.run(main, "", [])
"""


def in_a_shell(folder, redirection, count=1):
    """Runs it as one command of a shell: its exit code, what came out, and which files it left."""
    line = f'"$0" -c "$1" "$2" {count} {redirection}; echo ${{PIPESTATUS[0]}} > "$2/code"'
    command = ["bash", "-c", line, sys.executable, BUSY, folder]
    environment = {**os.environ, "PYTHONUNBUFFERED": ""}  # set, it would change when something is written
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=environment)
    files = {path.name for path in folder.iterdir()} - {"train.log", "code"}
    return int((folder / "code").read_text()), result.stdout, result.stderr, files


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full", "2> >(head -1 >/dev/null)", "0<&- 2>&-"])
def test_a_log_that_nobody_can_read_stops_nobody(tmp_path, redirection):
    assert in_a_shell(tmp_path, redirection) == (0, "result\n\n", "", {"saved", "ended"})
    assert (tmp_path / "train.log").read_text().count("a line\n") == 1000  # and no file was given the number 2


@pytest.mark.parametrize("count", [1, 100_000])  # what fits into a buffer is written at the end
def test_output_that_nobody_reads_any_more_ends_quietly(tmp_path, count):
    code, printed, said, files = in_a_shell(tmp_path, "2>/dev/null | true", count)
    assert (code, printed, said) == (141, "", "")
    assert files == ({"saved", "ended"} if count == 1 else {"saved"})


@pytest.mark.parametrize("count", [1, 100_000])
def test_output_that_finds_no_room_is_one_line(tmp_path, count):
    code, _, said, files = in_a_shell(tmp_path, ">/dev/full", count)
    assert code == 2 and "saved" in files
    last = said.splitlines()[-1]
    assert last == "standard output: No space left on device; make room on the disk, and start the same command again"
    assert "Traceback" not in said and "ignored" not in said


def test_both_streams_in_a_pipe_that_is_closed(tmp_path):
    assert in_a_shell(tmp_path, "2>&1 | head -1") == (141, "a line\n", "", {"saved", "ended"})


def test_a_stdout_that_was_closed(tmp_path):
    code, _, _, files = in_a_shell(tmp_path, ">&-")
    assert (code, files) == (0, {"saved", "ended"})


@pytest.mark.parametrize(("text", "number"), [("1", 1), ("007", 7), ("100000", 100_000)])
def test_a_whole_number(text, number):
    assert cli.whole_number(1)(text) == cli.whole_number(1, 100_000)(text) == number


@pytest.mark.parametrize("text", ["0", "-1", "", "1.5", "many", "1e3", "nan", "101", "9" * 5000, "\u0663", "1_0", " 1"])
def test_no_whole_number(text):
    with pytest.raises(argparse.ArgumentTypeError, match=r"^expected a whole number from 1 to 100, received "):
        cli.whole_number(1, 100)(text)


# ------------------------------------------------------------------------------------------- the log


def logging_main(path, end=None):
    def main(options):
        cli.start_log(path)
        LOG.debug("details")
        LOG.info("begun")
        LOG.warning("beware of 5 µ")
        LOG.info("beside a bar", extra={"on_bar": True})
        if end is not None:
            raise end

    return main


def test_the_log_is_on_the_terminal_and_in_the_file_with_the_time(tmp_path, capsys):
    path = tmp_path / "train.log"
    for _ in range(2):  # what an earlier run has said stays
        assert run(logging_main(path, UserError("the reason"))) == 2
        assert capsys.readouterr() == ("", "begun\nbeware of 5 µ\nthe reason\n")
    said = re.findall(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert said == ["INFO begun", "WARNING beware of 5 µ", "INFO beside a bar", "ERROR the reason"] * 2


def test_after_a_command_nothing_is_logged(tmp_path, capsys):
    assert run(logging_main(tmp_path / "train.log")) == 0
    before = (tmp_path / "train.log").read_bytes()
    capsys.readouterr()
    LOG.warning("to whom?")
    assert logging.getLogger("model").handlers == [] and capsys.readouterr().out == ""
    assert (tmp_path / "train.log").read_bytes() == before


def test_a_line_of_the_log_is_told_once_whatever_libraries_do(tmp_path):
    """What they log without a logger of their own gives the root of all loggers a handler."""
    code = (
        "import logging, pathlib, sys; from model.common import cli\n"
        "def main(_):\n"
        "    cli.start_log(pathlib.Path(sys.argv[1]))\n"
        "    logging.info('of a library'); logging.getLogger('model').info('ours')\n"
        "cli.run(main, '', [])"
    )
    command = [sys.executable, "-c", code, tmp_path / "train.log"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "ours\n")


def test_a_line_of_the_log_does_not_tear_a_bar_apart(tmp_path, capsys):
    def main(options):
        cli.start_log(tmp_path / "train.log")
        with tqdm.tqdm(total=2, file=sys.stderr, bar_format="[{n}]") as bar:
            bar.update()
            LOG.info("in between")

    assert run(main) == 0
    assert "in between" in re.split(r"[\r\n]", capsys.readouterr().err)


def test_a_log_that_finds_no_room_stops_nobody(tmp_path, capsys):
    assert run(logging_main(Path("/dev/full"))) == 0
    assert capsys.readouterr().err == "begun\nbeware of 5 µ\n"


def test_a_log_that_cannot_be_opened_is_one_line(tmp_path, capsys):
    assert run(logging_main(tmp_path / "nowhere" / "train.log")) == 2
    assert capsys.readouterr().err == f"{tmp_path / 'nowhere' / 'train.log'}: No such file or directory\n"


def test_a_log_is_not_written_through_a_link(tmp_path, capsys):
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "train.log").symlink_to("precious")
    assert run(logging_main(tmp_path / "train.log")) == 2
    assert capsys.readouterr().err == f"{tmp_path / 'train.log'}: a link, through which nothing is written; delete it\n"
    assert (tmp_path / "precious").read_text() == "precious"


# ------------------------------------------------------------------------------------------- what others wrote

HOSTILE = {
    "colour": ("\x1b[31m", r"\x1b[31m"),
    "one byte for an escape sequence": ("\x9b31m", r"\x9b31m"),
    "line of its own": ("\n2026-01-01 00:00:00 INFO Done", r"\n2026-01-01 00:00:00 INFO Done"),
    "line written over": ("\rDone.   ", r"\rDone.   "),
    "from right to left": ("\u202egnp.exe", r"\u202egnp.exe"),
    "no UTF-8": ("\udcff", r"\udcff"),
}


@pytest.mark.parametrize(("name", "shown"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_name_is_told_on_one_line(tmp_path, capsys, name, shown):
    def main(options):
        cli.start_log(tmp_path / "train.log")
        LOG.info("%s: read.", name)
        LOG.warning(f"{name} 100%")
        raise UserError(f"{name}: not there")

    assert run(raising(UserError(f"{name}: not there"))) == 2
    assert capsys.readouterr().err == f"{shown}: not there\n"
    assert run(raising(OSError(errno.ENOENT, "No such file", name))) == 2
    assert capsys.readouterr().err == f"{shown}: No such file\n"
    assert run(main) == 2
    expected = [f"{shown}: read.", f"{shown} 100%", f"{shown}: not there"]
    assert capsys.readouterr().err.split("\n") == [*expected, ""]
    lines = (tmp_path / "train.log").read_bytes().decode().split("\n")
    assert [re.sub(r"^[\d-]{10} [\d:,]{12} [A-Z]+ ", "", line) for line in lines] == [*expected, ""]


def test_an_option_that_cannot_be_is_told_on_lines_of_its_own(capsys):
    assert run(lambda _: None, "--model_dirs", "\x1b[2J\u202e") == 2
    said = capsys.readouterr().err
    assert said.splitlines()[-1].endswith(r"unrecognized arguments: --model_dirs \x1b[2J\u202e")
    assert all(line.isprintable() for line in said.splitlines())
    add_options = lambda parser: parser.add_argument("--times", type=cli.whole_number(1))  # noqa: E731
    assert run(lambda _: None, "--times", "\x1b[2J", add_options=add_options) == 2
    assert r"received \x1b[2J" in capsys.readouterr().err


def test_a_long_name_makes_no_long_line(tmp_path, capsys):
    def main(options):
        cli.start_log(tmp_path / "train.log")
        LOG.info("%s: read.", "\x1b" * 200_000)
        raise UserError(f"params.json: unknown key '{'x' * 200_000}'; see the manual")

    assert run(main) == 2
    logged, said = capsys.readouterr().err.splitlines()
    assert max(map(len, [logged, said])) == 4000 and logged.endswith(": read.")
    assert said.startswith("params.json: unknown key 'xxx") and said.endswith("xxx'; see the manual")
    assert (tmp_path / "train.log").stat().st_size < 9_000


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT])
def test_a_log_that_may_not_be_written_goes_to_the_terminal(tmp_path, capsys, monkeypatch, number):
    path = tmp_path / "train.log"

    def refuse(*_):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(cli._File, "_open", refuse)
    assert run(logging_main(path, UserError("the reason"))) == 2
    first = f"{path}: cannot be written ({os.strerror(number)}); the log is only here."
    assert capsys.readouterr() == ("", f"{first}\nbegun\nbeware of 5 µ\nthe reason\n")
    assert not path.exists()
