# One image for every service: `python -m services.<name>`. The base image is named by its tag; pin it by digest if builds
# must be reproducible (--build-arg PYTHON=python@sha256:…).
ARG PYTHON=python:3.13-slim

FROM ${PYTHON} AS dependencies
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
# With the wheels that `make images` has put in .wheels/, if any: then no package index is needed.
COPY requirements/run.txt .wheel[s]/*.whl /tmp/
# Every file is checked against its hash, and only wheels are installed: a dependency without a wheel fails the build.
RUN python -m venv --without-pip /opt/venv \
    && if ls /tmp/*.whl >/dev/null 2>&1; then export PIP_NO_INDEX=1 PIP_FIND_LINKS=/tmp; fi \
    && pip --python /opt/venv/bin/python install --require-hashes --no-deps --only-binary :all: --requirement /tmp/run.txt \
    && pip --python /opt/venv/bin/python check
# The bill of materials (CycloneDX), at /opt/tokenwire/sbom.cdx.json.
COPY deploy deploy
RUN /opt/venv/bin/python deploy/components.py /tmp/run.txt > /tmp/sbom.cdx.json

FROM ${PYTHON}
LABEL org.opencontainers.image.title="Tokenwire" \
      org.opencontainers.image.description="An OAuth 2.0 authorization server as event-driven microservices"
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PYTHONFAULTHANDLER=1 \
    TOKENWIRE_HOST=0.0.0.0 \
    TOKENWIRE_PORT=8080
RUN groupadd --gid 10001 tokenwire \
    && useradd --uid 10001 --gid tokenwire --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin tokenwire
# The base image comes without bytecode, and containers cannot write any: each start and each health check would compile.
RUN python -m compileall -q -j 0 -x '/(test|tests|idlelib|ensurepip|tkinter|site-packages|dist-packages)/' \
    "$(python -c 'import os; print(os.path.dirname(os.__file__))')"
WORKDIR /opt/tokenwire
COPY --from=dependencies /opt/venv /opt/venv
COPY --from=dependencies /tmp/sbom.cdx.json sbom.cdx.json
COPY cli cli
COPY contracts contracts
COPY libs libs
COPY services services
COPY deploy deploy
RUN python -m compileall -q . && chmod -R a+rX .
USER 10001:10001
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=4s --start-period=20s --retries=3 \
    CMD ["python", "-m", "services.health", "http://127.0.0.1:8080/readyz"]
# The command names the service: docker run tokenwire python -m services.token
CMD ["python", "-m", "services", "--help"]
