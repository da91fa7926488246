"""The environment of a process: only variables named `ADMITONE_…` configure AdmitOne.

Libraries read variables of their own, and prefer them to what a program tells them: Celery `BROKER_URL`,
libpq `PGOPTIONS`, uvicorn `WEB_CONCURRENCY`. On a machine with other programs such variables belong to these.
"""

import os
import re

_OTHERS = re.compile(
    # Celery, kombu and billiard
    r"CELERY.*|C_[A-Z_]+|KOMBU_.*|APP|BROKER_URL|CONFIG_MODULE|LOADER|RESULT_BACKEND|SKIP_CHECKS|MP_LOG"
    r"|AUTOSCALE_KEEPALIVE|EVENTLET_NOBLOCK|FORKED_BY_MULTIPROCESSING|MP_MAIN_FILE|PICKLE_PROTOCOL|REMAP_SIGTERM"
    r"|TIMER_DEBUG|DISABLE_TRACEBACKS|USE_FAST_LOCALS"
    # libpq and psycopg; uvicorn; FastAPI and pydantic; Alembic; prometheus-client
    r"|PG[A-Z]+|PSYCOPG_.*|UVICORN_.*|WEB_CONCURRENCY|FORWARDED_ALLOW_IPS|FASTAPI_.*|PYDANTIC_.*|ALEMBIC_.*"
    r"|PROMETHEUS_DISABLE_.*|PROMETHEUS_LEGACY_.*|prometheus_multiproc_dir"
)
_OURS = "ADMITONE_"
_LINK = re.compile(r"(tcp|udp|sctp)://.*")
"""The value by which Kubernetes and Docker name the port of a service: one named `admitone` gives every
container of its namespace an `ADMITONE_PORT` of this form."""


def clean() -> None:
    """Leave in this process's environment only variables that are meant for it; safe to repeat.

    Variables of libraries go, and names in lower case, which pydantic would take for settings. A variable
    `ADMITONE_…` loses outer white space, and goes if it is empty or the link to a service.
    """
    for name, value in list(os.environ.items()):
        if _OTHERS.fullmatch(name) or (name.upper().startswith(_OURS) and not name.isupper()):
            del os.environ[name]
        elif name.startswith(_OURS):
            trimmed = value.strip()
            if not trimmed or (name.endswith("_PORT") and _LINK.fullmatch(trimmed)):
                del os.environ[name]
            elif trimmed != value:
                os.environ[name] = trimmed
