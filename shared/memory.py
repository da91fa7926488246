"""Settings of the garbage collector for long-lived processes."""

import gc

_ALLOCATIONS_BETWEEN_COLLECTIONS = 20_000


def freeze() -> None:
    """Treat all present objects as permanent, and collect rarely: the hot paths make no cycles.

    Call this once, after all imports and connections.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_ALLOCATIONS_BETWEEN_COLLECTIONS)
