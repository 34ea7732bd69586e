# syntax=docker/dockerfile:1
# A tag may change under one: pin what you have looked at, --build-arg PYTHON_IMAGE=python:3.13-slim@sha256:…
ARG PYTHON_IMAGE=python:3.13-slim

FROM ${PYTHON_IMAGE} AS builder
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /source
COPY requirements-build.lock requirements-runtime.lock ./
RUN python -m venv /build \
 && /build/bin/python -m pip install --require-hashes -r requirements-build.lock \
 && python -m venv /opt/dispatcher \
 && /opt/dispatcher/bin/python -m pip install --require-hashes -r requirements-runtime.lock
COPY pyproject.toml README.md LICENSE ./
COPY migrations migrations
COPY dispatcher dispatcher
RUN /build/bin/python -m pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
 && /opt/dispatcher/bin/python -m pip install --no-deps --no-index /wheels/*.whl \
 && /opt/dispatcher/bin/python -m pip uninstall --yes pip

FROM ${PYTHON_IMAGE}
RUN useradd --system --uid 10001 --user-group --home-dir /data --create-home dispatcher
COPY --from=builder /opt/dispatcher /opt/dispatcher
ENV PATH=/opt/dispatcher/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    DISPATCHER_HOST=0.0.0.0 \
    DISPATCHER_PORT=8080 \
    DISPATCHER_DATABASE_URL=sqlite+aiosqlite:////data/dispatcher.db
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f\"http://127.0.0.1:{os.environ.get('DISPATCHER_PORT', '8080')}/healthz\", timeout=4)"]
STOPSIGNAL SIGTERM
CMD ["dispatcher", "serve"]
