"""Runs of the fault harness in processes of their own."""

import json
import os
import subprocess
import sys
from typing import Any

from ops.stack.programs import CHECKOUT

RUN_SECONDS_MAX = 220


def run(*options: str) -> tuple[int, dict[str, Any]]:
    """Run the harness; return its exit status and its report."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "tests.chaos", "--json", "--untimed", *options],
        cwd=CHECKOUT,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        report, log = process.communicate(timeout=RUN_SECONDS_MAX)
    except BaseException:
        process.terminate()  # it stops its servers and programs
        process.communicate(timeout=60)
        raise
    assert report, log
    found: dict[str, Any] = json.loads(report)
    return process.returncode, found
