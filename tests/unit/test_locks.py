"""The advisory locks' numbers."""

from shared.postgres import locks


def test_every_lock_has_a_number_of_its_own() -> None:
    numbers = {
        name: value for name, value in vars(locks).items() if name.isupper() and isinstance(value, int)
    }
    assert {"ADOPTION", "UPGRADE", "WORKER"} <= numbers.keys()
    assert len(set(numbers.values())) == len(numbers)
