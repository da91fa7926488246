"""Proof of work for events that ask for it, in the format of ALTCHA (version 2 of its protocol).

A challenge is signed, names its event and expires. The client tries numbers until it finds the one that the
service drew; the service made the challenge with one try, and checks a solution with two digests. The number
is drawn higher while many challenges of the event are asked for. A solution is for one registration
(decision 0071).

Written in Redis: `admitone.solved.<nonce>`, the request that used the solution, until the challenge has
expired. Without Redis a process remembers the solutions that it has seen itself.
"""

import base64
import hmac
import secrets
from collections import Counter
from collections.abc import Sequence
from time import time
from typing import Any
from uuid import UUID

import altcha
import msgspec
from msgspec import Struct

from api.edge.problems import ProblemError, ProblemType
from api.protection.shared_memory import SharedMemory

SECONDS = 600
"""The time in which a challenge can be used."""
TRIES = 1_000
"""The most tries that a challenge takes while few are asked for; a try is `COST` rounds of PBKDF2."""
COST = 1_000
HARDER_MAX = 8
GIVEN_EASILY = 500
"""The challenges of an event in `WINDOW_SECONDS` above which they become harder."""
WINDOW_SECONDS = 10

_ALGORITHM = "PBKDF2/SHA-256"
_REMEMBERED_MAX = 200_000
_SOLVED = "admitone.solved."
# Keeps the first request of a solution; returns whether it is this one.
_KEEP_FIRST = """
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'EX', ARGV[2]) then return 1 end
return redis.call('GET', KEYS[1]) == ARGV[1] and 1 or 0
"""


class _Parameters(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    algorithm: str
    nonce: str
    salt: str
    cost: int
    key_length: int
    key_prefix: str
    key_signature: str
    expires_at: int
    data: dict[str, str]


class _Challenge(Struct, frozen=True, forbid_unknown_fields=True):
    parameters: _Parameters
    signature: str


class _Solution(Struct, frozen=True, rename="camel"):
    counter: int
    derived_key: str


class _Payload(Struct, frozen=True):
    challenge: _Challenge
    solution: _Solution


_PAYLOAD = msgspec.json.Decoder(_Payload)


class Challenges:
    """Gives challenges, and takes each solution once."""

    def __init__(self, secret_keys: Sequence[bytes], processes: int, shared: SharedMemory) -> None:
        # Without a secret key the challenges of this process are good in this process only.
        self._secrets = [
            tuple(hmac.digest(key, purpose, "sha256") for purpose in (b"challenge", b"challenge key"))
            for key in (key or secrets.token_bytes(32) for key in secret_keys)
        ]
        self._processes = processes
        self._shared = shared
        self._window = 0
        self._given: Counter[UUID] = Counter()
        self._given_before: Counter[UUID] = Counter()
        self._solved: dict[str, str] = {}
        self._solved_before: dict[str, str] = {}
        self._solved_since = time()

    def give(self, event_id: UUID) -> dict[str, Any]:
        """Return a fresh challenge of the event, as JSON."""
        tries = int(TRIES * self._harder(event_id))
        secret, key_secret = self._secrets[0]
        challenge: dict[str, Any] = altcha.create_challenge(
            _ALGORITHM,
            COST,
            counter=tries // 2 + secrets.randbelow(tries // 2) + 1,
            expires_at=int(time()) + SECONDS,
            data={"event": str(event_id)},
            hmac_secret=secret,
            hmac_key_secret=key_secret,
        ).to_dict()
        return challenge

    async def fault(self, event_id: UUID, solution: str | None, request: str) -> ProblemError | None:
        """Return None if the solution is good for this request, and no other one has used it."""
        if solution is None:
            return ProblemType.CHALLENGE_REQUIRED.error()
        try:
            payload = _PAYLOAD.decode(base64.b64decode(solution))
        except (ValueError, RecursionError):
            return ProblemType.CHALLENGE_FAILED.error("The solution is not in the form of ALTCHA.")
        parameters = payload.challenge.parameters
        if parameters.expires_at < time():
            return ProblemType.CHALLENGE_FAILED.error("The challenge has expired; ask for a fresh one.")
        if parameters.data != {"event": str(event_id)}:
            return ProblemType.CHALLENGE_FAILED.error("The challenge is another event's.")
        if not self._is_right(payload):
            return ProblemType.CHALLENGE_FAILED.error()
        if not await self._is_first(parameters.nonce, request):
            return ProblemType.CHALLENGE_FAILED.error(
                "The solution was used before; ask for a fresh challenge."
            )
        return None

    def _harder(self, event_id: UUID) -> float:
        """Count a challenge of the event; return by how much the event's are harder now."""
        window = int(time()) // WINDOW_SECONDS
        if window != self._window:
            self._given_before = self._given if window == self._window + 1 else Counter()
            self._given, self._window = Counter(), window
        self._given[event_id] += 1
        given = self._processes * max(self._given[event_id], self._given_before[event_id])
        return min(max(given / GIVEN_EASILY, 1), HARDER_MAX)

    def _is_right(self, payload: _Payload) -> bool:
        """Return True for a right solution of a challenge that this service gave."""
        found = altcha.Payload.from_dict(msgspec.to_builtins(payload))
        return any(
            altcha.verify_solution(found, secret, hmac_key_secret=key_secret).verified
            for secret, key_secret in self._secrets
        )

    async def _is_first(self, nonce: str, request: str) -> bool:
        """Return True if no other request has used the solution of this challenge."""
        if time() > self._solved_since + SECONDS or len(self._solved) >= _REMEMBERED_MAX:
            self._solved_before, self._solved, self._solved_since = self._solved, {}, time()
        if self._solved_before.get(nonce, request) != request:
            return False
        if self._solved.setdefault(nonce, request) != request:
            return False
        client = self._shared.client
        first = await self._shared.ask(lambda: client.eval(_KEEP_FIRST, 1, _SOLVED + nonce, request, SECONDS))
        return first != 0
