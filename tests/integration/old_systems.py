"""Existing systems for tests: their tables, their rows, and their adoption."""

from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import namedtuple_row
from sqlalchemy import make_url

from ops.adoption import adopt as adoption
from ops.adoption.report import Report

PRISMA = """
CREATE TYPE "RegistrationStatus" AS ENUM ('CONFIRMED', 'WAITLIST', 'CANCELLED', 'PENDING');
CREATE TABLE "Event" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "slug" TEXT,
    "title" TEXT NOT NULL,
    "capacity" INTEGER,
    "spotsReserved" INTEGER NOT NULL DEFAULT 0,
    "createdAt" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP
);
CREATE TABLE "Registration" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "eventId" TEXT,
    "name" TEXT,
    "email" TEXT,
    "spotsCount" INTEGER,
    "status" "RegistrationStatus",
    "createdAt" TIMESTAMP(3) DEFAULT CURRENT_TIMESTAMP
);
"""


def run(url: str, statement: str, *parameters: Any) -> list[Any]:
    """Run plain SQL in a transaction of its own; return its rows, if it has any."""
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain, row_factory=namedtuple_row) as connection:
        cursor = connection.execute(statement, parameters or None)
        return cursor.fetchall() if cursor.description is not None else []


def add_event(source: str, id_: str, *, slug: str | None = None, **more: Any) -> None:
    values = {"title": "A drop", "capacity": 5, "spotsReserved": 0, **more}
    columns = ", ".join(f'"{name}"' for name in ("id", "slug", *values))
    marks = ", ".join(["%s"] * (len(values) + 2))
    run(source, f'INSERT INTO "Event" ({columns}) VALUES ({marks})', id_, slug or id_, *values.values())


def add_registration(source: str, id_: str, event_id: str | None, **more: Any) -> None:
    values = {"eventId": event_id, "name": "User", "spotsCount": 1, "status": "CONFIRMED", **more}
    columns = ", ".join(f'"{name}"' for name in ("id", *values))
    marks = ", ".join(["%s"] * (len(values) + 1))
    run(source, f'INSERT INTO "Registration" ({columns}) VALUES ({marks})', id_, *values.values())


def adopt(
    source: str, target: str, *, dry_run: bool = False, mapping: Path | None = None, closed: bool = False
) -> Report:
    report = Report(dry_run=dry_run)
    adoption.adopt(target, source, report, mapping_file=mapping, closed=closed)
    return report


def problems(report: Report) -> list[tuple[str, str | None, str | None]]:
    return [(problem.code.value, problem.event_id, problem.registration_id) for problem in report.problems]


def content(target: str) -> list[list[Any]]:
    """Return all that is in the target, apart from the numbering of what is yet to come."""
    tables = (
        "event ORDER BY id",
        "registration ORDER BY event_id, id",
        "audit_entry ORDER BY event_id, number",
    )
    return [run(target, f"SELECT * FROM {table}") for table in (*tables, "command")]
