"""The values that the documentation shows as examples."""

from typing import Any
from uuid import UUID

import msgspec

from api.edge import schemas
from api.edge.schemas import ReceiptStatus, RegistrationBrief
from shared.domain import ids
from shared.domain.commands import Status

RECEIPT_ID = "01a20b6f-8fe2-70ac-83f8-91dc7f09e1d6"
TASK_ID = ids.task_id(UUID(RECEIPT_ID))
REGISTRATION_ID = "01a20b6f-8fe2-78f0-98d0-386d0c571e83"
EVENT_ID = "01a20b6b-1a30-7c3e-8d11-6fca02cb99f6"
NOW = "2026-11-24T09:00:00Z"

# The members of some problems beside code and detail.
PROBLEM_MEMBERS: dict[str, Any] = {
    "receipt_id": RECEIPT_ID,
    "incident_id": REGISTRATION_ID,
    "spots_left": 1,
    "spots_needed": 4,
    "opens_at": "2026-12-01T09:00:00Z",
}
CONFIRMED: dict[str, Any] = msgspec.to_builtins(
    schemas.Receipt(
        receipt_id=UUID(RECEIPT_ID),
        task_id=TASK_ID,
        status=ReceiptStatus.CONFIRMED,
        registration=RegistrationBrief(
            id=UUID(REGISTRATION_ID), status=Status.CONFIRMED, spots_count=1, waitlist_position=None
        ),
    )
)
WAITLIST = {
    **CONFIRMED,
    "status": "WAITLIST",
    "registration": {**CONFIRMED["registration"], "status": "WAITLIST", "waitlistPosition": 12},
}
PENDING = {**CONFIRMED, "status": "PENDING", "registration": None, "ahead": 340}
REFUSED = {
    **CONFIRMED,
    "status": "REFUSED",
    "registration": None,
    "refusal": {"code": "EVENT_FULL", "detail": "The event is full and its waitlist takes nobody."},
}
_FIGURES = {
    "slug": "demo",
    "title": "Demonstration drop",
    "capacity": 100,
    "spotsReserved": 99,
    "spotsLeft": 1,
    "waitlistLength": 0,
    "state": "OPEN",
    "opensAt": None,
    "closesAt": None,
    "maxSpotsPerRegistration": 10,
}
AVAILABILITY = {**_FIGURES, "spotsOffered": 1, "next": "CONFIRMED", "pending": 0, "asOf": NOW}
EVENT_EXAMPLE = {
    **_FIGURES,
    "id": EVENT_ID,
    "overbookedSpots": 0,
    "waitlistEnabled": True,
    "waitlistLimit": None,
    "promotionPolicy": "strict_fifo",
    "autoPromote": True,
    "promoteUntil": None,
    "cancelUntil": None,
    "paused": False,
    "archived": False,
    "promoting": False,
    "organiserId": None,
    "createdAt": NOW,
    "updatedAt": NOW,
}
REGISTRATION_EXAMPLE = {
    "id": REGISTRATION_ID,
    "seq": 4711,
    "name": "User A",
    "email": "user.a@example.org",
    "spotsCount": 1,
    "status": "CONFIRMED",
    "waitlistPosition": None,
    "createdAt": NOW,
    "updatedAt": NOW,
}
AUDIT_EXAMPLE = {
    "number": 1,
    "commandDigest": "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8",
    "kind": "register",
    "actor": "public",
    "reason": None,
    "registrationId": REGISTRATION_ID,
    "fromStatus": None,
    "toStatus": "CONFIRMED",
    "beforeAfter": None,
    "spotsDelta": 1,
    "spotsReserved": 1,
    "at": "2026-11-24T09:00:00.000000Z",
    "hash": "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
    "previousHash": "0" * 64,
}
FAILED_EXAMPLE = {
    "seq": 4711,
    "commandDigest": AUDIT_EXAMPLE["commandDigest"],
    "kind": "register",
    "actor": "public",
    "acceptedAt": NOW,
    "settledAt": NOW,
    "incidentId": REGISTRATION_ID,
}

CHALLENGE = {
    "parameters": {
        "algorithm": "PBKDF2/SHA-256",
        "cost": 1000,
        "data": {"event": EVENT_ID},
        "expiresAt": 1798110600,
        "keyLength": 32,
        "keyPrefix": "d1dcb79f7a2ed64c1bc41fd1a4a0a5b6",
        "keySignature": "ac0b81f1dbb2d4d3b4c9f3f7a1fd5f1be0d0ab0e1cb86d0cd7a5fe2f6e6a4a53",
        "nonce": "65bd7b70bc8ab6cfaf23d3d31f3ca8e2",
        "salt": "8f4d4d1ff3f5b5ee08d1f9b0e0a3a9ad",
    },
    "signature": "6d5d5b0b0cfb2f2cfc5ef7eb05d7c1e59a7ff2a1b60e8f2d5a0d7a9bfb9bf0a1",
}
