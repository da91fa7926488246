"""The meaning of a foreign column is guessed by its name, and its values are read whatever their type."""

import re
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from ops.adoption.report import Code
from ops.adoption.sources import meanings, values
from ops.adoption.sources.meanings import IGNORED, KNOWN, Column
from ops.adoption.sources.values import UnclearValueError

PAGE = Path(__file__).resolve().parents[2] / "docs/migrating.md"


def column(name: str, kind: str = "text") -> Column:
    return Column(name=name, type=kind, kind=kind, category="S", filled=1)


def kind_of(meaning: str) -> str:
    return {"waitlistEnabled": "flag", "autoPromote": "flag", "place": "number"}.get(meaning, "time")


@pytest.mark.parametrize("table", ["event", "registration"])
def test_every_known_name_is_known_in_each_spelling(table: str) -> None:
    for meaning, names in KNOWN[table].items():
        for name in names:
            snake = re.sub("([A-Z])", r"_\1", name)
            for spelling in {name, name.lower(), snake.lower(), snake.upper()}:
                assert meanings.guess(table, [column(spelling, kind_of(meaning))]) == {spelling: meaning}


@pytest.mark.parametrize(
    ("table", "kind", "name", "meaning"),
    [
        ("event", "time", "event_date", "over"),
        ("event", "flag", "isCancelled", "closed"),
        ("event", "flag", "has_waitlist", "waitlistEnabled"),
        ("event", "number", "waitlist", "?"),
        ("event", "text", "eventTitle", "title"),
        ("event", "other", "startTime", "?"),
        ("event", "text", "description", "?"),
        ("event", "flag", "featured", "?"),
        ("registration", "text", "registration_status", "status"),
        ("registration", "text", "eventName", "?"),
        ("registration", "number", "guests", "?"),
    ],
)
def test_names_with_prefixes_are_known(table: str, kind: str, name: str, meaning: str) -> None:
    assert meanings.guess(table, [column(name, kind)]) == {name: meaning}


def test_small_places_are_no_flags() -> None:
    position = Column(name="position", type="smallint", kind="flag", category="N", filled=2)

    assert meanings.guess("registration", [position]) == {"position": "place"}


def test_one_column_takes_a_meaning_that_is_single() -> None:
    found = meanings.guess("event", [column("name"), column("title"), column("seats"), column("capacity")])
    assert found == {"title": "title", "capacity": "capacity", "name": "?", "seats": "?"}
    parts = meanings.guess("registration", [column("last_name"), column("first_name")])
    assert list(parts.items()) == [("first_name", "name"), ("last_name", "name")]
    ends = meanings.guess("event", [column("startsAt", "time"), column("endsAt", "time")])
    assert list(ends) == ["endsAt", "startsAt"]


def test_the_page_lists_every_known_name() -> None:
    rows = dict(re.findall(r"^\| (?:event|registration): `(\w+)` \| (.*) \|", PAGE.read_text(), re.MULTILINE))
    listed = {meaning: set(re.findall(r"`(\w+)`", names)) for meaning, names in rows.items()}
    for table in KNOWN.values():
        for meaning, names in table.items():
            if meaning not in ("id", IGNORED):
                assert set(names) <= listed[meaning], meaning


def test_the_page_lists_every_problem() -> None:
    page = PAGE.read_text()
    assert [code.value for code in Code if f"| `{code.value}` |" not in page] == []


def test_every_known_status_is_on_the_page() -> None:
    listed = {meanings.normal(word) for word in re.findall(r"`(\w+)`", PAGE.read_text())}
    for table in meanings.STATUSES.values():
        for names in table.values():
            assert set(names.split()) <= listed


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ("", None),
        (0, None),
        ("0000-00-00 00:00:00", None),
        ("2026-05-01", "2026-05-01T22:00"),
        (date(2026, 5, 1), "2026-05-01T22:00"),
        (datetime.fromisoformat("2026-05-01T10:00"), "2026-05-01T08:00"),
        (datetime(2026, 5, 1, 10, tzinfo=UTC), "2026-05-01T10:00"),
        ("2026-05-01T10:00:00Z", "2026-05-01T10:00"),
        ("2026-05-01 10:00:00+02:00", "2026-05-01T08:00"),
        (1_777_629_600, "2026-05-01T10:00"),
        (1_777_629_600_000, "2026-05-01T10:00"),
    ],
)
def test_times_of_every_type_are_read(value: object, expected: str | None) -> None:
    at = values.moment(value, ZoneInfo("Europe/Berlin"), date_ends=True)
    assert at == (None if expected is None else datetime.fromisoformat(f"{expected}+00:00"))


@pytest.mark.parametrize("value", ["soon", True, "01.05.2026", float("inf"), 10**30, [1]])
def test_a_value_that_is_no_time_is_unclear(value: object) -> None:
    with pytest.raises(UnclearValueError):
        values.moment(value, UTC)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (3, 3),
        ("3", 3),
        ("12.0", 12),
        ("2.5", None),
        (" 12 ", 12),
        (Decimal("2.0"), 2),
        (Decimal("2.5"), None),
        (Decimal("NaN"), None),
        (2.0, 2),
        (float("inf"), None),
        (True, None),
        ("three", None),
        (None, None),
    ],
)
def test_counts_of_every_type_are_read(value: object, expected: int | None) -> None:
    assert values.whole(value) == expected
