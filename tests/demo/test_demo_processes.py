"""No program outlives the demo."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from demo.processes import Interrupted, Processes, ServiceFailed

TOOLS = Path(__file__).parents[2] / "tools"
ENVIRONMENT = {"PATH": os.environ["PATH"]}
# A service with a child of its own that ignores SIGTERM, as far as it can.
STUBBORN = "trap '' TERM; sleep 60 & echo child $!; echo ready; wait"
OBEDIENT = "sleep 60 & echo child $!; echo ready; wait"


@pytest.fixture(autouse=True)
def handlers():
    """``Processes`` takes over signal handlers."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def is_running(pid: int) -> bool:
    """Whether it still runs; somebody who was killed gets a moment to be gone."""
    for _ in range(50):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX":
                return False
        except FileNotFoundError:
            return False
        time.sleep(0.01)
    return True


def child_of(log: Path) -> int:
    return int(next(line for line in log.read_text().splitlines() if line.startswith("child ")).split()[1])


def test_a_service_and_its_children_end_with_the_context(tmp_path):
    with Processes(ENVIRONMENT) as processes:
        service = processes.start("service", ["sh", "-c", OBEDIENT], tmp_path / "log")
        service.wait_for_line("ready", 5)
        child = child_of(tmp_path / "log")
        assert service.process.poll() is None
    assert not is_running(service.process.pid)
    assert not is_running(child)


def test_who_ignores_sigterm_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr("demo.processes._GRACE_S", 0.2)
    with Processes(ENVIRONMENT) as processes:
        service = processes.start("service", ["sh", "-c", STUBBORN], tmp_path / "log")
        service.wait_for_line("ready", 5)
    assert not is_running(service.process.pid)
    assert not is_running(child_of(tmp_path / "log"))


def test_a_service_that_dies_says_why(tmp_path):
    with Processes(ENVIRONMENT) as processes:
        service = processes.start("the broker", ["sh", "-c", "echo no key >&2; exit 2"], tmp_path / "log")
        with pytest.raises(ServiceFailed, match=r"the broker ended with exit code 2:\nno key"):
            service.wait_for_line("ready", 5)


def test_a_service_that_never_gets_ready(tmp_path):
    with Processes(ENVIRONMENT) as processes:
        service = processes.start("the broker", ["sh", "-c", "echo thinking; sleep 60"], tmp_path / "log")
        with pytest.raises(ServiceFailed, match=r"not ready after 0\.2 s"):
            service.wait_for_line("ready", 0.2)


def test_running_a_program(tmp_path):
    with Processes(ENVIRONMENT) as processes:
        result = processes.run(["sh", "-c", "cat; echo $WORD >&2; exit 3"], stdin=b"in", environment={"WORD": "hello"})
    assert (result.code, result.stdout, result.stderr) == (3, b"in", "hello\n")


def test_a_program_that_hangs_is_ended():
    with Processes(ENVIRONMENT) as processes:
        assert processes.run(["sleep", "60"], timeout_s=0.1).code == -signal.SIGTERM


def test_nothing_starts_after_the_end():
    with Processes(ENVIRONMENT) as processes:
        pass
    with pytest.raises(Interrupted):
        processes.run(["true"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_end_everything(tmp_path, number):
    program = (
        f"import sys; sys.path.insert(0, {str(TOOLS)!r})\n"
        "from pathlib import Path\nfrom demo.processes import Processes\n"
        "with Processes({'PATH': '/usr/bin:/bin'}) as processes:\n"
        f"    processes.start('service', ['sh', '-c', {OBEDIENT!r}], Path({str(tmp_path / 'log')!r})).wait_for_line('ready', 5)\n"
        "    print('up', flush=True)\n"
        "    processes.run(['sleep', '60'])\n"
    )
    demo = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    with demo:
        assert demo.stdout is not None
        assert demo.stdout.readline() == b"up\n"
        children = Path(f"/proc/{demo.pid}/task/{demo.pid}/children")
        end = time.monotonic() + 5
        while len(pids := children.read_text().split()) < 2 and time.monotonic() < end:
            time.sleep(0.01)
        demo.send_signal(number)
        demo.wait(timeout=5)
    assert len(pids) == 2
    assert not any(is_running(pid) for pid in (*map(int, pids), child_of(tmp_path / "log")))
