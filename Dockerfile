# The broker and the reference verifier: one image, one command. Everything installed is pinned by hash in requirements.lock.
ARG BASE=python:3.13-slim-bookworm

FROM ${BASE} AS build
WORKDIR /src
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1
# a compiler for the native kernel of the RIM chain; it stays in this stage, and without it the wheel is pure Python
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
COPY requirements.lock requirements-build.lock ./
RUN python -m venv /opt/build \
 && /opt/build/bin/pip install --require-hashes --no-deps --requirement requirements-build.lock \
 && python -m venv --without-pip /opt/kbs_rim \
 && python -m pip --python /opt/kbs_rim/bin/python install --require-hashes --no-deps --requirement requirements.lock
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY config config
COPY migrations migrations
COPY kbs_rim kbs_rim
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
 && python -m pip --python /opt/kbs_rim/bin/python install --no-deps /wheels/*.whl \
 && python -m pip --python /opt/kbs_rim/bin/python check

FROM ${BASE}
# a number, so that orchestrators can see that it is not root; the folder is where an SQLite database would go
RUN groupadd --system --gid 10001 kbs_rim \
 && useradd --system --uid 10001 --gid 10001 --home-dir /var/lib/kbs_rim --shell /usr/sbin/nologin kbs_rim \
 && install --directory --owner 10001 --group 10001 --mode 0700 /var/lib/kbs_rim
COPY --from=build /opt/kbs_rim /opt/kbs_rim
ENV PATH=/opt/kbs_rim/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
WORKDIR /var/lib/kbs_rim
USER 10001:10001
ENTRYPOINT ["kbs-rim"]
CMD ["serve"]
