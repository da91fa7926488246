"""Identifiers: those that follow from others are the same in every release, and all others are random."""

import time
from uuid import UUID

from shared.domain import ids

COMMAND = UUID("01a21938-62ae-7053-bb25-59c2c9a1ac6f")
DRAWN = 1_000
VERSION_AND_VARIANT = 0xF << 76 | 0x3 << 62


def test_releases_agree_on_the_ids_that_follow() -> None:
    assert ids.registration_id(COMMAND) == UUID("01a21938-62ae-7a07-b7d7-948770fdbe41")
    assert ids.follow_up_id(COMMAND) == UUID("01a21938-62ae-7dd6-8778-d68ee5708351")
    assert ids.event_id(COMMAND.bytes) == UUID("15bfac45-97f0-8c0c-a8a6-da4a89919c38")
    assert ids.task_id(COMMAND) == "db2a7e9a-00f0-f36e-e7bd-b165b657a0ce"
    assert ids.bucket(COMMAND) == 85


def test_new_ids_tell_their_time_and_nothing_else() -> None:
    before = time.time_ns() // 1_000_000
    drawn = [ids.new_id() for _ in range(DRAWN)]
    after = time.time_ns() // 1_000_000

    assert {(id_.version, id_.variant) for id_ in drawn} == {(7, "specified in RFC 4122")}
    assert all(before <= id_.int >> 80 <= after for id_ in drawn)
    ever_set = ever_unset = 0
    for id_ in drawn:
        ever_set, ever_unset = ever_set | id_.int, ever_unset | ~id_.int
    random_bits = (1 << 80) - 1 & ~VERSION_AND_VARIANT
    assert random_bits.bit_count() == 74
    assert ever_set & ever_unset & random_bits == random_bits, "each bit is set in some ids only"
