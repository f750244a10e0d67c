"""Settlement: each second is charged once, whatever happens between two writes."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from hypothesis import given
from hypothesis import strategies as st

from finetune_api.v1alpha1.profile import Price
from finetune_operator.usage.months import Month, month_of
from finetune_operator.usage.settlement import (
    COMPACTED_AFTER,
    DAY,
    MOST_MARKS,
    RESERVED_FOR,
    Mark,
    MonthAccount,
    Observation,
    PodUse,
    reserved,
    settled,
    training_of,
)
from finetune_operator.usage.values import ReservationRequest

NOVEMBER = Month(2026, 11)
START = NOVEMBER.start + 20 * DAY
PRICE = Price(per_gpu_hour="2.50", currency="EUR")
CAP = 200_000
TRAINING = "train/uid/rev"
POD = f"{TRAINING}/pod"
SERVING = "serve/pod"


def pod(key: str = POD, *, start: int = START, end: int | None = None, gpus: int = 1) -> PodUse:
    return PodUse(key=key, job="demo", gpus=gpus, start=start, end=end, price=PRICE)


def request(key: str = TRAINING, cap: int | None = CAP) -> ReservationRequest:
    return ReservationRequest(key=key, namespace="ns", job="demo", cap=cap, price=PRICE)


def observing(*pods: PodUse, under_way: bool = True) -> Observation:
    keys = frozenset(training for each in pods if (training := training_of(each.key)) is not None)
    return Observation(pods=pods, under_way=keys if under_way else frozenset(), retained=keys)


def charged(account: MonthAccount) -> int:
    return sum(account.days.values())


def test_a_pod_is_charged_from_its_node_to_its_end() -> None:
    (account,) = settled(MonthAccount(month=NOVEMBER), observing(pod(gpus=2)), START + 60)
    assert account.days == {(START // DAY, "training", PRICE): 120}
    (account,) = settled(account, observing(pod(gpus=2, end=START + 90)), START + 3600)
    assert charged(account) == 180
    assert account.marks[POD].ended
    assert account.marks[TRAINING].used == 180


def test_usage_is_split_at_midnight() -> None:
    midnight = START + DAY
    found = observing(pod(SERVING, start=midnight - 600))
    (account,) = settled(MonthAccount(month=NOVEMBER), found, midnight + 1800)
    assert account.days == {
        (midnight // DAY - 1, "serving", PRICE): 600,
        (midnight // DAY, "serving", PRICE): 1800,
    }


def test_the_month_is_closed_and_the_rest_of_the_reservation_moves_along() -> None:
    end = NOVEMBER.end
    account = reserved(MonthAccount(month=NOVEMBER), request(cap=10_000), end - 1000)
    november, december = settled(account, observing(pod(start=end - 1000)), end + 500)
    assert november.closed
    assert (charged(november), charged(december)) == (1000, 500)
    assert december.month == Month(2026, 12)
    assert december.marks[TRAINING].left == 8500


def test_a_month_that_was_closed_before_a_crash_is_not_charged_again() -> None:
    end = NOVEMBER.end
    found = observing(pod(start=end - 1000))
    november, december = settled(MonthAccount(month=NOVEMBER), found, end + 500)
    assert settled(november, found, end + 500) == (december,)


def test_a_clock_that_is_set_back_changes_nothing() -> None:
    found = observing(pod(SERVING, start=NOVEMBER.end - 100))
    *_, december = settled(MonthAccount(month=NOVEMBER), found, NOVEMBER.end + 100)
    for now in (NOVEMBER.end + 50, NOVEMBER.end - 50):
        (after,) = settled(december, found, now)
        assert after.days == december.days
    assert charged(settled(december, found, NOVEMBER.end + 200)[0]) == 200


def test_a_vanished_train_pod_is_charged_up_to_its_reservation() -> None:
    account = reserved(MonthAccount(month=NOVEMBER), request(cap=500), START)
    (account,) = settled(account, observing(pod()), START + 100)
    gone = replace(observing(), under_way=frozenset({TRAINING}))
    (account,) = settled(account, gone, START + 10_000)
    assert charged(account) == 500
    mark = account.marks[POD]
    assert (mark.used, mark.ended, mark.estimated) == (500, True, True)
    assert settled(account, gone, START + 10_000) == (account,)


def test_a_vanished_pod_is_charged_until_its_absence_is_noticed_also_over_the_end_of_a_month() -> (
    None
):
    end = NOVEMBER.end
    (account,) = settled(
        MonthAccount(month=NOVEMBER), observing(pod(SERVING, start=end - 900)), end - 300
    )
    november, december = settled(account, observing(), end + 700)
    assert (charged(november), charged(december)) == (900, 700)
    assert december.marks[SERVING].estimated


def test_a_pod_that_was_only_missing_in_the_cache_is_exact_in_the_end() -> None:
    (account,) = settled(MonthAccount(month=NOVEMBER), observing(pod(SERVING)), START + 100)
    (account,) = settled(account, observing(), START + 200)
    (account,) = settled(account, observing(pod(SERVING)), START + 400)
    assert charged(account) == 400
    mark = account.marks[SERVING]
    assert (mark.ended, mark.estimated) == (False, False)


def test_a_reservation_ends_with_its_training_but_not_before_the_training_is_recorded() -> None:
    account = reserved(MonthAccount(month=NOVEMBER), request(), START)
    (account,) = settled(account, observing(), START + RESERVED_FOR - 1)
    assert not account.marks[TRAINING].ended
    later = START + RESERVED_FOR
    (running,) = settled(account, observing(pod(), under_way=True), later)
    assert not running.marks[TRAINING].ended
    (ended,) = settled(running, observing(pod(end=later), under_way=False), later)
    assert ended.marks[TRAINING].ended


def test_a_reservation_stays_while_pods_of_a_deleted_job_still_run() -> None:
    """A deletion that orphans the Job lets its pod train to its end."""
    account = reserved(MonthAccount(month=NOVEMBER), request(), START)
    (running,) = settled(account, observing(pod()), START + 100)
    orphaned = Observation(pods=(pod(),))
    (after,) = settled(running, orphaned, START + 1000)
    assert (after.marks[TRAINING].ended, after.marks[TRAINING].left) == (False, CAP - 1000)
    (pending,) = settled(account, Observation(), START + 1000)
    assert pending.marks[TRAINING].ended
    (started,) = settled(pending, orphaned, START + 1100)
    assert not started.marks[TRAINING].ended, "its pod got a node after the deletion"
    (over,) = settled(after, Observation(pods=(pod(end=START + 2000),)), START + 2100)
    assert over.marks[TRAINING].ended


def test_another_attempt_reserves_what_is_left_at_the_price_of_the_first_one() -> None:
    account = reserved(MonthAccount(month=NOVEMBER), request(cap=1000), START)
    (account,) = settled(account, observing(pod(end=START + 400), under_way=False), START + 600)
    assert account.marks[TRAINING].ended
    dearer = replace(request(cap=1000), price=Price(per_gpu_hour="9", currency="USD"))
    mark = reserved(account, dearer, START + 700).marks[TRAINING]
    assert (mark.ended, mark.left, mark.price) == (False, 600, PRICE)


def test_marks_are_compacted_when_nothing_can_report_their_sources() -> None:
    found = observing(pod(end=START + 100), under_way=False)
    (account,) = settled(MonthAccount(month=NOVEMBER), found, START + 100)
    (account,) = settled(account, found, START + RESERVED_FOR + 100)
    after = START + COMPACTED_AFTER + 1000
    (listed,) = settled(account, found, after)
    assert POD in listed.marks, "the pod still exists"
    (retained,) = settled(account, replace(found, pods=()), after)
    assert set(retained.marks) == {TRAINING}, "the job still exists"
    (gone,) = settled(retained, Observation(), after)
    assert not gone.marks
    assert gone.days == account.days


def test_what_was_used_before_the_first_recorded_month_is_not_charged() -> None:
    old = pod(SERVING, start=NOVEMBER.start - 5 * DAY)
    (account,) = settled(MonthAccount(month=NOVEMBER), observing(old), NOVEMBER.start + 100)
    assert charged(account) == 100


def test_a_pod_that_used_nothing_leaves_no_mark() -> None:
    (account,) = settled(MonthAccount(month=NOVEMBER), observing(pod(end=START)), START + 60)
    assert not account.marks


def test_the_number_of_marks_is_bounded() -> None:
    pods = [pod(f"serve/{n}", start=START + n, end=START + n + 1) for n in range(MOST_MARKS + 50)]
    running = pod("serve/running")
    (account,) = settled(MonthAccount(month=NOVEMBER), observing(*pods, running), START + DAY)
    assert len(account.marks) == len(pods) + 1, "all of them can be observed again"
    (account,) = settled(account, observing(pods[0], running), START + DAY)
    assert len(account.marks) == MOST_MARKS
    assert {running.key, pods[0].key, pods[-1].key} <= account.marks.keys()
    assert pods[1].key not in account.marks
    assert charged(account) == len(pods) + DAY


@dataclass
class World:
    """The pods of a namespace, the stored accounts, and operators that may read old versions."""

    now: int = START
    skew: int = 0
    skewed: bool = False
    version: int = 0
    stored: dict[Month, MonthAccount] = field(default_factory=dict)
    old: tuple[int, dict[Month, MonthAccount]] = (0, {})
    pods: dict[str, PodUse] = field(default_factory=dict)
    """The pods that the API server lists."""
    removed: dict[str, PodUse] = field(default_factory=dict)
    """Deleted pods whose last state a watch has reported since the last settlement."""
    ever: dict[str, PodUse] = field(default_factory=dict)
    """All pods, with their true ends."""
    unobserved: set[str] = field(default_factory=set)
    created: int = 0

    def __post_init__(self) -> None:
        self.stored = {month_of(self.now): MonthAccount(month=month_of(self.now))}
        self.old = self.version, self.stored

    def observation(self) -> Observation:
        pods = {**self.pods, **self.removed}
        keys = frozenset(str(training_of(key)) for key in self.ever if training_of(key))
        return Observation(pods=tuple(pods.values()), under_way=keys, retained=keys)

    def latest(self) -> MonthAccount:
        return self.stored[max(self.stored)]

    def settlement(self, accounts: Mapping[Month, MonthAccount]) -> dict[Month, MonthAccount]:
        latest = accounts[max(accounts)]
        found = settled(latest, self.observation(), self.now + self.skew)
        return {**accounts, **{each.month: each for each in found}}

    def write(self, version: int, accounts: dict[Month, MonthAccount]) -> bool:
        """Store the accounts if nothing was written since a version; check that none shrinks."""
        if version != self.version:
            return False
        for month, before in self.stored.items():
            for key, seconds in before.days.items():
                assert accounts[month].days.get(key, 0) >= seconds
        self.stored, self.version = accounts, self.version + 1
        return True

    def settle(self) -> None:
        self.old = self.version, self.stored
        assert self.write(self.version, self.settlement(self.stored))
        self.removed.clear()

    def start(self, number: int, *, serves: bool) -> None:
        self.created += 1
        key = f"serve/{self.created}" if serves else f"train/u{number}/r/{self.created}"
        if (training := training_of(key)) is not None:
            latest = reserved(self.latest(), request(training), self.now + self.skew)
            assert self.write(self.version, {**self.stored, latest.month: latest})
        self.pods[key] = self.ever[key] = pod(key, start=self.now, gpus=1 + number % 2)

    def end(self, key: str) -> None:
        if self.pods[key].end is None:
            self.pods[key] = self.ever[key] = replace(self.pods[key], end=self.now)

    def delete(self, key: str, *, observed: bool) -> None:
        self.end(key)
        last = self.pods.pop(key)
        if observed:
            self.removed[key] = last
        else:
            self.unobserved.add(key)

    def fail_over(self) -> None:
        """Another process leads, which has observed no removals."""
        self.unobserved |= self.removed.keys()
        self.removed.clear()

    def truth(self, key: str) -> int:
        return self.ever[key].used(self.now)


OPERATIONS = (
    *("train", "serve", "pass", "pass", "settle", "settle", "crash", "lost reply", "stale leader"),
    *("end", "delete", "delete unobserved", "fail over", "set clock", "long pause"),
)
STEPS = st.lists(
    st.tuples(st.sampled_from(OPERATIONS), st.integers(0, 3), st.integers(0, 30_000)), max_size=50
)


def run(steps: list[tuple[str, int, int]]) -> World:
    world = World()
    for operation, number, amount in steps:
        keys = sorted(world.pods)
        key = keys[number % len(keys)] if keys else None
        match operation:
            case "train" | "serve":
                world.start(number, serves=operation == "serve")
            case "pass":
                world.now += amount
            case "long pause":
                world.now += amount * 100
            case "settle":
                world.settle()
            case "crash":
                world.settlement(world.stored)
            case "lost reply":
                world.settle()
                world.write(world.version, world.settlement(world.stored))
            case "stale leader":
                version, accounts = world.old
                world.write(version, world.settlement(accounts))
            case "end" if key is not None:
                world.end(key)
            case "delete" | "delete unobserved" if key is not None:
                world.delete(key, observed=operation == "delete")
            case "fail over":
                world.fail_over()
            case "set clock":
                world.skew, world.skewed = amount - 15_000, True
    world.skew = 0
    world.settle()
    return world


def used(marks: Mapping[str, Mark], key: str) -> int:
    return marks[key].used if key in marks else 0


@given(STEPS)
def test_observed_pods_are_charged_exactly_and_once(steps: list[tuple[str, int, int]]) -> None:
    world = run(steps)
    marks = world.latest().marks
    total = sum(map(charged, world.stored.values()))
    assert total >= sum(mark.used for mark in marks.values() if mark.gpus)
    before = {month: account.days for month, account in world.stored.items()}
    world.settle()
    after = {month: account.days for month, account in world.stored.items()}
    assert after == before, "a repeated settlement charges nothing"
    if world.skewed:
        for key in world.pods:
            assert used(marks, key) >= world.truth(key)
        return
    for key in world.pods:
        assert used(marks, key) == world.truth(key)
    if world.unobserved:
        return
    days: dict[tuple[int, str], int] = {}
    for account in world.stored.values():
        for (day, purpose, _), seconds in account.days.items():
            days[day, purpose] = days.get((day, purpose), 0) + seconds
    expected: dict[tuple[int, str], int] = {}
    for key, each in world.ever.items():
        purpose = "serving" if training_of(key) is None else "training"
        for day in range(each.start // DAY, world.now // DAY + 1):
            until = min(world.now, (day + 1) * DAY)
            seconds = each.used(until) - each.used(max(each.start, day * DAY))
            if seconds:
                expected[day, purpose] = expected.get((day, purpose), 0) + seconds
    assert days == expected


@given(STEPS)
def test_vanished_trainings_are_charged_within_their_reservation(
    steps: list[tuple[str, int, int]],
) -> None:
    world = run(steps)
    marks = world.latest().marks
    for training in {str(training_of(key)) for key in world.ever if training_of(key)}:
        of_training = {key: mark for key, mark in marks.items() if training_of(key) == training}
        estimated = [key for key, mark in of_training.items() if mark.estimated]
        true = sum(map(world.truth, estimated))
        assert sum(marks[key].used for key in estimated) <= max(CAP, true) or world.skewed
        for key in estimated:
            # Never less than what was used, unless the reservation is used up.
            enough = marks[key].used >= world.truth(key) or marks[training].used >= CAP
            assert enough or world.skewed
