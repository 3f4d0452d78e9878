# The gateway alone. compose.yaml adds a core, a database and demo services.
# `make image-test` builds it and runs it, without a container engine.

# In production, name a version and its digest (…@sha256:…), not a moving tag.
ARG PYTHON_IMAGE=docker.io/library/python:3.13-slim-trixie

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
# Tools for the build are in an environment of their own: the gateway's gets no pip.
RUN python -m venv /opt/build && python -m venv --without-pip /opt/gateway
WORKDIR /src
COPY deploy/requirements.txt deploy/requirements-build.txt deploy/
# `make lock` writes both files. Only these versions and these files are installed.
RUN /opt/build/bin/pip install --require-hashes -r deploy/requirements-build.txt \
 && /opt/build/bin/pip --python /opt/gateway/bin/python install \
      --require-hashes --only-binary :all: -r deploy/requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY gateway ./gateway
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir dist . \
 && /opt/build/bin/pip --python /opt/gateway/bin/python install --no-deps dist/*.whl

FROM ${PYTHON_IMAGE}
RUN groupadd --gid 10001 gateway \
 && useradd --uid 10001 --gid gateway --no-create-home --home-dir /nonexistent \
      --shell /usr/sbin/nologin gateway
# pip has compiled the installed packages, but the image has only the sources of Python's
# standard library. The gateway's user can't write there, so each start would compile
# them again, which takes half a second.
RUN python -m compileall -q -x '/(site-packages|dist-packages|test|idlelib)/' \
      "$(python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"
COPY --from=build /opt/gateway /opt/gateway
COPY config/routes.yaml /etc/gateway/routes.yaml
# 0.0.0.0 is in the container's network; the host decides which ports are published.
# The SDK asks tldextract for the site of a domain: use its bundled list, not the web's.
ENV PATH=/opt/gateway/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    SUPERTOKENS_TLDEXTRACT_DISABLE_HTTP=true \
    TLDEXTRACT_CACHE=/tmp/tldextract \
    GATEWAY_CONFIG=/etc/gateway/routes.yaml \
    GATEWAY_LISTEN=0.0.0.0:8000 \
    GATEWAY_PROBES_LISTEN=0.0.0.0:9902 \
    GATEWAY_LOG_FORMAT=json
ARG VERSION=
ARG REVISION=
LABEL org.opencontainers.image.title="supertokens-gateway" \
      org.opencontainers.image.description="A reverse proxy that verifies SuperTokens sessions" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
USER 10001:10001
EXPOSE 8000 9902
# The gateway drains: requests in flight are finished, for `drain_timeout` at most.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
  CMD ["gateway", "health", "--ready"]
ENTRYPOINT ["gateway"]
CMD ["serve"]
