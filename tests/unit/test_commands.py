"""Commands there and back, and texts that are no command."""

from datetime import UTC, datetime
from typing import get_args
from uuid import UUID

import msgspec
import pytest

from shared.domain import commands
from shared.domain.commands import (
    AddRegistration,
    ChangeEvent,
    ChangeStatus,
    Command,
    CorrectRegistration,
    DeleteEvent,
    DeleteRegistration,
    Erase,
    GiveReceipt,
    HealCounter,
    Kind,
    PromoteWaitlist,
    Register,
    Status,
    UnreadableCommand,
)

SOMEBODY = UUID(int=7)

EVERY_COMMAND = [
    ("register", Register(name="Ada", spots_count=2, email="ada@example.org")),
    ("register", Register(name="Ada")),
    ("change_status", ChangeStatus(registration_id=SOMEBODY, status=Status.CANCELLED, reason="Ill")),
    ("delete_registration", DeleteRegistration(registration_id=SOMEBODY)),
    ("erase", Erase(registration_ids=(SOMEBODY,), command_ids=(SOMEBODY,), subject="02ab")),
    ("erase", Erase()),
    (
        "change_event",
        ChangeEvent(capacity=5, waitlist_limit=None, opens_at=datetime(2026, 12, 1, tzinfo=UTC)),
    ),
    ("change_event", ChangeEvent()),
    ("change_event", ChangeEvent(capacity=5, allow_overbooked=True, slug="a-drop", archived=True)),
    ("change_status", ChangeStatus(registration_id=SOMEBODY, status=Status.WAITLIST, place="original")),
    ("add_registration", AddRegistration(name="Ada", status="CONFIRMED")),
    ("correct_registration", CorrectRegistration(registration_id=SOMEBODY, email=None, spots_count=2)),
    ("give_receipt", GiveReceipt(registration_id=SOMEBODY, reason="Lost")),
    ("delete_event", DeleteEvent()),
    ("heal_counter", HealCounter(reason="The check said so")),
    ("promote_waitlist", PromoteWaitlist()),
]


@pytest.mark.parametrize(("kind", "command"), EVERY_COMMAND)
def test_a_command_is_read_back_as_it_was_filed(kind: str, command: Command) -> None:
    assert commands.KINDS[type(command)] == kind
    assert commands.decode(kind, msgspec.json.encode(command)) == command


def test_every_kind_is_among_these() -> None:
    assert {kind for kind, _ in EVERY_COMMAND} == set(get_args(Kind))


def test_a_registration_is_filed_as_clients_send_it() -> None:
    command = Register(name="Ada", spots_count=2, email="ada@example.org")

    assert msgspec.json.encode(command) == b'{"name":"Ada","spotsCount":2,"email":"ada@example.org"}'


def test_a_change_is_filed_with_given_fields_only() -> None:
    assert msgspec.json.encode(ChangeEvent(waitlist_limit=None, paused=False)) == (
        b'{"waitlistLimit":null,"paused":false}'
    )


def test_what_version_1_reads_is_filed_as_version_1() -> None:
    status = ChangeStatus(registration_id=SOMEBODY, status=Status.CANCELLED)

    assert (
        msgspec.json.encode(status)
        == f'{{"registrationId":"{SOMEBODY}","status":"CANCELLED","reason":null}}'.encode()
    )
    old: list[Command] = [
        Register(name="Ada"),
        status,
        DeleteRegistration(registration_id=SOMEBODY),
        ChangeEvent(capacity=5),
    ]
    assert {commands.version_of(command) for command in old} == {1}


@pytest.mark.parametrize(
    "command",
    [
        ChangeStatus(registration_id=SOMEBODY, status=Status.WAITLIST, place="tail"),
        ChangeEvent(allow_overbooked=False),
        ChangeEvent(slug="a-drop"),
        ChangeEvent(archived=False),
        ChangeEvent(promote_until=None),
        ChangeEvent(cancel_until=None),
        AddRegistration(name="Ada"),
        CorrectRegistration(registration_id=SOMEBODY),
        GiveReceipt(registration_id=SOMEBODY),
        DeleteEvent(),
    ],
)
def test_what_version_1_cannot_read_is_version_2(command: Command) -> None:
    assert commands.version_of(command) == 2


def test_a_kind_that_this_version_does_not_know_is_unreadable() -> None:
    with pytest.raises(UnreadableCommand, match=r"^unknown kind of command: 'teleport'$"):
        commands.decode("teleport", b"{}")


@pytest.mark.parametrize(
    ("kind", "payload", "message"),
    [
        ("register", "{}", r"register: .*`name`"),
        ("register", '{"name":"Ada","spotsCount":0}', r"register: .*`\$\.spotsCount`"),
        ("register", '{"name":"Ada","spotsCount":1001}', r"register: .*`\$\.spotsCount`"),
        ("register", '{"name":"Ada","spots":2}', r"register: .*`spots`"),
        ("register", '{"name":" "}', r"register: .*`\$\.name`"),
        ("register", '{"name":"A\\u0000da"}', r"register: .*`\$\.name`"),
        ("change_status", '{"registrationId":"7","status":"CANCELLED"}', r"change_status: .*registrationId"),
        ("change_event", '{"capacity":-1}', r"change_event: .*capacity"),
        ("change_event", '{"opensAt":"2026-12-01T10:00:00"}', r"change_event: .*opensAt"),
        ("change_event", '{"opensAt":"0001-01-01T00:00:00+14:00"}', r"change_event: "),
        ("change_event", '{"closesAt":"9999-12-31T23:59:59-12:00"}', r"change_event: "),
        ("change_event", '{"promotionPolicy":"lottery"}', r"change_event: .*promotionPolicy"),
        ("heal_counter", "[]", r"heal_counter: "),
    ],
)
def test_what_is_not_such_a_command_is_unreadable(kind: str, payload: str, message: str) -> None:
    with pytest.raises(UnreadableCommand, match=message):
        commands.decode(kind, payload)
