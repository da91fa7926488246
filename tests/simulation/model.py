"""A second opinion on every decision: the rules in their most naive form.

Plain dictionaries, lists and sums; whatever is needed is counted anew each time it is needed. Commands,
settings and outcomes are the JSON that clients see, so that nothing here leans on how the service
keeps them. Where the rules leave something open, it is decided like this:

- A command never promotes the registration that it itself moved to the waitlist; promotion stops
  when that one is next. Any later command that promotes may take it.
- Promotion runs after a status change that changed something, after a deletion, a change of the event
  (even one that changes nothing) and a heal; and before a newcomer is placed, when the waitlist has room.
- A command stops promoting once the parties that it promoted have `promoted_spots_max` spots or more. If
  another one is owed spots then, one follow-up command is in the ledger with the same transaction, and as
  long as that is pending no other command promotes.
- A party larger than the capacity waits out of line: only positions count it. Without any capacity all
  parties are in line.
- No command promotes that was accepted at `promoteUntil` or later, its follow-ups included. Those who wait
  then still come before newcomers.
- No holder cancels by a command that was accepted at `cancelUntil` or later; an admin does.
- Of several refusals the one that `RefusalCode` lists first is the answer.
- An admin's move to the waitlist asks neither whether it is enabled nor how long it may be.
- To the waitlist is to its tail, the place of the command, or to the original place where that is asked for.
  Every other move keeps the place. A party that waits already moves only if a place is named.
- A capacity that is not lower than the present one is never refused. A lower one below what is confirmed is
  refused unless it may be overbooked.
- An admin's addition without a status is placed as a newcomer for whom the waitlist always has room, if there
  is one. With a status it is placed there, on the waitlist at its tail.
- A correction promotes if the size changed. A party that grows takes spots as a newcomer does; on the
  waitlist it goes to the tail. Holders only shrink. A cancelled party may have any address.
- A slug is fixed by any command but a change of the event, whatever became of that command.
- A deleted event refuses everything but an erasure, a heal and a follow-up. Nor does it, or an archived one,
  promote.
- An erasure takes name and address from a registration and leaves everything else; the address is free then.
  It writes an entry for each registration that had either, and one entry without a registration if none had.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from unittest.mock import ANY

Json = dict[str, Any]

ACTOR, HOLDER = "simulation", "holder"
UNCHANGED_BY_A_CHANGE = ("reason", "allowOverbooked")
TIMES = ("opensAt", "closesAt", "promoteUntil", "cancelUntil")
TAKEN = "taken"
"""The slug of another event."""


@dataclass(frozen=True, kw_only=True)
class Told:
    """A command as the ledger has it, in its place, and its outcome as soon as there is one."""

    id: str
    seq: int
    kind: str
    payload: Json
    accepted_at: datetime
    registration_id: str
    follow_up_id: str
    actor: str = ACTOR
    idempotency_key: bytes | None = None
    outcome: Json | None = None


@dataclass(kw_only=True)
class Party:
    """A registration as the model keeps it."""

    id: str
    place: int
    original_place: int
    receipt: str
    name: str
    email: str | None
    spots: int
    status: str


class Model:
    """One event from its beginning, command by command."""

    def __init__(self, settings: Json, promoted_spots_max: int) -> None:
        self.settings = dict(settings)
        self.promoted_spots_max = promoted_spots_max
        self.follow_up: tuple[str, datetime] | None = None
        self.parties: list[Party] = []
        self.trail: list[Json] = []
        self.overbooked = 0
        self.slug_fixed = False

    def confirmed_spots(self) -> int:
        return sum(party.spots for party in self.parties if party.status == "CONFIRMED")

    def free(self) -> int:
        return int(self.settings["capacity"]) - self.confirmed_spots()

    def waiting(self) -> list[Party]:
        line = [party for party in self.parties if party.status == "WAITLIST"]
        return sorted(line, key=lambda party: party.place)

    def in_line(self) -> list[Party]:
        """The waiting parties that the event could ever hold."""
        capacity = self.settings["capacity"]
        return [party for party in self.waiting() if capacity == 0 or party.spots <= capacity]

    def owed(self) -> Party | None:
        """Whom the policy would give free spots to now."""
        line = self.in_line()
        if self.settings["promotionPolicy"] == "strict_fifo":
            line = line[:1]
        for party in line:
            if party.spots <= self.free():
                return party
        return None

    def decide(self, told: Told) -> Json:
        """Return the outcome as clients read it, a refusal without its sentence for people."""
        outcome = self._decide(told)
        self.overbooked = min(self.overbooked, max(-self.free(), 0))
        return outcome

    def _decide(self, told: Told) -> Json:  # noqa: C901, PLR0912 - a case for each command
        if self.settings["deleted"] and told.kind not in ("erase", "heal_counter", "promote_waitlist"):
            return refused("REGISTRATION_CLOSED")
        match told.kind:
            case "register":
                return self._register(told)
            case "add_registration":
                return self._add(told)
            case "change_status":
                return self._change_status(told)
            case "correct_registration":
                return self._correct(told)
            case "give_receipt":
                return self._give_receipt(told)
            case "delete_event":
                return self._delete_event(told)
            case "delete_registration":
                return self._delete(told)
            case "erase":
                return self._erase(told)
            case "change_event":
                return self._change_event(told)
            case "heal_counter":
                return self._heal(told)
            case "promote_waitlist":
                return self._follow_up(told)
            case _:
                raise AssertionError(f"the rules know nothing of {told.kind}")

    def _register(self, told: Told) -> Json:
        spots, email = told.payload.get("spotsCount", 1), told.payload.get("email")
        opens, closes = self.settings["opensAt"], self.settings["closesAt"]
        if self.settings["archived"] or (closes and told.accepted_at >= closes):
            return refused("REGISTRATION_CLOSED")
        if opens and told.accepted_at < opens:
            return refused("REGISTRATION_NOT_OPEN", opensAt=f"{opens.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}")
        if self.settings["paused"]:
            return refused("EVENT_PAUSED")
        if self._is_too_large(spots):
            return refused("TOO_MANY_SPOTS")
        limit = self.settings["waitlistLimit"]
        has_room = self.settings["waitlistEnabled"] and (limit is None or len(self.in_line()) < limit)
        fits = spots <= self.free() and not self._anybody_comes_first()
        if not fits and not has_room:
            more_is_coming = self.settings["waitlistEnabled"] and self.follow_up is not None
            return refused("EVENT_FULL", **({"retryAfterSeconds": 1} if more_is_coming else {}))
        if self._is_taken(email):
            return refused("ALREADY_REGISTERED")
        if has_room:
            self._promote(told)
            fits = spots <= self.free() and not self._anybody_comes_first()
        return self._enter(told, "CONFIRMED" if fits else "WAITLIST")

    def _add(self, told: Told) -> Json:
        spots, status = told.payload.get("spotsCount", 1), told.payload.get("status")
        if self._is_too_large(spots):
            return refused("TOO_MANY_SPOTS")
        fits = spots <= self.free() and not self._anybody_comes_first()
        if status is None and not fits and not self.settings["waitlistEnabled"]:
            return refused("EVENT_FULL")
        if self._is_taken(told.payload.get("email")):
            return refused("ALREADY_REGISTERED")
        if status == "CONFIRMED" and spots > self.free():
            return refused("CAPACITY_EXCEEDED", spotsLeft=max(self.free(), 0), spotsNeeded=spots)
        if status is None:
            if self.settings["waitlistEnabled"]:
                self._promote(told)
            fits = spots <= self.free() and not self._anybody_comes_first()
            status = "CONFIRMED" if fits else "WAITLIST"
            return self._enter(told, status)
        entered = self._enter(told, status)
        if status == "CONFIRMED":
            self._promote(told)  # the head may fit no longer, so that those behind it are next
        return entered

    def _enter(self, told: Told, status: str) -> Json:
        spots = told.payload.get("spotsCount", 1)
        party = Party(
            id=told.registration_id,
            place=told.seq,
            original_place=told.seq,
            receipt=told.id,
            name=told.payload["name"],
            email=told.payload.get("email"),
            spots=spots,
            status="NEW",
        )
        self.parties.append(party)
        self._become(told, party, status)
        if status == "CONFIRMED":
            return {"outcome": "confirmed", "registrationId": party.id, "spotsCount": spots}
        position = self.waiting().index(party) + 1
        return {
            "outcome": "waitlisted",
            "registrationId": party.id,
            "spotsCount": spots,
            "position": position,
        }

    def _is_too_large(self, spots: int) -> bool:
        capacity = self.settings["capacity"]
        return bool(spots > self.settings["maxSpotsPerRegistration"] or (capacity > 0 and spots > capacity))

    def _anybody_comes_first(self) -> bool:
        if self.settings["promotionPolicy"] == "strict_fifo":
            return len(self.in_line()) > 0
        return self.owed() is not None

    def _change_status(self, told: Told) -> Json:
        party, status = self._find(told), told.payload["status"]
        if party is None:
            return refused("REGISTRATION_NOT_FOUND")
        before, until = party.status, self.settings["cancelUntil"]
        if told.actor == "holder" and status != before and until and told.accepted_at >= until:
            return refused("CANCELLATION_CLOSED")
        if before == "CANCELLED" and status != "CANCELLED" and self._is_taken(party.email):
            return refused("ALREADY_REGISTERED")
        if status == "CONFIRMED" and before != "CONFIRMED" and party.spots > self.free():
            left = max(self.free(), 0)
            return refused("CAPACITY_EXCEEDED", spotsLeft=left, spotsNeeded=party.spots)
        place = told.payload.get("place")
        if status == "WAITLIST" and (place or status != before):
            to = party.original_place if place == "original" else told.seq
        else:
            to = party.place
        moved = status == before and to != party.place
        if status != before or moved:
            party.place = to
            self._become(told, party, status)
            self._promote(told, moved=party if status == "WAITLIST" else None)
        return {
            "outcome": "status_changed",
            "registrationId": party.id,
            "fromStatus": before,
            "toStatus": status,
            **({"moved": True} if moved else {}),
        }

    def _correct(self, told: Told) -> Json:  # noqa: C901 - the rules one after the other
        party, asked = self._find(told), told.payload
        if party is None:
            return refused("REGISTRATION_NOT_FOUND")
        name, email = asked.get("name", party.name), asked.get("email", party.email)
        spots, held = asked.get("spotsCount", party.spots), self.confirmed_spots()
        until = self.settings["cancelUntil"]
        if told.actor == HOLDER and until and told.accepted_at >= until and spots != party.spots:
            return refused("CANCELLATION_CLOSED")
        if spots > party.spots and (told.actor == HOLDER or self._is_too_large(spots)):
            return refused("TOO_MANY_SPOTS")
        others = [one for one in self.parties if one is not party]
        if party.status != "CANCELLED" and self._is_taken(email, others):
            return refused("ALREADY_REGISTERED")
        more = spots - party.spots
        if party.status == "CONFIRMED" and more > 0 and (more > self.free() or self._anybody_comes_first()):
            return refused("CAPACITY_EXCEEDED", spotsLeft=max(self.free(), 0), spotsNeeded=more)
        before_after: Json = {}
        if name != party.name:
            before_after["name"] = [None, None]
        if email != party.email:
            before_after["email"] = [None, None]
        if spots != party.spots:
            before_after["spotsCount"] = [party.spots, spots]
        if party.status == "WAITLIST" and more > 0:
            party.place = told.seq
        party.name, party.email, party.spots, status = name, email, spots, party.status
        if before_after:
            self._write(
                told,
                registrationId=party.id,
                fromStatus=party.status,
                toStatus=party.status,
                spotsDelta=self.confirmed_spots() - held,
                beforeAfter=before_after,
            )
        if more:
            self._promote(told)
        return {
            "outcome": "registration_corrected",
            "registrationId": party.id,
            "status": status,
            "changed": list(before_after),
        }

    def _give_receipt(self, told: Told) -> Json:
        party = self._find(told)
        if party is None:
            return refused("REGISTRATION_NOT_FOUND")
        party.receipt = told.id
        self._write(told, registrationId=party.id, fromStatus=party.status, toStatus=party.status)
        return {"outcome": "receipt_given", "registrationId": party.id}

    def _delete_event(self, told: Told) -> Json:
        slug = f"deleted-{told.registration_id}"
        before_after = {"slug": [self.settings["slug"], slug], "deleted": [False, True]}
        self.settings.update(slug=slug, deleted=True)
        self._write(told, beforeAfter=before_after)
        more_follow = self.follow_up is not None
        return {
            "outcome": "event_changed",
            "changed": list(before_after),
            "promoted": 0,
            "moreFollow": more_follow,
        }

    def _delete(self, told: Told) -> Json:
        party = self._find(told)
        if party is None:
            return refused("REGISTRATION_NOT_FOUND")
        before = party.status
        self._become(told, party, None)
        self._promote(told)
        return {
            "outcome": "deleted",
            "registrationId": party.id,
            "fromStatus": before,
            "spotsFreed": party.spots if before == "CONFIRMED" else 0,
        }

    def _erase(self, told: Told) -> Json:
        named = told.payload.get("registrationIds", ())
        parties = [party for id_ in named for party in self.parties if party.id == id_ and party.name]
        for party in parties:
            party.name, party.email = "", None
            self._write(told, registrationId=party.id, fromStatus=party.status, toStatus=party.status)
        if not parties:
            self._write(told)
        return {"outcome": "erased", "registrations": len(parties)}

    def _change_event(self, told: Told) -> Json:
        after = dict(self.settings)
        for name, value in told.payload.items():
            if name not in UNCHANGED_BY_A_CHANGE:
                after[name] = datetime.fromisoformat(value) if name in TIMES and value else value
        overbooks = self.settings["capacity"] > after["capacity"] < self.confirmed_spots()
        if overbooks and not told.payload.get("allowOverbooked"):
            return refused("CAPACITY_BELOW_RESERVED")
        if after["opensAt"] and after["closesAt"] and after["closesAt"] <= after["opensAt"]:
            return refused("WINDOW_INVALID")
        if after["slug"] != self.settings["slug"]:
            if self.slug_fixed:
                return refused("SLUG_FIXED")
            if after["slug"] == TAKEN:
                return refused("SLUG_TAKEN")
        if overbooks:
            self.overbooked = self.confirmed_spots() - after["capacity"]
        changed = [name for name in after if after[name] != self.settings[name]]
        self.settings = after
        if changed:
            self._write(told, beforeAfter=ANY)
        return {"outcome": "event_changed", "changed": changed, **self._promoted(told)}

    def _heal(self, told: Told) -> Json:
        healed = {
            "outcome": "counter_healed",
            "drift": 0,
            "spotsReserved": self.confirmed_spots(),
            "overbookedSpots": max(-self.free(), 0),
        }
        self._promote(told)
        return healed

    def _follow_up(self, told: Told) -> Json:
        if self.follow_up != (told.id, told.accepted_at):
            return {"outcome": "nothing was left to promote"}  # which differs from every owner's
        self.follow_up = None
        return {"outcome": "waitlist_promoted", **self._promoted(told)}

    def _promoted(self, told: Told) -> Json:
        return {"promoted": self._promote(told), "moreFollow": self.follow_up is not None}

    def _promote(self, told: Told, moved: Party | None = None) -> int:
        promoted = spots = 0
        until = self.settings["promoteUntil"]
        stopped = self.settings["paused"] or self.settings["archived"] or self.settings["deleted"]
        promotes = self.settings["autoPromote"] and not stopped
        if until and told.accepted_at >= until:
            promotes = False
        while promotes and self.follow_up is None:
            party = self.owed()
            if party is None or party is moved:
                break
            if spots >= self.promoted_spots_max:
                self.follow_up = told.follow_up_id, told.accepted_at
                break
            self._become(told, party, "CONFIRMED", kind="promotion")
            promoted, spots = promoted + 1, spots + party.spots
        return promoted

    def _become(self, told: Told, party: Party, status: str | None, kind: str | None = None) -> None:
        before, held_before = party.status, self.confirmed_spots()
        party.status = status or "DELETED"
        self.parties = [one for one in self.parties if one.status != "DELETED"]
        self._write(
            told,
            kind=kind or told.kind,
            registrationId=party.id,
            fromStatus=None if before == "NEW" else before,
            toStatus=status,
            spotsDelta=self.confirmed_spots() - held_before,
        )

    def _write(self, told: Told, **facts: object) -> None:
        unless_given = {"registrationId": None, "fromStatus": None, "toStatus": None, "spotsDelta": 0}
        unless_given |= {"beforeAfter": None}
        counter = {"commandId": told.id, "kind": told.kind, "spotsReserved": self.confirmed_spots()}
        self.trail.append({**unless_given, **counter, **facts})

    def _find(self, told: Told) -> Party | None:
        for party in self.parties:
            if party.id == told.payload["registrationId"]:
                return party
        return None

    def _is_taken(self, email: str | None, among: list[Party] | None = None) -> bool:
        parties = self.parties if among is None else among
        known = [spelling(p.email) for p in parties if p.email and p.status != "CANCELLED"]
        return email is not None and spelling(email) in known


def spelling(email: str) -> str:
    """Two spellings of one address differ in case, or in how the domain is written."""
    local, _, domain = email.lower().rpartition("@")
    return f"{local}@{domain.encode('idna').decode()}"


def refused(code: str, **more: int | str) -> Json:
    return {"outcome": "refused", "code": code, **more}
