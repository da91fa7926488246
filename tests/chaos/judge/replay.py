"""An event again, from its first settings and its audit trail, entry by entry.

Of what does not follow from the entries before it, `violations` says which rule it breaks. A step costs the
logarithm of the parties; the rules are written from the documentation, and use nothing of the service.
"""

from bisect import bisect_left, insort
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from msgspec import Struct

from tests.chaos.judge.evidence import Command, EventEvidence
from tests.simulation import auditor
from tests.simulation.model import TIMES
from tests.simulation.snapshot import Entry

PROMOTED_SPOTS_MAX = 1_000
"""A command stops promoting once it has promoted so many spots."""
KEEPS_PLACE = frozenset(("correct_registration", "give_receipt", "erase", "promotion"))


class Party(Struct):
    """A registration during the replay."""

    place: int
    original_place: int
    receipt: str
    spots: int
    status: str | None
    put_to_wait: bool = False

    @property
    def held(self) -> int:
        return self.spots if self.status == "CONFIRMED" else 0


class Waitlist:
    """The waiting parties' places, ordered within each size."""

    def __init__(self) -> None:
        self.places: defaultdict[int, list[int]] = defaultdict(list)
        self.length = 0

    def add(self, spots: int, place: int) -> None:
        self.length += 1
        insort(self.places[spots], place)

    def remove(self, spots: int, place: int) -> None:
        self.length -= 1
        line = self.places[spots]
        line.pop(bisect_left(line, place))
        if not line:
            del self.places[spots]

    def ahead(self, place: int) -> int:
        """Return how many wait ahead of a place, those out of line included."""
        return sum(bisect_left(line, place) for line in self.places.values())

    def head(self, spots_max: float) -> tuple[int, int] | None:
        """Return place and size of the first party of at most this size."""
        heads = ((line[0], spots) for spots, line in self.places.items() if spots <= spots_max)
        return min(heads, default=None)


class Replay:
    """Takes all entries of an event."""

    def __init__(self, event: EventEvidence) -> None:
        self.event = event
        self.commands = {command.id: command for command in event.commands}
        self.settings = dict(event.first)
        self.parties: dict[str, Party] = {}
        self.waitlist = Waitlist()
        self.reserved = self.overbooked = 0
        self.effects: defaultdict[str, list[tuple[object, ...]]] = defaultdict(list)
        self.promotions: Counter[str] = Counter()
        self.promoted: Counter[str] = Counter()
        self.statuses: defaultdict[str, set[str | None]] = defaultdict(set)
        """All statuses that each registration has had."""
        self.violations: list[str] = []
        self.newcomer_max: list[float] = []
        """The largest newcomer that the event takes, at first and after each entry; empty if nobody asks."""
        refused_early = any(operation.refused_early for operation in event.operations)
        if refused_early:
            self.newcomer_max.append(self._newcomer_max())
        last = bytes(32)
        for number, entry in enumerate(event.entries, start=1):
            if entry.number != number:
                self._say(entry, "audit gap", f"stands at place {number}")
            if entry.hash != auditor.digest(last, entry):
                self._say(entry, "audit chain", "is not chained to the one before")
            last = entry.hash
            self._step(entry)
            if refused_early:
                self.newcomer_max.append(self._newcomer_max())

    def _step(self, entry: Entry) -> None:
        command = self.commands.get(entry.command_id)
        if command is None:
            self._say(entry, "effect without a command", "is of a command that is not in the ledger")
            return
        delta = 0
        if entry.registration_id is not None:
            delta = self._move(entry, entry.registration_id, command)
        else:
            for name, (before, after) in (entry.before_after or {}).items():
                self._set(entry, command, name, before, after)
            self.effects[command.id].append(tuple(sorted(entry.before_after or ())))
        if entry.spots_delta != delta:
            self._say(entry, "spots taken or released twice", f"moves {entry.spots_delta} spots, not {delta}")
        self.reserved += delta
        self.overbooked = min(self.overbooked, max(self.reserved - self.settings["capacity"], 0))
        if entry.spots_reserved != self.reserved:
            self._say(entry, "audit sum", f"says {entry.spots_reserved} are reserved, not {self.reserved}")
        if delta > 0 and self.reserved > self.settings["capacity"]:
            self._say(entry, "oversold", f"raises the counter to {self.reserved}")
        newcomer = entry.kind == "add_registration" and "status" not in command.payload
        if entry.kind == "register" or newcomer:
            self._newcomer(entry, command, max(delta, 0))

    def _move(self, entry: Entry, id_: str, command: Command) -> int:
        party = self.parties.get(id_)
        if party is None:
            spots = command.payload.get("spotsCount", 1)
            party = self.parties[id_] = Party(command.seq, command.seq, command.id, spots, None)
        if entry.from_status != party.status:
            self._say(entry, "audit replay", f"moves from {entry.from_status}, it was {party.status}")
        held, names = party.held, None
        if entry.kind == "promotion":
            self._promotion(entry, party, command)
        else:
            names = tuple(sorted(entry.before_after)) if entry.before_after else None
            self.effects[command.id].append((id_, entry.from_status, entry.to_status, names))
        if party.status == "WAITLIST":
            self.waitlist.remove(party.spots, party.place)
        if entry.to_status == "WAITLIST" and entry.kind not in KEEPS_PLACE:
            original = command.payload.get("place") == "original"
            party.place = party.original_place if original else command.seq
            party.put_to_wait = entry.kind == "change_status" or "status" in command.payload
        if entry.kind == "give_receipt":
            party.receipt = command.id
        if entry.kind == "correct_registration":
            self._correction(entry, party, command)
        party.status = entry.to_status
        if party.status == "WAITLIST":
            self.waitlist.add(party.spots, party.place)
        self.statuses[id_].add(entry.to_status)
        delta = party.held - held
        if party.status is None:
            del self.parties[id_]
        return delta

    def _correction(self, entry: Entry, party: Party, command: Command) -> None:
        before, after = (entry.before_after or {}).get("spotsCount", (party.spots, party.spots))
        more = after - before
        if before != party.spots:
            self._say(entry, "audit replay", f"changes a party of {before}, it was of {party.spots}")
        if more > 0 and command.actor == "holder":
            self._say(entry, "barging", "lets a holder make the party larger")
        if more > 0 and party.status == "CONFIRMED" and self._waits_first(self._free()):
            self._say(entry, "barging", "lets a party grow ahead of those who wait")
        if more > 0 and party.status == "WAITLIST":
            party.place = command.seq
        party.spots = after

    def _promotion(self, entry: Entry, party: Party, command: Command) -> None:
        until = self.settings["promoteUntil"]
        stopped = any(self.settings[name] for name in ("paused", "archived", "deleted"))
        if not self.settings["autoPromote"] or stopped or (until and command.accepted_at >= until):
            self._say(entry, "promotion", "promotes although no party is to be promoted")
        if self.promoted[command.id] >= PROMOTED_SPOTS_MAX:
            self._say(entry, "promotion", "promotes although its command has promoted enough")
        self.promoted[command.id] += party.spots
        self.promotions[command.id] += 1
        if self._next_up(self._free()) != (party.place, party.spots):
            self._say(entry, "promotion", "promotes a party that is not next")
        if command.kind == "change_status" and command.payload["registrationId"] == entry.registration_id:
            self._say(entry, "promotion", "promotes the party that the same command moved to the waitlist")

    def _newcomer(self, entry: Entry, command: Command, taken: int) -> None:
        spots = command.payload.get("spotsCount", 1)
        if spots > self.settings["capacity"] > 0:
            self._say(entry, "barging", "takes a party that the event can never hold")
        if entry.to_status == "CONFIRMED" and self._waits_first(self._free() + taken):
            self._say(entry, "barging", "lets a newcomer pass those who wait")
        if entry.to_status == "WAITLIST":
            # A command that was committed after one with a higher `seq` may be told a position too high.
            position, length = self.waitlist.ahead(command.seq) + 1, self.waitlist.length
            told = (command.outcome or {}).get("position", position)
            if not position <= told <= length:
                self._say(
                    entry, "position", f"puts a newcomer at {position} of {length} that was told {told}"
                )

    def _set(self, entry: Entry, command: Command, name: str, before: Any, after: Any) -> None:  # noqa: ANN401
        before, after = _value(name, before), _value(name, after)
        if self.settings.get(name) != before or before == after:
            self._say(entry, "audit replay", f"changes {name} from {before}, was {self.settings.get(name)}")
        if name == "capacity" and before > after < self.reserved:
            self.overbooked = self.reserved - after
            if not command.payload.get("allowOverbooked"):
                self._say(entry, "oversold", f"lowers the capacity to {after} of {self.reserved}")
        self.settings[name] = after

    def _free(self) -> int:
        return int(self.settings["capacity"]) - self.reserved

    def _next_up(self, free: int) -> tuple[int, int] | None:
        """Return place and size of the party that the policy gives free spots to."""
        in_line = self.settings["capacity"] or float("inf")
        if self.settings["promotionPolicy"] == "strict_fifo":
            head = self.waitlist.head(in_line)
            return head if head is not None and head[1] <= free else None
        return self.waitlist.head(min(free, in_line))

    def _waits_first(self, free: int) -> bool:
        """Return True if a newcomer must not take spots now."""
        if self.settings["promotionPolicy"] == "strict_fifo":
            return self.waitlist.head(self.settings["capacity"] or float("inf")) is not None
        return self._next_up(free) is not None

    def _newcomer_max(self) -> float:
        limit, capacity = self.settings["waitlistLimit"], self.settings["capacity"] or float("inf")
        in_line = sum(len(line) for spots, line in self.waitlist.places.items() if spots <= capacity)
        if self.settings["waitlistEnabled"] and (limit is None or in_line < limit):
            return float("inf")
        return 0 if self._waits_first(self._free()) else self._free()

    def at_rest(self) -> Iterator[str]:
        """Say where the tables are not what the trail replays to, and which party is owed free spots."""
        now = self.event.now
        rows = {row.id: (row.status, row.spots_count, row.seq, row.command_id) for row in self.event.rows}
        replayed = {id_: (p.status, p.spots, p.place, p.receipt) for id_, p in self.parties.items()}
        for id_ in rows.keys() | replayed.keys():
            if rows.get(id_) != replayed.get(id_):
                yield f"audit replay: registration {id_} is {rows.get(id_)}, not {replayed.get(id_)}"
        waiting = sum(party.status == "WAITLIST" for party in self.parties.values())
        counters = {
            "spots_reserved": self.reserved,
            "waitlist_length": waiting,
            "overbooked_spots": self.overbooked,
            "audit_seq": len(self.event.entries),
        }
        for name, expected in counters.items():
            if now[name] != expected:
                yield f"counter drift: {name} is {now[name]}, the audit trail says {expected}"
        for name, value in self.settings.items():
            column = "".join(f"_{c.lower()}" if c.isupper() else c for c in name)
            if _value(name, now[column]) != value:
                yield f"audit replay: {name} is {now[column]}, the audit trail says {value}"
        active = Counter(
            row.email.lower() for row in self.event.rows if row.email and row.status != "CANCELLED"
        )
        for email, times in active.items():
            if times > 1:
                yield f"address twice: {times} active registrations have the address {email}"
        yield from self._owed()

    def _owed(self) -> Iterator[str]:
        stopped = any(self.settings[name] for name in ("paused", "archived", "deleted", "promoteUntil"))
        if stopped or not self.settings["autoPromote"]:
            return
        head = self._next_up(self._free())
        if head is not None:
            (id_,) = [id_ for id_, p in self.parties.items() if p.place == head[0] and p.status == "WAITLIST"]
            if not self.parties[id_].put_to_wait:
                yield f"idle spots: registration {id_} waits for {head[1]} spots with {self._free()} free"

    def _say(self, entry: Entry, rule: str, words: str) -> None:
        self.violations.append(f"{rule}: audit entry {entry.number} ({entry.kind}) {words}")


def _value(name: str, value: object) -> object:
    return datetime.fromisoformat(value) if name in TIMES and isinstance(value, str) else value
