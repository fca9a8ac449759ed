# docker build -t gateway .
# docker run --read-only -p 127.0.0.1:8080:8080 -v gateway-data:/data gateway
#
# The image runs as an ordinary user and writes to /data only. /data holds keys and answers in
# clear: give it a volume that only the gateway reads.

FROM python:3.13-slim AS build
WORKDIR /src
RUN python -m venv /venv
COPY requirements.lock ./
RUN /venv/bin/pip install --no-cache-dir --require-hashes --no-deps -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY gateway ./gateway
# The build backend is in the lock; nothing that only builds goes into the image.
RUN /venv/bin/pip install --no-cache-dir --no-build-isolation --no-deps --no-index . \
    && /venv/bin/pip uninstall --yes setuptools pip

FROM python:3.13-slim
RUN useradd --system --uid 10001 --home-dir /data --shell /usr/sbin/nologin gateway \
    && install -d -o gateway -g gateway -m 0700 /data
COPY --from=build /venv /venv
COPY config.yaml /etc/gateway/config.yaml
ENV PATH=/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER gateway
WORKDIR /data
VOLUME /data
# The admin plane (8081) stays inside unless the configuration opens it.
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s CMD ["python", "-c", \
    "import urllib.request as r; r.urlopen('http://127.0.0.1:8080/healthz', timeout=2)"]
ENTRYPOINT ["gateway"]
CMD ["serve", "--config", "/etc/gateway/config.yaml", "--data", "/data", "--host", "0.0.0.0"]
