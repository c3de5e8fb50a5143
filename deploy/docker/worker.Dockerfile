# The analysis worker with torch. The CUDA libraries come with torch's own wheels, so the base needs none; the driver
# comes from the host. The same image runs on the CPU. Build it from the repository's root.
ARG PYTHON=3.11.15-slim-trixie

FROM python:${PYTHON} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/distildire
ENV PATH=/opt/distildire/bin:$PATH
WORKDIR /src
# The lock first: a change of the code then does not install every dependency again.
COPY deploy/docker/worker.txt ./
RUN pip install --no-deps --only-binary :all: --require-hashes --requirement worker.txt
COPY . .
RUN pip install --no-deps --no-build-isolation . && pip check

FROM python:${PYTHON}
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin distildire
COPY --from=build /opt/distildire /opt/distildire
ENV PATH=/opt/distildire/bin:$PATH \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001
WORKDIR /opt/distildire
# The worker makes the file when the model is warm, and ends by itself when its device is stuck.
ENV DISTILDIRE_READY_FILE=/tmp/ready
HEALTHCHECK --interval=10s --timeout=3s --start-period=300s CMD ["test", "-e", "/tmp/ready"]
CMD ["python", "-P", "-m", "worker", "analysis"]
