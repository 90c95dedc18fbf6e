"""Files and folders appear whole or not at all; a place has one writer; errors of the system name the file."""

import errno
import json
import os
import subprocess
import sys

import pytest
from PIL import Image

from s2s import files
from s2s.config.streams import opened
from s2s.drawing import Canvas
from s2s.errors import UserError


def refused(match):
    return pytest.raises(UserError, match=match)


def make(folder, content="new", fail=None) -> None:
    with files.whole_folder(folder) as partial:
        files.write(partial / "file", content)
        if fail:
            raise fail


def test_a_folder_is_replaced_whole_and_only_when_nothing_fails(tmp_path):
    make(tmp_path / "in" / "f", "old")
    for error in (KeyboardInterrupt(), OSError(errno.ENOSPC, "full")):
        with pytest.raises(type(error)):
            make(tmp_path / "in" / "f", fail=error)
    assert (tmp_path / "in" / "f" / "file").read_text() == "old"
    make(tmp_path / "in" / "f")
    assert (tmp_path / "in" / "f" / "file").read_text() == "new"
    assert os.listdir(tmp_path / "in") == ["f"]


@pytest.mark.parametrize(("call", "failures"), [("rename", 2), ("fsync", 3)])
def test_a_folder_stays_as_it_was_whichever_step_fails(tmp_path, monkeypatch, call, failures):
    make(tmp_path / "f", "old")
    plain, moment, failed = getattr(os, call), 0, 0
    while (tmp_path / "f" / "file").read_text() == "old":
        moment += 1
        calls = []

        def failing(*args, moment=moment, calls=calls, **options):
            calls.append(args)
            if len(calls) == moment:
                raise OSError(errno.EIO, "broken", *[str(args[0])] * (call != "fsync"))
            return plain(*args, **options)

        with monkeypatch.context() as patch:
            patch.setattr(os, call, failing)
            try:
                make(tmp_path / "f")
            except OSError as error:
                failed += 1
                assert str(error.filename).startswith(str(tmp_path))  # noqa: PT017
        left = [name for name in os.listdir(tmp_path) if name != "f"]
        assert left == [] or (tmp_path / "f" / "file").read_text() == "new"  # then only the old one is still there
    assert failed == failures


def test_what_cannot_be_deleted_is_named_and_goes_with_the_next(tmp_path, monkeypatch, capsys):
    make(tmp_path / "f", "old")

    def stuck(*args, **options):
        raise OSError(errno.EIO, "stuck", str(args[0]))

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", stuck)
        make(tmp_path / "f")
    assert f"warning: {tmp_path}/.removed-f could not be deleted; delete it yourself: " in capsys.readouterr().err
    assert (tmp_path / "f" / "file").read_text() == "new"
    make(tmp_path / "f", "newer")
    assert os.listdir(tmp_path) == ["f"]


def test_a_file_is_replaced_whole_and_a_link_stays_a_link(tmp_path):
    (tmp_path / "far").write_text("old")
    (tmp_path / "f").symlink_to(tmp_path / "far")
    with pytest.raises(TypeError), files.whole_file(tmp_path / "f") as file:
        file.write(b"half" + "text")
    assert (tmp_path / "far").read_text() == "old"
    with files.whole_file(tmp_path / "f") as file:
        file.write(b"new")
    assert (tmp_path / "f").is_symlink()
    assert (tmp_path / "far").read_text() == "new"
    assert sorted(os.listdir(tmp_path)) == ["f", "far"]


def test_errors_of_a_full_disk_name_the_file(tmp_path):
    os.symlink("/dev/full", tmp_path / "full")
    for write in (
        lambda: files.write(tmp_path / "full", "text"),
        lambda: _write_all(tmp_path / "full", b"text"),
        lambda: _write_all(tmp_path / "full", bytes(1 << 20)),
        lambda: Canvas(10, 10).save(tmp_path / "full"),
    ):
        with pytest.raises(OSError, match="No space left") as error:
            write()
        assert (error.value.errno, error.value.filename) == (errno.ENOSPC, str(tmp_path / "full"))


def _write_all(path, content: bytes) -> None:
    with opened(str(path)) as file:
        file.write(content)


def test_a_file_that_outgrows_its_disk_names_its_place_and_leaves_nothing(tmp_path):
    """The system refuses to write more than some bytes of a file."""
    code = ("import resource, signal, sys; from pathlib import Path; from s2s import files; "
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1000, -1))\n"
            "place = Path(sys.argv[1])\n"
            "try:\n"
            "    if sys.argv[2] == 'file':\n"
            "        with files.whole_file(place) as file: file.write(bytes(2000))\n"
            "    else:\n"
            "        with files.whole_folder(place) as partial: files.write(partial / 'part', bytes(2000))\n"
            "except OSError as error: print(error.filename)")  # fmt: skip
    for kind, named in (("file", "a"), ("folder", "a/part")):
        done = subprocess.run([sys.executable, "-c", code, tmp_path / "a", kind], capture_output=True, text=True)
        assert done.stdout == f"{tmp_path}/{named}\n", done.stderr
        assert os.listdir(tmp_path) == []


def test_a_picture_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    canvas = Canvas(20, 10)
    canvas.save(tmp_path / "p.png")
    before = (tmp_path / "p.png").read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"p.png"):
            Canvas(30, 30).save(tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes() == before
    assert os.listdir(tmp_path) == ["p.png"]
    assert Image.open(tmp_path / "p.png").size == (20, 10)


# --- claims ----------------------------------------------------------------------------------------------------------


def test_a_claimed_place_is_refused_by_name_till_its_holder_ends(tmp_path):
    code = ("import sys, time; from s2s.files import claim\n"
            "with claim(sys.argv[1], 'output'): print('mine', flush=True); time.sleep(60)")  # fmt: skip
    place = tmp_path / "in" / "f"
    process = subprocess.Popen([sys.executable, "-c", code, place], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "mine\n"
    with refused(f"^store={place}: another command is writing to this path"), files.claim(place, "store"):
        pass
    with files.claim(tmp_path / "in" / "g", "store"):
        pass
    process.kill()
    process.wait()
    with files.claim(place, "store"):
        pass
    assert os.listdir(tmp_path / "in") == []


def test_of_many_writers_that_come_and_go_one_at_a_time_has_the_place(tmp_path):
    """Each holder finds the mark that the one before has taken away; a second one at the same time would see it."""
    code = ("import os, sys, time; from s2s.errors import UserError; from s2s.files import claim\n"
            "place, end, held = sys.argv[1], time.monotonic() + 1, 0\n"
            "while time.monotonic() < end:\n"
            "    try:\n"
            "        with claim(place, 'output'):\n"
            "            os.close(os.open(place + '.mark', os.O_CREAT | os.O_EXCL)); held += 1\n"
            "            os.unlink(place + '.mark')\n"
            "    except UserError: pass\n"
            "print(held)")  # fmt: skip
    running = [
        subprocess.Popen([sys.executable, "-c", code, tmp_path / "f"], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    assert all(int(process.communicate()[0]) > 0 for process in running)
    assert os.listdir(tmp_path) == []


def test_a_file_system_without_locks_is_said_and_ends_nothing(tmp_path, monkeypatch, capsys):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", none)
    with files.claim(tmp_path / "f", "output"):
        (tmp_path / "f").write_text("mine")
    assert "this file system has no locks (No locks available)" in capsys.readouterr().err


@pytest.mark.parametrize("output", ["store/hyp.txt", "store/manifest.json", "run/checkpoints/step_00000004",
                                    "run/checkpoints/mine", "run/last", "run/metrics.jsonl", "run/last/x"])  # fmt: skip
def test_parts_of_stores_runs_and_checkpoints_are_no_places_for_output(tmp_path, output):
    (tmp_path / "store").mkdir()
    (tmp_path / "store/manifest.json").write_text(json.dumps({"format": 3, "files": {}}, indent=1))
    (tmp_path / "run/checkpoints/step_00000004").mkdir(parents=True)
    (tmp_path / "run/run.json").write_text("{}")
    (tmp_path / "run/last").symlink_to("checkpoints/step_00000004")
    with refused(f"^output={tmp_path}/{output}: lies in {tmp_path}/"), files.claim(tmp_path / output, "output"):
        pass
    for fine in ("run/hyp.txt", "run/average", "hyp.txt"):
        with files.claim(tmp_path / fine, "output"):
            pass


def test_an_error_of_the_body_is_not_blamed_on_the_output(tmp_path):
    with pytest.raises(OSError, match="elsewhere") as error, files.whole_file(tmp_path / "f"):
        raise OSError(errno.EIO, "elsewhere")
    assert error.value.filename is None
