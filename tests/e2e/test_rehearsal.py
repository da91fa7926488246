"""The rehearsal, as a person runs it: on a stack of its own, on a running one, and on a broken one."""

import json
import subprocess
import sys

from tests.stage import CHECKOUT, Breakable, Stage

SECONDS_MAX = 100


def rehearse(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ops.cli", "rehearse", *arguments],
        cwd=CHECKOUT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS_MAX,
    )


def test_a_rehearsal_on_its_own_stack_finds_nothing_wrong() -> None:
    done = rehearse("--registrations", "600", "--capacity", "50", "--clients", "60", "--json")

    report = json.loads(done.stdout)
    assert (done.returncode, report["violations"]) == (0, [])
    assert (report["sent"], report["confirmed"], report["waitlisted"], report["pending"]) == (600, 50, 550, 0)


def test_parties_are_served_in_order_of_acceptance(
    breakable: Breakable,
) -> None:
    stage = breakable(workers=2, api_processes=2)
    options = ("--registrations", "500", "--capacity", "200", "--clients", "50", "--party-max", "4")

    done = rehearse(*options, "--url", stage.url, "--key", stage.key)

    assert (done.returncode, "fifo" in done.stdout) == (0, False), done.stdout


def test_a_rehearsal_names_what_is_wrong(stage: Stage) -> None:
    stage.query("""
        CREATE FUNCTION lose_one() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RETURN CASE WHEN NEW.name = 'Rehearsal 7' THEN NULL ELSE NEW END; END $$
    """)
    stage.query(
        "CREATE TRIGGER lose_one BEFORE INSERT ON registration FOR EACH ROW EXECUTE FUNCTION lose_one()"
    )
    try:
        options = ("--registrations", "100", "--capacity", "50", "--clients", "10", "--json")
        done = rehearse(*options, "--url", stage.url, "--key", stage.key)
    finally:
        stage.query("DROP TRIGGER lose_one ON registration")
        stage.query("DROP FUNCTION lose_one")

    report = json.loads(done.stdout)
    assert done.returncode == 1
    named = {violation.partition(":")[0] for violation in report["violations"]}
    assert {"counter drift", "audit replay"} <= named, report["violations"]
    # A receipt that is read once more, and tells of the registration by then, says that it is gone.
    assert named & {"lost", "answered twice"}, report["violations"]


def test_a_rehearsal_that_cannot_take_place_says_why(stage: Stage) -> None:
    wrong_key = rehearse("--registrations", "10", "--clients", "5", "--url", stage.url, "--key", "no" * 10)
    nobody_there = rehearse(
        "--registrations", "10", "--clients", "5", "--url", "http://127.0.0.1:9", "--key", "x"
    )
    nonsense = rehearse("--registrations", "0")

    assert [done.returncode for done in (wrong_key, nobody_there, nonsense)] == [2, 2, 2]
    assert "does not accept the admin key" in wrong_key.stderr
    assert "cannot be reached" in nobody_there.stderr
    assert len(nonsense.stderr.splitlines()) == 1
