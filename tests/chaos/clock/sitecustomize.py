"""Gives a program a wrong clock: Python imports this module at the start, if its folder is in PYTHONPATH."""

import os
import time

_AHEAD = float(os.environ.get("CHAOS_CLOCK_SECONDS", "0"))
_time, _time_ns = time.time, time.time_ns

time.time = lambda: _time() + _AHEAD
time.time_ns = lambda: _time_ns() + int(_AHEAD * 1e9)
