"""Heals what a verification finds: a counter by its event's owner, the ledger's numbering here."""

from collections.abc import Sequence

from ops.maintenance import decisions, verification
from ops.maintenance.verification import Verification, VerificationError, VerifiedEvent
from shared.domain.commands import HealCounter
from shared.domain.outcomes import CounterHealed
from shared.postgres import connections, ledger
from shared.settings import Settings

ACTOR = "verify"


def run(settings: Settings, names: Sequence[str]) -> Verification:
    """Verify, and have everything healed that differs; return the last verification."""
    with connections.operator_engine(settings.database_url, writes=True).connect() as connection:
        if ledger.numbering_lag(connection):
            ledger.heal_numbering(connection)
            connection.commit()
        verified = verification.verify(connection, names)
        drifted = [event for event in verified if not event.in_sync]
        if drifted:
            connection.rollback()
            _heal(settings, drifted)
            verified = verification.verify(connection, names)
        return Verification(numbering_lag=0, events=verified)


def _heal(settings: Settings, drifted: Sequence[VerifiedEvent]) -> None:
    heal = HealCounter(reason="found by verify")
    outcomes = decisions.decide(settings, [(event.id, heal) for event in drifted], ACTOR)
    if not all(isinstance(outcome, CounterHealed) for outcome in outcomes):
        raise VerificationError(f"some counters were not healed: {outcomes}")
