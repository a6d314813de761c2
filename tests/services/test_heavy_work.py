"""Heavy work: beside the event loop, by so many threads and no more, in order, with places that nobody else can take."""

import asyncio
import threading

import pytest

from kbs_rim.appraisal.appraise import Candidate, asks_for_more
from kbs_rim.appraisal.workload import parse_workload
from kbs_rim.errors import ConfigurationError
from kbs_rim.measurement import chain_kernel
from kbs_rim.measurement.chain_kernel import NATIVE, KernelChoice, choose
from kbs_rim.measurement.image import ImageMeasurements, measure_image
from kbs_rim.services import broker as broker_module
from kbs_rim.services import registry as registry_module
from kbs_rim.services.exchange import BusyError
from kbs_rim.services.heavy_work import Lane, StoppingError
from kbs_rim.settings import AppraisalSettings, Settings
from kbs_rim.wiring import heavy_work
from tests.broker_stage import SECRETS, VMS, Site, Starter

VM = "qemu-kernel"
LONG_S = 10


@pytest.fixture
def lane():
    made = Lane("test", 2)
    yield made
    made.stop()


class Gate:
    """Work that waits to be let go, and says how much of it ran at the same time."""

    def __init__(self) -> None:
        self.running = self.most = 0
        self.order: list[int] = []
        self._lock, self.full, self.open = threading.Lock(), threading.Semaphore(0), threading.Event()

    def __call__(self, number: int = 0) -> int:
        with self._lock:
            self.order.append(number)
            self.running += 1
            self.most = max(self.most, self.running)
        self.full.release()
        assert self.open.wait(LONG_S)
        with self._lock:
            self.running -= 1
        return number


def test_no_more_than_the_threads_work_at_once_and_those_who_wait_are_served_in_order(lane):
    gate, doors = Gate(), (lane.door(10), lane.door(10))
    futures = [doors[number % 2].submit(gate, number) for number in range(8)]
    assert gate.full.acquire(timeout=LONG_S)
    assert gate.full.acquire(timeout=LONG_S)
    assert lane.counts.inside == 8
    gate.open.set()
    assert [future.result(LONG_S) for future in futures] == list(range(8))
    assert gate.most == 2
    assert sorted(gate.order) == gate.order[:2] + sorted(gate.order[2:])
    assert (lane.counts.inside, lane.counts.most_inside, lane.counts.turned_away) == (0, 8, 0)


def test_a_full_door_turns_away_and_another_door_does_not(lane):
    gate, guests, administrators = Gate(), lane.door(3), lane.door(1)
    waiting = [guests.submit(gate) for _ in range(3)]
    for _ in range(2):
        with pytest.raises(BusyError) as busy:
            guests.submit(gate)
        assert busy.value.retry_after_s > 0
    waiting.append(administrators.submit(gate))
    assert lane.counts.turned_away == 2
    gate.open.set()
    for future in waiting:
        future.result(LONG_S)
    assert guests.submit(lambda: 5).result(LONG_S) == 5


def test_a_place_is_given_back_by_work_that_fails_or_is_called_off(lane):
    gate, door = Gate(), lane.door(4)

    def fail() -> None:
        raise KeyError("lost")

    with pytest.raises(KeyError):
        door.submit(fail).result(LONG_S)
    running = [door.submit(gate) for _ in range(2)]
    waiting = [door.submit(gate) for _ in range(2)]
    assert [future.cancel() for future in waiting] == [True, True]
    assert lane.counts.inside == 2
    gate.open.set()
    for future in running:
        future.result(LONG_S)
    assert lane.counts.inside == 0


def test_stopping_ends_long_work_at_its_next_pause_and_forgets_what_waits():
    lane = Lane("test", 1)
    door, started = lane.door(5), threading.Event()

    def for_ever() -> None:
        while True:
            started.set()
            lane.pause()

    running, waiting = door.submit(for_ever), door.submit(int)
    assert started.wait(LONG_S)
    lane.stop()
    with pytest.raises(StoppingError):
        running.result(LONG_S)
    assert waiting.cancelled()
    with pytest.raises(StoppingError):
        door.submit(int)
    assert lane.counts.inside == 0


@pytest.mark.parametrize(("workers", "threads"), [(1, 1), (3, 3)])
def test_the_configured_number_of_replays_with_the_native_kernel_and_one_with_the_pure(workers, threads, monkeypatch):
    made = heavy_work(Settings(appraisal=AppraisalSettings(workers=workers, kernel="pure")))
    assert (made.reading.threads, made.replays.threads) == (1, 1)
    monkeypatch.setattr(chain_kernel, "NATIVE", NATIVE or object())
    made = heavy_work(Settings(appraisal=AppraisalSettings(workers=workers, kernel="native")))
    assert (made.reading.threads, made.replays.threads) == (1, threads)
    monkeypatch.setattr(chain_kernel, "NATIVE", None)
    with pytest.raises(ConfigurationError, match=r"appraisal\.kernel"):
        heavy_work(Settings(appraisal=AppraisalSettings(kernel="native")))
    monkeypatch.undo()
    choose(KernelChoice.AUTO)


@pytest.mark.parametrize("asked", [True, False])
async def test_replays_and_parsers_run_beside_the_event_loop_and_are_bounded(start: Starter, monkeypatch, asked: bool):
    """Three guests at once, one thread: never two appraisals at a time, and none of the work on the loop's thread."""
    threads: dict[str, set[str]] = {}
    running, most, lock = 0, 0, threading.Lock()

    def watch(module, name: str) -> None:
        real = getattr(module, name)

        def watched(*args, **kwargs):
            nonlocal running, most
            with lock:
                threads.setdefault(name, set()).add(threading.current_thread().name.rpartition("_")[0])
                running, most = running + (name == "appraise"), max(most, running + (name == "appraise"))
            try:
                return real(*args, **kwargs)
            finally:
                with lock:
                    running -= name == "appraise"

        monkeypatch.setattr(module, name, watched)

    for name in ("parse_evidence", "parse_cca_token", "read_log", "read_tree", "read_runtime", "appraise"):
        watch(broker_module, name)
    if asked:  # these workloads ask for no tree and no log but the VMM's: then there is nothing to take a trip for
        monkeypatch.setattr(broker_module, "asks_for_more", lambda candidates: True)
    site: Site = await start(appraisal={"workers": 1})
    values = await asyncio.gather(*(site.fetch(vm) for vm in VMS))
    assert values == [SECRETS[vm] for vm in VMS]
    others = "reading" if asked else ""
    assert threads == {
        "parse_evidence": {"reading"},
        "parse_cca_token": {"reading"},
        "read_log": {"reading"},
        "read_tree": {others},
        "read_runtime": {others},
        "appraise": {"replay"},
    }
    assert most == 1


async def test_a_registration_is_read_beside_the_event_loop(site: Site, monkeypatch):
    names = []
    real = ImageMeasurements.from_document

    def watched(*args, **kwargs):
        if not kwargs.get("partial"):  # what a store reads back has no granule digests
            names.append(threading.current_thread().name)
        return real(*args, **kwargs)

    monkeypatch.setattr(registry_module.ImageMeasurements, "from_document", watched)
    document = {"name": "blob", "roles": ["initrd"], "measurements": measure_image(bytes(1 << 20)).to_document()}
    answer = await site.ask("POST", "/admin/v1/images", document)
    assert answer.status == 201, answer
    assert names
    assert all(name.startswith("reading") for name in names)


async def test_a_broker_whose_places_are_taken_says_when_to_come_again(site: Site, monkeypatch):
    """A document that finds no place is a 503 with Retry-After, and nothing waits for it."""

    def busy(*_args, **_kwargs):
        raise BusyError("Too much work is waiting.", retry_after_s=2)

    monkeypatch.setattr("kbs_rim.services.heavy_work.Door.submit", busy)
    big = {"name": "x" * 70_000}
    answer = await site.ask("POST", "/admin/v1/images", big)
    assert (answer.status, answer.code, answer.headers["Retry-After"]) == (503, "busy", "2")


def candidate(**changes: object) -> Candidate:
    images = [{"role": role, "images": [f"sha256:{digit * 64}"]} for role, digit in (("kernel", "0"), ("device-tree", "1"))]
    memory = {"base": 1 << 30, "size": {"min": 1 << 30, "max": 1 << 30}}
    return Candidate(parse_workload({"name": "web", "images": images, "memory": memory, **changes}), 1)


def test_a_workload_with_a_judged_tree_or_runtime_logs_is_worth_a_trip():
    plain = candidate()
    judged = candidate(device_tree={"mode": "rules", "pack": "qemu-virt"})
    runtime = candidate(realm={"rems": ["zero", "log", "zero", "zero"]}, runtime={"logs": [{"kind": "aael"}]})
    assert [asks_for_more(those) for those in ((), (plain,), (plain, judged), (runtime, plain))] == [False, False, True, True]
