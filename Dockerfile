# One image for all parts: `api`, `worker` and `migrate` are its commands. It needs no writable file system but /tmp.

FROM python:3.13-slim AS build

# The uv that wrote uv.lock, so that it is read as it was meant.
RUN pip install --no-cache-dir uv==0.13.9

ENV UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    UV_NO_CACHE=1 \
    UV_PYTHON_DOWNLOADS=never

WORKDIR /app
COPY pyproject.toml uv.lock ./
RUN uv sync --locked --no-default-groups

COPY LICENSE ./
COPY migrations migrations
COPY shared shared
COPY api api
COPY worker worker
COPY ops ops
# Nothing can be compiled when it runs, neither by this user nor onto a read-only root.
RUN python -m compileall -q migrations shared api worker ops


FROM python:3.13-slim

LABEL org.opencontainers.image.title="AdmitOne" \
      org.opencontainers.image.description="Registration for ticket drops: never oversold, never lost, answered once" \
      org.opencontainers.image.licenses="MIT"

# A fixed number, so that volumes and security policies can name it.
RUN groupadd --gid 10001 admitone \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin admitone

ENV PATH=/app/.venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONPATH=/app \
    PYTHONUNBUFFERED=1

WORKDIR /app
COPY --from=build /app /app

USER 10001:10001
EXPOSE 9000
ENTRYPOINT ["python", "-P", "-m", "ops.cli"]
