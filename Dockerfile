# The gateway alone. compose.yaml adds a core, a database and demo services.

FROM python:3.13-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/gateway
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY gateway ./gateway
RUN /opt/gateway/bin/pip install .

FROM python:3.13-slim-bookworm
RUN groupadd --gid 10001 gateway \
 && useradd --uid 10001 --gid gateway --no-create-home --home-dir /nonexistent \
      --shell /usr/sbin/nologin gateway
# pip has compiled the installed packages, but the image has only the sources of Python's
# standard library. The gateway's user can't write there, so each start would compile
# them again, which takes half a second.
RUN python -m compileall -q -x '/(site-packages|test|idlelib)/' /usr/local/lib/python3.13
COPY --from=build /opt/gateway /opt/gateway
COPY config/routes.yaml /etc/gateway/routes.yaml
# 0.0.0.0 is in the container's network; the host decides which ports are published.
# The SDK asks tldextract for the site of a domain: use its bundled list, not the web's.
ENV PATH=/opt/gateway/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    SUPERTOKENS_TLDEXTRACT_DISABLE_HTTP=true \
    TLDEXTRACT_CACHE=/tmp/tldextract \
    GATEWAY_LISTEN=0.0.0.0:8000 \
    GATEWAY_PROBES_LISTEN=0.0.0.0:9902
USER 10001:10001
EXPOSE 8000 9902
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
  CMD ["gateway", "health", "--ready"]
ENTRYPOINT ["gateway"]
CMD ["serve", "-c", "/etc/gateway/routes.yaml"]
