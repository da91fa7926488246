"""Heals what a verification finds: counters of registrations by their event's owner, numberings here."""

from collections.abc import Sequence

from sqlalchemy import text

from ops.maintenance import decisions, verification
from ops.maintenance.verification import Verification, VerificationError, VerifiedEvent
from shared.domain.commands import HealCounter
from shared.domain.outcomes import CounterHealed
from shared.postgres import connections, ledger
from shared.settings import Settings

ACTOR = "verify"

# No worker adds an entry to the trail of such an event, and none is removed.
_COUNT_ENTRIES = text("""
    UPDATE event SET audit_seq = (SELECT max(number) FROM audit_entry WHERE event_id = event.id)
    WHERE id = :id AND audit_seq < (SELECT max(number) FROM audit_entry WHERE event_id = event.id)
""")


def run(settings: Settings, names: Sequence[str]) -> Verification:
    """Verify, and have everything healed that can be; return the last verification.

    A trail without its last entries cannot be healed, and nothing of its event is.
    """
    with connections.operator_engine(settings.database_url, writes=True).connect() as connection:
        if ledger.numbering_lag(connection):
            ledger.heal_numbering(connection)
            connection.commit()
        verified = verification.verify(connection, names)
        if behind := [{"id": event.id} for event in verified if event.trail_lag > 0]:
            connection.execute(_COUNT_ENTRIES, behind)
            connection.commit()
        drifted = [event for event in verified if event.has_drift and event.trail_lag >= 0]
        if drifted:
            connection.rollback()
            _heal(settings, drifted)
        if behind or drifted:
            verified = verification.verify(connection, names)
        gone = verification.events_gone(connection, names)
        return Verification(numbering_lag=0, events=verified, events_gone=gone)


def _heal(settings: Settings, drifted: Sequence[VerifiedEvent]) -> None:
    heal = HealCounter(reason="found by verify")
    outcomes = decisions.decide(settings, [(event.id, heal) for event in drifted], ACTOR)
    if not all(isinstance(outcome, CounterHealed) for outcome in outcomes):
        raise VerificationError(f"some counters were not healed: {outcomes}")
