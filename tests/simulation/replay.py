"""The event again, from its first settings and its audit trail: who stood where after every entry."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from tests.simulation.model import HOLDER, TIMES, Json, Told
from tests.simulation.snapshot import Entry, Snapshot


@dataclass
class Standing:
    """A registration during the replay."""

    place: int
    original_place: int
    receipt: str
    spots: int
    status: str | None

    @property
    def held(self) -> int:
        """How many spots it has."""
        return self.spots if self.status == "CONFIRMED" else 0


class Replay:
    """Takes the entries one by one; `violations` are what did not follow, each with its number."""

    def __init__(self, settings: Json, commands: dict[str, Told], promoted_spots_max: int) -> None:
        self.settings = dict(settings)
        self.commands = commands
        self.promoted_spots_max = promoted_spots_max
        self.promoted: Counter[str] = Counter()
        self.standings: dict[str, Standing] = {}
        self.reserved = 0
        self.overbooked = 0
        self.violations: list[str] = []

    def step(self, entry: Entry) -> None:
        """Take one entry, and note what does not follow from those before it."""
        if entry.command_id not in self.commands:
            return
        told = self.commands[entry.command_id]
        delta = 0
        if entry.registration_id is not None:
            delta = self._move(entry, told)
        for name, (before, after) in (entry.before_after or {}).items():
            if entry.registration_id is None:
                self._set(entry, told, name, before, after)
        if entry.spots_delta != delta:
            self._say(entry, 11, f"moves the counter by {entry.spots_delta} where {delta} changed hands")
        self.reserved += entry.spots_delta
        self.overbooked = min(self.overbooked, max(self.reserved - self.settings["capacity"], 0))
        if entry.spots_reserved != self.reserved:
            self._say(entry, 10, f"says {entry.spots_reserved} are reserved, they add up to {self.reserved}")
        if entry.spots_delta > 0 and self.reserved > self.settings["capacity"]:
            self._say(entry, 1, f"raises the counter to {self.reserved} of {self.settings['capacity']}")
        if entry.kind == "register" or (entry.kind == "add_registration" and "status" not in told.payload):
            self._newcomer(entry, told)

    def _move(self, entry: Entry, told: Told) -> int:
        assert entry.registration_id is not None
        one = self.standings.get(entry.registration_id)
        if one is None:
            one = Standing(told.seq, told.seq, told.id, told.payload.get("spotsCount", 1), None)
            self.standings[entry.registration_id] = one
        if entry.from_status != one.status:
            self._say(entry, 10, f"moves from {entry.from_status} what was {one.status}")
        if entry.kind == "promotion":
            self._promotion(entry, one, told)
        held = one.held
        if entry.to_status == "WAITLIST" and entry.kind not in (
            "correct_registration",
            "give_receipt",
            "erase",
        ):
            one.place = one.original_place if told.payload.get("place") == "original" else told.seq
        if entry.kind == "give_receipt":
            one.receipt = told.id
        if entry.kind == "correct_registration":
            self._correction(entry, one, told)
        one.status = entry.to_status
        delta = one.held - held
        if entry.to_status is None:
            del self.standings[entry.registration_id]
        return delta

    def _correction(self, entry: Entry, one: Standing, told: Told) -> None:
        changed = entry.before_after or {}
        if any(values != [None, None] for name, values in changed.items() if name != "spotsCount"):
            self._say(entry, 10, "has a personal value")
        before, after = changed.get("spotsCount", (one.spots, one.spots))
        if before != one.spots:
            self._say(entry, 10, f"changes a party of {before}, it was {one.spots}")
        more = after - before
        if more > 0 and told.actor == HOLDER:
            self._say(entry, 7, "lets a holder make the party larger")
        if more > 0 and one.status == "CONFIRMED":
            free = self.settings["capacity"] - self.reserved
            blocked = self.settings["promotionPolicy"] == "strict_fifo" and self._in_line()
            if blocked or self._next_up(free) is not None:
                self._say(entry, 7, "lets a party grow ahead of those who wait")
        if more > 0 and one.status == "WAITLIST":
            one.place = told.seq
        one.spots = after

    def _promotion(self, entry: Entry, one: Standing, told: Told) -> None:
        stopped = self.settings["paused"] or self.settings["archived"] or self.settings["deleted"]
        if not self.settings["autoPromote"] or stopped:
            self._say(entry, 7, "promotes although nobody is to be promoted")
        if self.settings["promoteUntil"] and told.accepted_at >= self.settings["promoteUntil"]:
            self._say(entry, 7, "promotes although promotion has ended")
        if self.promoted[told.id] >= self.promoted_spots_max:
            self._say(entry, 14, "promotes although its command has promoted enough")
        self.promoted[told.id] += one.spots
        if one is not self._next_up(self.settings["capacity"] - self.reserved):
            self._say(entry, 7, "promotes somebody who is not next")
        if told.kind == "change_status" and told.payload.get("registrationId") == entry.registration_id:
            self._say(entry, 7, "promotes whom the same command moved to the waitlist")

    def _newcomer(self, entry: Entry, told: Told) -> None:
        line = self._line()
        if told.payload.get("spotsCount", 1) > self.settings["capacity"] > 0:
            self._say(entry, 7, "takes a party that the event can never hold")
        if entry.to_status == "WAITLIST":
            position = [one.place for one in line].index(told.seq) + 1
            if (told.outcome or {}).get("position") != position:
                self._say(entry, 7, f"puts somebody at {position} who was told {told.outcome}")
            return
        free = self.settings["capacity"] - self.reserved + max(entry.spots_delta, 0)
        blocked = self.settings["promotionPolicy"] == "strict_fifo" and self._in_line()
        if blocked or self._next_up(free) is not None:
            self._say(entry, 7, "lets a newcomer pass those who wait")

    def _set(self, entry: Entry, told: Told, name: str, before: object, after: object) -> None:
        if name == "capacity" and before > after < self.reserved:  # type: ignore[operator]
            self.overbooked = self.reserved - after  # type: ignore[operator]
            if not told.payload.get("allowOverbooked"):
                self._say(entry, 1, f"lowers the capacity to {after}, {self.reserved} are reserved")
        if self.settings.get(name) != _value(name, before):
            self._say(entry, 10, f"changes {name} from {before}, it was {self.settings.get(name)}")
        if _value(name, before) == _value(name, after):
            self._say(entry, 10, f"changes {name} from {before} to the same")
        self.settings[name] = _value(name, after)

    def _line(self) -> list[Standing]:
        waiting = [one for one in self.standings.values() if one.status == "WAITLIST"]
        return sorted(waiting, key=lambda one: one.place)

    def _in_line(self) -> list[Standing]:
        return [one for one in self._line() if one.spots <= (self.settings["capacity"] or one.spots)]

    def _next_up(self, free: int) -> Standing | None:
        line = self._in_line()
        reach = line[:1] if self.settings["promotionPolicy"] == "strict_fifo" else line
        return next((one for one in reach if one.spots <= free), None)

    def differences(self, now: Snapshot) -> Iterator[str]:
        """Say where the tables are not what the trail replays to."""
        replayed = {id_: (one.status, one.spots) for id_, one in self.standings.items()}
        rows = {row.id: (row.status, row.spots_count) for row in now.rows}
        if replayed != rows:
            yield f"10: the trail replays to {replayed}, the rows are {rows}"
        if self.overbooked != now.overbooked_spots:
            yield f"10: the trail leaves {self.overbooked} overbooked, the event says {now.overbooked_spots}"
        if self.reserved != now.spots_reserved:
            yield f"10: the trail replays to {self.reserved} spots, the counter says {now.spots_reserved}"
        if self.settings != now.settings:
            yield f"10: the trail replays to {self.settings}, the settings are {now.settings}"
        for row in now.rows:
            one = self.standings.get(row.id)
            if one is not None and one.place != row.seq:
                yield f"7: {row.id} has place {row.seq} instead of {one.place}"
            if one is not None and one.receipt != row.command_id:
                yield f"10: {row.id} has receipt {row.command_id} instead of {one.receipt}"

    def _say(self, entry: Entry, number: int, what: str) -> None:
        self.violations.append(f"{number}: entry {entry.number} ({entry.kind}) {what}")


def _value(name: str, value: object) -> object:
    return datetime.fromisoformat(value) if name in TIMES and isinstance(value, str) else value
