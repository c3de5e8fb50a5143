# The image without torch: API, migrations, webhook worker, beat. Build it from the repository's root.
ARG PYTHON=3.11.15-slim-trixie

FROM python:${PYTHON} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/distildire
ENV PATH=/opt/distildire/bin:$PATH
WORKDIR /src
# The lock first: a change of the code then does not install every dependency again.
COPY deploy/docker/api.txt ./
RUN pip install --no-deps --only-binary :all: --require-hashes --requirement api.txt
COPY . .
RUN pip install --no-deps --no-build-isolation . && pip check

FROM python:${PYTHON}
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin distildire
COPY --from=build /opt/distildire /opt/distildire
ENV PATH=/opt/distildire/bin:$PATH \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    DISTILDIRE_BIND=0.0.0.0:8000
USER 10001
WORKDIR /opt/distildire
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
CMD ["python", "-P", "-m", "api"]
