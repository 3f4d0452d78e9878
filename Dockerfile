# The gateway alone. compose.yaml puts a core, a database and demo services beside it.

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
# pip has compiled all that it installed; of Python's own modules the image has sources
# only. This user may not write there: each start would compile them, for half a second.
RUN python -m compileall -q -x '/(site-packages|test|idlelib)/' /usr/local/lib/python3.13
COPY --from=build /opt/gateway /opt/gateway
COPY config/routes.yaml /etc/gateway/routes.yaml
# 0.0.0.0 is the container's own network; what is published is the host's decision.
# The SDK asks tldextract for the site of a domain: from its own list, not the web's.
ENV PATH=/opt/gateway/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    SUPERTOKENS_TLDEXTRACT_DISABLE_HTTP=true \
    TLDEXTRACT_CACHE=/tmp/tldextract \
    GATEWAY_LISTEN=0.0.0.0:8000
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
# Any answer below 500 will do: without a session /user says 401, and asks no core.
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
  CMD ["python", "-c", "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ['GATEWAY_LISTEN'].rpartition(':')[2]), timeout=3); c.request('GET', '/user'); sys.exit(c.getresponse().status >= 500)"]
ENTRYPOINT ["gateway"]
CMD ["serve", "-c", "/etc/gateway/routes.yaml"]
