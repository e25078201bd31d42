"""What a program that is not trusted can do: nothing but compute, in its time and memory."""

from __future__ import annotations

import http.server
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from scramble.errors import RunError
from scramble.runs.sandbox import sandbox
from scramble.runs.sandbox.sandbox import Isolation, Sandbox

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
ISOLATIONS: tuple[Isolation, ...] = ("full", "seccomp")
TESTS = "assert abs(f(1) - 2) < 0.1"
QUICK = Sandbox(seconds=0.2, memory=256 << 20)


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_right_programs_pass_and_wrong_ones_do_not(isolation: Isolation) -> None:
    box = Sandbox(isolation=isolation)
    assert box.run("def f(x): return x + 1", TESTS).passed
    assert not box.run("def f(x): return x", TESTS).passed
    assert not box.run("def f(x: return", TESTS).passed
    assert not box.run("raise SystemExit", TESTS).passed
    assert box.run("def f(x): return x + 1", TESTS).isolation.keys() == {
        "network",
        "processes",
        "writes",
        "reads",
    }


USUAL = {
    "library": "import numpy\ndef f(x): return int(numpy.ones(2).sum())",
    "types": "import collections, dataclasses, enum, typing\n"
    "P = collections.namedtuple('P', 'a b')\ndef f(x): return P(1, 2).b",
    "asyncio": "import asyncio\nasync def g(x): return x + 1\ndef f(x): return asyncio.run(g(x))",
    "threads": "from concurrent.futures import ThreadPoolExecutor as E\n"
    "def f(x):\n    with E(2) as e: return list(e.map(lambda y: y + 1, [x]))[0]",
    "recursion": "import sys\nsys.setrecursionlimit(10**6)\n"
    "def g(n): return 0 if n == 0 else 1 + g(n - 1)\ndef f(x): return g(20_000) - 19_998",
    "randomness": "import random, secrets\nsecrets.token_hex()\ndef f(x): return 2",
}


@pytest.mark.parametrize("program", USUAL.values(), ids=USUAL)
def test_usual_programs_run(program: str) -> None:
    assert Sandbox().run(program, TESTS).passed


ENDLESS = {
    "loop": "while True: pass",
    "memory, in steps": "x = []\nwhile True: x.append('a' * 10**6)",
    "output": "while True: print('x' * 10_000)",
    "sleep": "import time\ntime.sleep(60)",
    "threads": "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(60,)).start()",
    "ignores the first signal": "import signal\n"
    "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGXCPU])\nwhile True: pass",
}


@pytest.mark.parametrize("program", ENDLESS.values(), ids=ENDLESS)
def test_what_does_not_end_is_ended(program: str) -> None:
    began = time.monotonic()
    assert not QUICK.run(program, TESTS).passed
    assert time.monotonic() - began < QUICK.wall + 2


WITHOUT_RIGHT = {
    "fork": "import os\nos.fork()",
    "fork by subprocess": "import subprocess, sys\nsubprocess.run([sys.executable, '-c', ''])",
    "exec": "import os\nos.execv('/bin/true', ['true'])",
    "socket": "import socket\nsocket.socket()",
    "unix socket": "import socket\nsocket.socket(socket.AF_UNIX)",
    "signal to the parent": "import os\nos.kill(os.getppid(), 0)",
    "higher limits": "import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
    "much memory at once": "x = bytearray(1 << 31)",
    "file mode": "import os\nos.chmod('.', 0o777)",
    "large file": "import os\nopen('a', 'wb').write(bytes(1 << 25))",
    "its own memory": "open('/proc/self/mem', 'rb').read(1)",
}


@pytest.mark.parametrize("isolation", ISOLATIONS)
@pytest.mark.parametrize("program", WITHOUT_RIGHT.values(), ids=WITHOUT_RIGHT)
def test_it_may_not(program: str, isolation: Isolation) -> None:
    """Each would pass if the call succeeded."""
    assert not Sandbox(isolation=isolation).run(f"{program}\ndef f(x): return 2", TESTS).passed


@pytest.mark.parametrize("name", ["fork by subprocess", "socket", "unix socket", "file mode"])
def test_without_isolation_it_may(name: str) -> None:
    """So that the refusals above are the isolation's, not mistakes of the programs."""
    found = Sandbox(isolation="none").run(f"{WITHOUT_RIGHT[name]}\ndef f(x): return 2", TESTS)
    assert found.passed
    assert found.isolation == {}


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_nothing_is_written_outside_its_folder(isolation: Isolation, tmp_path: Path) -> None:
    kept = tmp_path / "kept.txt"
    kept.write_text("kept")
    home = Path.home() / f"scramble-test-{os.getpid()}"
    for call in (
        f"open({str(tmp_path / 'new')!r}, 'w')",
        f"open({str(kept)!r}, 'a').write('x')",
        f"open({str(home)!r}, 'w')",
        "open('../new', 'w')",
        f"import os; os.unlink({str(kept)!r})",
        f"import os; os.rename({str(kept)!r}, {str(tmp_path / 'new')!r})",
        f"import os; os.mkdir({str(tmp_path / 'new')!r})",
        f"import os; os.symlink('/', {str(tmp_path / 'new')!r})",
        f"import os; os.link({str(kept)!r}, {str(tmp_path / 'new')!r})",
        f"import os; os.truncate({str(kept)!r}, 0)",
        f"import os; os.utime({str(kept)!r}, (0, 0))",
        f"import os; os.close(os.open({str(kept)!r}, os.O_RDONLY | os.O_TRUNC))",
        f"import os; os.mkfifo({str(tmp_path / 'new')!r})",
    ):
        before = (kept.read_text(), kept.stat().st_mtime_ns)
        assert not Sandbox(isolation=isolation).run(f"{call}\ndef f(x): return 2", TESTS).passed, call
        assert (kept.read_text(), kept.stat().st_mtime_ns) == before
        assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]
        assert not home.exists()


def test_with_landlock_it_writes_in_its_folder_and_reads_nothing_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "answers").write_text("2")
    box = Sandbox()
    if "Landlock" not in box.run("", "").isolation["writes"]:
        pytest.skip("this kernel has no Landlock")
    own = "open('a', 'w').write('2')\ndef f(x): return int(open('a').read())"
    assert box.run(own, TESTS).passed
    theirs = f"def f(x): return int(open({str(tmp_path / 'answers')!r}).read())"
    assert not box.run(theirs, TESTS).passed
    assert Sandbox(isolation="none").run(theirs, TESTS).passed


def test_it_inherits_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    program = "import os\ndef f(x): return 2 if 'HF_TOKEN' not in os.environ else 0"
    assert Sandbox().run(program, TESTS).passed


@pytest.fixture
def server() -> Iterator[int]:
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield found.server_port
        found.shutdown()


def test_a_server_on_this_machine_cannot_be_reached(server: int) -> None:
    program = (
        "import socket\ndef f(x):\n"
        f"    socket.create_connection(('127.0.0.1', {server}), 1).close()\n    return 2"
    )
    socket.create_connection(("127.0.0.1", server), 1).close()
    assert Sandbox(isolation="none").run(program, TESTS).passed
    assert not Sandbox().run(program, TESTS).passed


def test_the_machine_is_refused_where_it_cannot_isolate(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = sandbox._CHILD.replace("main()", "").replace(
        "import main", "import main; import os; os.uname = lambda: type('U', (), {'machine': 'aarch64'})"
    )
    monkeypatch.setattr(sandbox, "_CHILD", broken + "main()")
    with pytest.raises(RunError, match="cannot be isolated here: the seccomp filter is written for x86-64"):
        Sandbox().run("", "")
    assert Sandbox(isolation="none").run("", "").passed


def test_a_process_that_does_not_start_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_CHILD", "raise SystemExit(7)")
    with pytest.raises(RunError, match=r"said nothing \(exit code 7\)"):
        Sandbox().run("", "")


def test_its_processes_and_folders_are_gone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sandbox.tempfile, "tempdir", str(tmp_path))
    started = []
    popen = sandbox.subprocess.Popen

    def start(*args: object, **kwargs: object) -> object:
        started.append(popen(*args, **kwargs))  # type: ignore[call-overload]
        return started[-1]

    monkeypatch.setattr(sandbox.subprocess, "Popen", start)
    Sandbox(seconds=1, isolation="none").run(
        "import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])", "x"
    )
    assert list(tmp_path.iterdir()) == []
    deadline = time.monotonic() + 5
    while _group_lives(started[0].pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _group_lives(started[0].pid)


def _group_lives(group: int) -> bool:
    """Whether a process of the group is there that is not a zombie."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            return True
    return False
