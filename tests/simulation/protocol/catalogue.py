"""The bugs to plant in the protocol, each with the promises whose breach gives it away."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

import pytest

from tests.simulation.protocol import bugs, history
from tests.simulation.protocol.bugs import Plant
from tests.simulation.protocol.history import Result

HISTORIES_MAX = 120
"""Each bug is found in so many histories."""


@dataclass(frozen=True, kw_only=True)
class Bug:
    """A bug, the numbers of the promises that it breaks, and the faults that it needs (None: as drawn)."""

    name: str
    plant: Plant
    caught: frozenset[str]
    faults: Collection[str] | None = None

    def find(self, seeds: Collection[int] = range(HISTORIES_MAX)) -> Result | None:
        """Return the first history that this bug spoils."""
        return next((result for result in map(self.run, seeds) if result.numbers & self.caught), None)

    def run(self, seed: int) -> Result:
        """Let a history happen with the bug in the service."""
        with pytest.MonkeyPatch.context() as monkeypatch:
            self.plant(monkeypatch)
            return history.run(seed, self.faults)


def _bug(
    name: str,
    plant: Callable[[pytest.MonkeyPatch], None],
    *caught: str,
    faults: Collection[str] | None = None,
) -> Bug:
    return Bug(name=name, plant=plant, caught=frozenset(caught), faults=faults)


_CALM: tuple[str, ...] = ()
_LOST = ("lose messages", "double messages", "delay messages")
_REFUSED = ("refuse a commit",)
_KILLED = ("kill a worker", "stop a worker", "end a session")

BUGS = [
    _bug("a worker takes buckets without their locks", bugs.takes_buckets_without_their_locks, "16"),
    _bug("a worker decides what it has unlocked", bugs.owns_what_it_has_unlocked, "16"),
    _bug(
        "a worker connects again without its locks",
        bugs.connects_again_without_its_locks,
        "16",
        faults=_KILLED,
    ),
    _bug(
        "a tick looks for nothing, and messages are lost", bugs.looks_for_nothing_at_ticks, "14", faults=_LOST
    ),
    _bug("commands are read behind the last one seen", bugs.reads_commands_behind_the_last_one_seen, "14"),
    _bug(
        "a batch decides on the roster of the batch before",
        bugs.decides_on_the_roster_of_the_batch_before,
        *("10", "model"),
        faults=_KILLED,
    ),
    _bug("what is settled is decided again", bugs.decides_what_is_settled_again, "3", "4", "14"),
    _bug("each statement of a batch commits alone", bugs.commits_each_statement, "2", "4", "10", "model"),
    _bug("the follow-up is not written", bugs.forgets_the_follow_up, "model"),
    _bug("a refusal releases no key", bugs.releases_no_key, "13"),
    _bug("every outcome releases its key", bugs.releases_every_key, "4", "13"),
    _bug("outcomes are published before the commit", bugs.publishes_before_the_commit, "3"),
    _bug("a command is told as accepted before the commit", bugs.accepts_before_the_commit, "3"),
    _bug(
        "a retry after a lost COMMIT writes other ids",
        bugs.tries_again_under_other_ids,
        *("4", "5"),
        faults=("lose an answer",),
    ),
    _bug(
        "an unknown acceptance is told as none",
        bugs.says_that_nothing_was_accepted,
        "5",
        faults=("cut a process off",),
    ),
    _bug(
        "a late request is answered again",
        bugs.answers_a_late_request_again,
        "0",
        faults=("stop an API process",),
    ),
    _bug(
        "a refused INSERT is not tried again",
        bugs.accepts_no_second_time,
        "19",
        faults=_REFUSED,
    ),
    _bug(
        "a commit that is refused fails its command",
        bugs.fails_what_a_second_try_would_settle,
        "19",
        faults=_REFUSED,
    ),
    _bug(
        "a retry binds a released key again",
        bugs.binds_the_key_of_a_command_again,
        "13",
        faults=("lose an answer", "lose an answer early"),
    ),
    _bug("a key names its second command", bugs.names_the_second_command_of_a_key, "3"),
    _bug("the owner is woken before the commit", bugs.wakes_before_the_commit, "14", faults=_CALM),
    _bug("no owner is woken", bugs.wakes_nobody, "14", faults=_CALM),
    _bug("an early refusal comes from an old read", bugs.refuses_by_an_old_read, "17"),
    _bug("a request is told its neighbour's outcome", bugs.tells_the_outcome_of_a_neighbour, "3"),
    _bug("all requests of an event are told one outcome", bugs.answers_all_requests_of_an_event_at_once, "3"),
    _bug("a key answers whatever is asked", bugs.answers_whatever_is_asked_under_a_key, "3", faults=_CALM),
    _bug("no outcome is published", bugs.publishes_nothing, "18", faults=_CALM),
    _bug(
        "the ledger is never asked",
        bugs.asks_the_ledger_never,
        "18",
        faults=("flush Redis", "take Redis away"),
    ),
    _bug(
        "the ledger is asked once",
        bugs.asks_the_ledger_once,
        "18",
        faults=("flush Redis", "take Redis away"),
    ),
    _bug("a request waits without an end", bugs.waits_without_an_end, "18", faults=("stop a worker",)),
    _bug(
        "the intake forgets what no batch has room for",
        bugs.forgets_what_no_batch_has_room_for,
        "18",
        faults=_CALM,
    ),
]
