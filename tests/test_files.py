import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from geoview.errors import BusyError, StorageFullError
from geoview.files import (
    claimed,
    exclusive,
    full_disk_told,
    in_turn,
    remove_folder,
    shared,
    sync,
    write_binary,
    write_json,
    write_text,
)


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def python(code, *args):
    return [sys.executable, "-c", textwrap.dedent(code), *map(str, args)]


@pytest.mark.parametrize(("write", "content"), [(write_text, "é\n1\r\n"), (write_binary, b"\x00\xff")])
def test_appears_when_it_is_complete(tmp_path, write, content):
    path = tmp_path / "new" / "file"
    with write(path) as file:
        file.write(content)
        assert not path.exists()
    assert path.read_bytes() == (content if isinstance(content, bytes) else content.encode())
    assert names(path.parent) == ["file"]


@pytest.mark.parametrize(("write", "part"), [(write_text, "half"), (write_binary, b"half")])
@pytest.mark.parametrize("fault", [RuntimeError, KeyboardInterrupt])
def test_an_exception_leaves_nothing_and_keeps_the_old_file(tmp_path, write, part, fault):
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text("kept")
    for path in (old, new):
        with pytest.raises(fault), write(path) as file:
            file.write(part)
            raise fault
    assert names(tmp_path) == ["old"]
    assert old.read_text() == "kept"


def test_a_killed_writer_keeps_the_old_file(tmp_path):
    path = tmp_path / "old"
    path.write_text("kept")
    code = """
        import os, pathlib, signal, sys
        from geoview.files import write_text
        with write_text(pathlib.Path(sys.argv[1])) as file:
            file.write("half")
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
    """
    assert subprocess.run(python(code, path)).returncode == -signal.SIGKILL
    assert path.read_text() == "kept"


def test_replaces_the_old_file(tmp_path):
    path = tmp_path / "file"
    for content in ("one", "two"):
        with write_text(path) as file:
            file.write(content)
    assert path.read_text() == "two"


def test_what_appears_was_synced_before_it_got_its_name(tmp_path, monkeypatch):
    path, calls = tmp_path / "file", []
    fsync, replace = os.fsync, type(path).replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append(str(Path(f"/proc/self/fd/{fd}").readlink())), fsync(fd)))
    monkeypatch.setattr(type(path), "replace", lambda a, b: (calls.append("replace"), replace(a, b)))
    with write_text(path) as file:
        file.write("x")
    assert calls[0].startswith(str(tmp_path / ".file."))
    assert calls[1:] == ["replace", str(tmp_path)]


def test_write_json(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"b": [1, 2.5, None, "é"]})
    assert json.loads(path.read_text(encoding="utf-8")) == {"b": [1, 2.5, None, "é"]}
    assert path.read_text().endswith("}\n")
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"b": float("nan")})
    assert json.loads(path.read_text(encoding="utf-8")) == {"b": [1, 2.5, None, "é"]}


def test_sync_takes_files_and_folders(tmp_path):
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    (tmp_path / "a").write_text("x")
    sync(tmp_path / "a")
    sync(tmp_path)
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
    with pytest.raises(FileNotFoundError):
        sync(tmp_path / "b")


def test_remove_folder(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    remove_folder(tmp_path / "a")
    remove_folder(tmp_path / "a")
    assert names(tmp_path) == []


HOLD = """
    import pathlib, sys
    from geoview.files import exclusive
    with exclusive(pathlib.Path(sys.argv[1])):
        print("held", flush=True)
        sys.stdin.read()
"""


def held_by_another(folder):
    process = subprocess.Popen(python(HOLD, folder), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_one_process_holds_a_folder(tmp_path):
    folder = tmp_path / "run"
    process = held_by_another(folder)
    try:
        with pytest.raises(BusyError, match=rf"{folder}: process {process.pid} is writing there"), exclusive(folder):
            pass
    finally:
        process.communicate("")
    with exclusive(folder):
        assert (folder / "lock").read_text() == str(os.getpid())


def test_a_killed_process_holds_nothing(tmp_path):
    process = held_by_another(tmp_path)
    process.kill()
    process.communicate()
    with exclusive(tmp_path):
        assert (tmp_path / "lock").read_text() == str(os.getpid())


def test_an_exception_lets_go(tmp_path):
    with pytest.raises(RuntimeError, match="mine"), exclusive(tmp_path):
        raise RuntimeError("mine")
    with exclusive(tmp_path), pytest.raises(BusyError, match=f"process {os.getpid()} "), exclusive(tmp_path):
        pass


def test_many_share_a_folder_and_one_alone_keeps_them_out(tmp_path):
    with shared(tmp_path), shared(tmp_path), pytest.raises(BusyError, match="is writing there"), exclusive(tmp_path):
        pass
    with exclusive(tmp_path), pytest.raises(BusyError, match="is writing there"), shared(tmp_path):
        pass
    with exclusive(tmp_path):
        pass


def test_a_file_is_claimed_by_one_and_free_when_he_is_gone(tmp_path):
    with claimed(tmp_path / "a") as first, claimed(tmp_path / "a") as second, claimed(tmp_path / "b") as other:
        assert (first, second, other) == (True, False, True)
    with claimed(tmp_path / "a") as again:
        assert again
    with claimed(tmp_path / "nowhere" / "a") as lost:
        assert not lost
    with pytest.raises(RuntimeError, match="mine"), claimed(tmp_path / "a"):
        raise RuntimeError("mine")
    with claimed(tmp_path / "a") as free:
        assert free


def test_turns_are_taken_one_after_the_other(tmp_path):
    inside, most = [], []

    def take():
        with in_turn(tmp_path / "new" / "lock"):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.002)
            inside.pop()

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 8


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_told(tmp_path, number):
    with pytest.raises(StorageFullError, match=rf"{tmp_path}: disk full .*free some space") as caught:  # noqa: SIM117
        with full_disk_told(tmp_path):
            raise OSError(number, os.strerror(number))
    assert isinstance(caught.value.__cause__, OSError)
    assert "\n" not in str(caught.value)


def test_other_errors_pass_as_they_are(tmp_path):
    with pytest.raises(PermissionError), full_disk_told(tmp_path):
        raise PermissionError(errno.EACCES, "no")
    with pytest.raises(StorageFullError, match=r"^told before$"), full_disk_told(tmp_path):
        raise StorageFullError("told before")


def test_a_limit_on_file_sizes_is_told_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("kept")
    code = """
        import pathlib, resource, sys
        from geoview.errors import StorageFullError
        from geoview.files import full_disk_told, write_text
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        path = pathlib.Path(sys.argv[1])
        try:
            with full_disk_told(path), write_text(path) as file:
                file.write("x" * 100_000)
        except StorageFullError as error:
            print(error)
    """
    told = subprocess.run(python(code, path), capture_output=True, text=True)
    assert told.stdout.startswith(f"{path}: disk full (File too large)"), told.stderr
    assert path.read_text() == "kept"
    assert names(tmp_path) == ["file"]
