# Images that train; docs/image.md says how to run them.
#
#   docker build --target cuda -t dlrm:cuda .    for GPUs; torch's wheels bring their own CUDA libraries, the host needs the driver
#   docker build --target cpu  -t dlrm:cpu  .    without
#   docker build --target test -t dlrm:test .    with what the tests need; runs them
#
# Another base needs Python 3.11 or newer with the module venv, and useradd: --build-arg BASE_IMAGE=...
ARG BASE_IMAGE=docker.io/library/python:3.11.15-slim-bookworm@sha256:d29f48a31a8b408ed19272ca1e7b10ebae13b240a27e862d3d4217c528e2e0c3

# ---- What a container runs as, and where it may write.
FROM ${BASE_IMAGE} AS base
# Names for user ids that have none here (docker run --user 12345, OpenShift), and one place for what libraries keep.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HOME=/home/dlrm \
    USER=dlrm \
    LOGNAME=dlrm \
    XDG_CACHE_HOME=/cache \
    NUMBA_CACHE_DIR=/cache/numba \
    MPLCONFIGDIR=/cache/matplotlib \
    TORCHINDUCTOR_CACHE_DIR=/cache/torchinductor \
    TRITON_CACHE_DIR=/cache/triton
WORKDIR /dlrm
# Any user may write these, as in /tmp: which one a container has is decided when it starts. The code stays root's.
RUN useradd --uid 1000 --gid 0 --home-dir /home/dlrm --no-create-home --shell /bin/bash dlrm \
    && install -d -m 1777 /home/dlrm /cache /dlrm/runs

# ---- The code with its bytecode, which a user that is not root could not keep.
FROM base AS code
COPY dlrm_main.py pyproject.toml LICENSE .torchxconfig ./
COPY components/ components/
COPY configs/ configs/
COPY launch/ launch/
COPY dlrm/ dlrm/
# By the hash of the source, not by its time, which copies do not keep.
RUN python3 -m compileall -q --invalidation-mode checked-hash dlrm_main.py components launch dlrm

# ---- What the installation reads, so that a change of the code does not install everything again.
FROM base AS install
ENV DLRM_VENV=/opt/venv
COPY scripts/install.sh scripts/install.py scripts/
COPY requirements/ requirements/
COPY pyproject.toml ./
COPY dlrm/__init__.py dlrm/errors.py dlrm/format.py dlrm/
COPY dlrm/distributed/__init__.py dlrm/distributed/versions.py dlrm/distributed/

# ---- CPU
FROM install AS install-cpu
# Another torch that pyproject.toml knows (2.12); further packages, of the versions in requirements/ (boto3, for s3://).
ARG TORCH=
ARG PACKAGES=
# The secret is a pip.conf with a mirror's password, if there is one; torch's own test programs are 130 MB.
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip,target=/etc/pip.conf \
    scripts/install.sh --accelerator cpu --torch "$TORCH" \
    && { [ -z "$PACKAGES" ] || pip install -c requirements/runtime.txt -c requirements/dev.txt $PACKAGES; } \
    && cd /opt/venv/lib/python3*/site-packages/torch && rm -rf test bin/test_* bin/*Test /opt/venv/install.log

FROM base AS cpu
COPY --from=install-cpu /opt/venv /opt/venv
COPY --from=code /dlrm /dlrm
# By number, which is what Kubernetes' runAsNonRoot can judge.
USER 1000:0
ARG COMMIT=
ENV DLRM_COMMIT=$COMMIT
LABEL org.opencontainers.image.title="dlrm" \
      org.opencontainers.image.description="Distributed training of deep learning recommendation models on CPU" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision=$COMMIT
# No entrypoint: torchx and Kubernetes give the whole command.
CMD ["python", "dlrm_main.py", "doctor"]

# ---- Tests
FROM cpu AS test
USER 0:0
ENV DLRM_VENV=/opt/venv
COPY scripts/install.sh scripts/install.py scripts/
COPY requirements/ requirements/
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip,target=/etc/pip.conf \
    scripts/install.sh --dev && rm /opt/venv/install.log
COPY . .
USER 1000:0
CMD ["python", "-m", "pytest", "-p", "no:cacheprovider", "--numprocesses", "auto", "--maxprocesses", "4", \
     "--dist", "loadfile", "--no-loadscope-reorder", "-m", "not slow"]

# ---- CUDA; the last, so the one without --target
FROM install AS install-cuda
ARG TORCH=
ARG PACKAGES=
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip,target=/etc/pip.conf \
    scripts/install.sh --accelerator cuda --torch "$TORCH" \
    && { [ -z "$PACKAGES" ] || pip install -c requirements/runtime.txt -c requirements/dev.txt $PACKAGES; } \
    && cd /opt/venv/lib/python3*/site-packages/torch && rm -rf test bin/test_* bin/*Test /opt/venv/install.log

FROM base AS cuda
# NCCL takes InfiniBand and RoCE only where it finds these, and sockets without a word where it does not.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ibverbs-providers libibverbs1 \
    && rm -rf /var/lib/apt/lists/*
# Which GPUs a container sees is left to --gpus and to Kubernetes' device plugin.
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=install-cuda /opt/venv /opt/venv
COPY --from=code /dlrm /dlrm
USER 1000:0
ARG COMMIT=
ENV DLRM_COMMIT=$COMMIT
LABEL org.opencontainers.image.title="dlrm" \
      org.opencontainers.image.description="Distributed training of deep learning recommendation models on GPUs" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision=$COMMIT
CMD ["python", "dlrm_main.py", "doctor"]
