"""The independent checker: compares the clients' answers with the service's tables.

It depends on the HTTP contract and on no part of the service. `check` is pure, and returns an empty list for
a service that keeps its promises.
"""

from collections import Counter as Tally
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ops.rehearsal.evidence import Decision, Entry, ObservedRegistration, Row, Snapshot

NAMED_MAX = 5


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken promise: the rule, and a sentence that names the registrations or receipts."""

    rule: str
    sentence: str


def check(observed: Sequence[ObservedRegistration], snapshot: Snapshot) -> list[Violation]:
    """Return every broken promise of an event that only the observed clients have used."""
    return [
        *capacity(observed, snapshot),
        *counter(snapshot),
        *answers(observed),
        *rows(observed, snapshot.rows),
        *fifo(observed),
        *waitlist(snapshot.rows),
        *audit(snapshot),
    ]


def capacity(observed: Sequence[ObservedRegistration], snapshot: Snapshot) -> Iterator[Violation]:
    """Check that confirmed spots never exceed the capacity, and that no spot stays free for a waiting party.

    With `rows` this makes them equal if all parties are of one spot and there are enough of them.
    """
    limit, confirmed, beyond = snapshot.event.capacity, 0, []
    for row in snapshot.rows:
        if row.status == "CONFIRMED":
            confirmed += row.spots_count
            beyond += [row.id] if confirmed > limit else []
    if beyond:
        sentence = f"{confirmed} of {limit} spots are confirmed; registrations beyond: {_named(beyond)}"
        yield Violation("oversold", sentence)
    left = limit - confirmed
    waiting = [row for row in snapshot.rows if row.status == "WAITLIST"]
    head_blocks = snapshot.event.promotion_policy == "strict_fifo"
    idle = [row.id for row in (waiting[:1] if head_blocks else waiting) if row.spots_count <= left]
    if idle and snapshot.event.owes_spots:
        yield Violation("idle spots", f"{left} spots are left, and registrations wait: {_named(idle)}")
    full = [seen for seen in observed if seen.final and seen.final.code == "EVENT_FULL"]
    refused = [_of(seen) for seen in full if seen.spots_count <= left]
    if refused and not (head_blocks and waiting):
        yield Violation(
            "idle spots", f"{left} spots are left, and EVENT_FULL was answered: {_named(refused)}"
        )


def counter(snapshot: Snapshot) -> Iterator[Violation]:
    """Check that the counter, the event and the service's own recount equal the confirmed rows."""
    actual = sum(row.spots_count for row in snapshot.rows if row.status == "CONFIRMED")
    figures = {
        "the event's spotsReserved": (snapshot.event.spots_reserved, actual),
        "the counter's spotsReserved": (snapshot.counter.spots_reserved, actual),
        "the counter's actualConfirmed": (snapshot.counter.actual_confirmed, actual),
        "the counter's drift": (snapshot.counter.drift, 0),
    }
    for name, (shown, expected) in figures.items():
        if shown != expected:
            sentence = f"{name} of event {snapshot.event.id} is {shown}, its confirmed rows say {expected}"
            yield Violation("counter drift", sentence)


def answers(observed: Sequence[ObservedRegistration]) -> Iterator[Violation]:
    """Check that each registration has one receipt and one final answer, which no other registration has."""
    for seen in observed:
        if len(seen.receipts) > 1:
            yield Violation("answered twice", f"{seen.name} has {len(seen.receipts)} receipts: {_of(seen)}")
        if seen.decisions and not seen.receipts:
            yield Violation("no receipt", f"{seen.name} was answered without a receipt")
        for before, after in pairwise(seen.decisions):
            promoted = before.status == "WAITLIST" and after == Decision("CONFIRMED", before.registration_id)
            if after != before and not promoted:
                sentence = f"{_of(seen)} was answered {before.status}, then {after.status} ({after})"
                yield Violation("answered twice", sentence)
        if seen.final and seen.final.status == "REFUSED" and not seen.final.code:
            yield Violation("no code", f"{_of(seen)} was refused without a code")
    ids = Tally(seen.final.registration_id for seen in observed if seen.final)
    receipts = Tally(receipt for seen in observed for receipt in seen.receipts)
    for kind, uses in (("registration", ids), ("receipt", receipts)):
        for shared in [name for name, times in uses.items() if name and times > 1]:
            yield Violation("shared answer", f"{kind} {shared} was given to {uses[shared]} registrations")


def rows(observed: Sequence[ObservedRegistration], kept: Sequence[Row]) -> Iterator[Violation]:
    """Check that each answer has exactly its row, and that each row belongs to one registration sent."""
    by_id = {row.id: row for row in kept}
    for seen in observed:
        if seen.final and seen.final.status in {"CONFIRMED", "WAITLIST"}:
            yield from _answered(seen, seen.final, by_id.get(seen.final.registration_id or ""))
    sent, by_name = {seen.name: seen for seen in observed}, defaultdict(list)
    for row in kept:
        by_name[row.name].append(row.id)
    for name, ids in by_name.items():
        seen_by_client = sent.get(name)
        if seen_by_client is None:
            yield Violation("unasked", f"no client asked for registration {_named(ids)} of {name}")
        elif len(ids) > 1:
            yield Violation("doubled", f"{name} asked once and has {len(ids)} registrations: {_named(ids)}")
        elif seen_by_client.rejected or _is_unsuccessful(seen_by_client.final):
            sentence = f"{_of(seen_by_client)} was refused, and yet has registration {_named(ids)}"
            yield Violation("effect of a refusal", sentence)


def _is_unsuccessful(final: Decision | None) -> bool:
    return final is not None and final.status in {"REFUSED", "FAILED"}


def _answered(seen: ObservedRegistration, final: Decision, row: Row | None) -> Iterator[Violation]:
    if row is None:
        yield Violation("lost", f"{_of(seen)} was answered {final.status} and has no row")
        return
    # A promotion may have followed the client's last request.
    status = row.status if (final.status, row.status) == ("WAITLIST", "CONFIRMED") else final.status
    answer, stored = (seen.name, seen.spots_count, status), (row.name, row.spots_count, row.status)
    if answer != stored:
        sentence = f"{_of(seen)} was answered as {_party(answer)}; its row says {_party(stored)}"
        yield Violation("altered", sentence)


def fifo(observed: Sequence[ObservedRegistration]) -> Iterator[Violation]:
    """Check that no confirmed party began after the answer to a waiting party of the same size.

    The witness of each size is the waiting party with the earliest answer: a party that overtook any waiting
    party overtook the witness too. So one comparison for each confirmed party is enough.
    """
    first: dict[int, tuple[float, ObservedRegistration]] = {}
    for seen in observed:
        if seen.accepted is not None and seen.final and seen.final.status == "WAITLIST":
            best = first.get(seen.spots_count)
            if best is None or seen.accepted < best[0]:
                first[seen.spots_count] = seen.accepted, seen
    for seen in observed:
        accepted, witness = first.get(seen.spots_count, (float("inf"), seen))
        if seen.begun > accepted and seen.final and seen.final.status == "CONFIRMED":
            sentence = (
                f"{_of(seen)} is confirmed, and began after {_of(witness)}, still waiting, was answered"
            )
            yield Violation("overtaken", sentence)


def waitlist(kept: Sequence[Row]) -> Iterator[Violation]:
    """Check that positions are 1..n in `seq` order, and that no later party of that size is confirmed."""
    position, smallest = 0, (float("inf"), "")
    for before, row in pairwise(kept):
        if before.seq >= row.seq:
            yield Violation("order", f"registration {row.id} is listed after {before.id}, against their seq")
    for row in kept:
        expected = None
        if row.status == "WAITLIST":
            expected = position = position + 1
            smallest = min(smallest, (row.spots_count, row.id))
        elif row.status == "CONFIRMED" and row.spots_count >= smallest[0]:
            yield Violation(
                "barging", f"registration {row.id} is confirmed ahead of {smallest[1]}, which waits"
            )
        if row.waitlist_position != expected:
            sentence = f"registration {row.id} shows position {row.waitlist_position} instead of {expected}"
            yield Violation("position", sentence)


def audit(snapshot: Snapshot) -> Iterator[Violation]:
    """Check that the audit trail is gapless and chained, and that its replay gives the tables."""
    statuses: dict[str | None, str | None] = {}
    sizes = _first_sizes(snapshot)
    total, previous_hash = 0, None
    for place, entry in enumerate(snapshot.entries, start=1):
        about = f"audit entry {entry.number} (registration {entry.registration_id})"
        total += entry.spots_delta
        if entry.number != place:
            yield Violation("audit gap", f"{about} stands at place {place}")
        if place > 1 and entry.previous_hash != previous_hash:
            yield Violation("audit chain", f"{about} does not link to the entry before it")
        if entry.spots_reserved != total:
            yield Violation("audit sum", f"{about} says {entry.spots_reserved} spots, the deltas say {total}")
        if entry.registration_id is not None:
            yield from _step(entry, statuses.get(entry.registration_id), sizes, about)
            statuses[entry.registration_id] = entry.to_status
        previous_hash = entry.hash
    yield from _replayed(snapshot, statuses, total)


def _first_sizes(snapshot: Snapshot) -> dict[str, int]:
    """Return the size with which each party began: that of its row, before all corrections."""
    sizes = {row.id: row.spots_count for row in snapshot.rows}
    for entry in reversed(snapshot.entries):
        corrected = (entry.before_after or {}).get("spotsCount")
        if corrected and entry.registration_id:
            sizes[entry.registration_id] = corrected[0]
    return sizes


def _step(entry: Entry, status: str | None, sizes: dict[str, int], about: str) -> Iterator[Violation]:
    if entry.from_status != status:
        yield Violation("audit replay", f"{about} starts from {entry.from_status}, it was {status}")
    id_ = entry.registration_id or ""
    before = sizes.get(id_, abs(entry.spots_delta))
    after = (entry.before_after or {}).get("spotsCount", [before, before])[1]
    if id_ in sizes:
        sizes[id_] = after
    delta = after * (entry.to_status == "CONFIRMED") - before * (entry.from_status == "CONFIRMED")
    if entry.spots_delta != delta:
        yield Violation("audit delta", f"{about} moves {entry.spots_delta} spots, its transition {delta}")


def _replayed(snapshot: Snapshot, statuses: dict[str | None, str | None], total: int) -> Iterator[Violation]:
    kept: dict[str | None, str | None] = {row.id: row.status for row in snapshot.rows}
    for name in [*kept, *(name for name in statuses if name not in kept)]:
        shown, replayed = kept.get(name), statuses.get(name)
        if shown != replayed and not (shown is None and replayed == "DELETED"):
            yield Violation("audit replay", f"registration {name} is {shown}, the audit says {replayed}")
    if total != snapshot.event.spots_reserved:
        sentence = f"event {snapshot.event.id} counts {snapshot.event.spots_reserved}, the audit says {total}"
        yield Violation("audit replay", sentence)


def _of(seen: ObservedRegistration) -> str:
    ids = [seen.final.registration_id] if seen.final and seen.final.registration_id else []
    return f"{seen.name} (registration {_named(ids)}, receipt {_named(sorted(seen.receipts))})"


def _party(facts: tuple[str, int, str]) -> str:
    return "{}, {} spots, {}".format(*facts)


def _named(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - NAMED_MAX} more" if len(ids) > NAMED_MAX else ""
    return (", ".join(ids[:NAMED_MAX]) or "none") + more
