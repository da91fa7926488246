"""The report of a rehearsal, as JSON and as a table."""

from collections import Counter
from collections.abc import Iterator, Sequence
from math import ceil

import msgspec
from rich.console import Console
from rich.table import Table

from ops.rehearsal.drop import Drop, Plan

VIOLATIONS_SHOWN_MAX = 5  # of each kind


class Report(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The result of a rehearsal. Times to answer run from a registration's first send to its decision.

    `pending` registrations were accepted and not decided in time, `errors` counts by reason those without
    any answer. `decided_per_second` is over `seconds`, the whole drop.
    """

    event_id: str
    slug: str
    registrations: int
    capacity: int
    clients: int
    party_max: int
    seed: int
    sent: int
    seconds: float
    decided_per_second: float
    answer_ms: dict[str, float]
    confirmed: int
    confirmed_spots: int
    waitlisted: int
    refused: dict[str, int]
    pending: int
    errors: dict[str, int]
    retries: int
    violations: list[str]

    @property
    def passed(self) -> bool:
        """True if every registration was answered and no promise was broken."""
        return not (self.violations or self.pending or self.errors) and self.sent == self.registrations


def summarise(plan: Plan, event_id: str, slug: str, drop: Drop, violations: list[str]) -> Report:
    """Count and measure what the drop's clients saw."""
    sent = drop.sent
    decided = [visit.seen for visit in sent if visit.seen.decisions]
    pending = [visit for visit in sent if visit.seen.receipts and not visit.seen.decisions]
    first = [seen.decisions[0] for seen in decided]
    statuses = Counter(decision.status for decision in first)
    errors = Counter(visit.failure for visit in sent if visit.failure and visit not in pending)
    errors += Counter({"FAILED": statuses["FAILED"]})
    ended = max((seen.decided or 0.0 for seen in decided), default=0.0)
    seconds = max(ended - min(visit.seen.begun for visit in sent), 0.0)
    refusals = Counter(d.code or "without a code" for d in first if d.status == "REFUSED")
    return Report(
        event_id=event_id,
        slug=slug,
        registrations=plan.registrations,
        capacity=plan.capacity,
        clients=plan.clients,
        party_max=plan.party_max,
        seed=plan.seed,
        sent=len(sent),
        seconds=round(seconds, 3),
        decided_per_second=round(len(decided) / seconds, 1) if seconds else 0.0,
        answer_ms=_percentiles([(seen.decided or 0.0) - seen.begun for seen in decided]),
        confirmed=statuses["CONFIRMED"],
        confirmed_spots=sum(seen.spots_count for seen in decided if seen.decisions[0].status == "CONFIRMED"),
        waitlisted=statuses["WAITLIST"],
        refused=dict(refusals),
        pending=len(pending),
        errors=dict(errors),
        retries=drop.retries,
        violations=violations,
    )


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Return p50, p95, p99 and max in milliseconds, by nearest rank; empty when there are none."""
    ranked = sorted(seconds)
    parts = {"p50": 0.50, "p95": 0.95, "p99": 0.99, "max": 1.0} if ranked else {}
    return {name: round(1_000 * ranked[ceil(part * len(ranked)) - 1], 2) for name, part in parts.items()}


def show(report: Report, *, as_json: bool) -> None:
    """Print the report to standard output: one JSON object, or a table for people."""
    if as_json:
        print(msgspec.json.encode(report).decode())
        return
    console = Console()
    table = Table(title=f"Rehearsal of {report.slug}", show_header=False, title_justify="left")
    table.add_column()
    table.add_column(justify="right")
    for label, value in _figures(report):
        table.add_row(label, value)
    console.print(table)
    for sentence in _first_of_each_kind(report.violations):
        console.print(sentence, style="red", markup=False, highlight=False, soft_wrap=True)
    verdict = "Every registration was answered, and every promise was kept." if report.passed else "FAILED"
    console.print(verdict, style="green" if report.passed else "bold red")


def _first_of_each_kind(violations: Sequence[str]) -> Iterator[str]:
    """Yield the first violations of each kind, and the number of those left out."""
    kinds: Counter[str] = Counter()
    for violation in violations:
        kind = violation.partition(":")[0]
        kinds[kind] += 1
        if kinds[kind] <= VIOLATIONS_SHOWN_MAX:
            yield violation
    for kind, times in kinds.items():
        if times > VIOLATIONS_SHOWN_MAX:
            yield f"{kind}: and {times - VIOLATIONS_SHOWN_MAX:,} more (--json has them all)"


def _figures(report: Report) -> Iterator[tuple[str, str]]:
    yield "registrations sent", f"{report.sent:,} of {report.registrations:,}"
    yield "clients", f"{report.clients:,}"
    yield "decided per second", f"{report.decided_per_second:,.0f}"
    for name, milliseconds in report.answer_ms.items():
        yield f"time to answer, {name}", f"{milliseconds:,.1f} ms"
    yield "confirmed spots", f"{report.confirmed_spots:,} of {report.capacity:,}"
    yield "confirmed", f"{report.confirmed:,}"
    yield "waitlisted", f"{report.waitlisted:,}"
    for code, times in report.refused.items():
        yield f"refused, {code}", f"{times:,}"
    yield "pending", f"{report.pending:,}"
    for reason, times in report.errors.items():
        yield f"error, {reason}", f"{times:,}"
    yield "retries", f"{report.retries:,}"
    yield "violations", f"{len(report.violations):,}"
