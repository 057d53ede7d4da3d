# An image that trains: docker build -t dlrm --build-arg ACCELERATOR=cuda . ; docker run --gpus all --shm-size=8g dlrm
# torch's wheels bring their own CUDA libraries; the host needs the driver and NVIDIA's container toolkit only.
FROM python:3.11-slim-bookworm

ARG ACCELERATOR=cuda
ENV PYTHONUNBUFFERED=1
WORKDIR /dlrm

# What the installation reads comes first, so that a change of the code does not install everything again.
COPY scripts/ scripts/
COPY requirements/ requirements/
COPY pyproject.toml ./
COPY dlrm/__init__.py dlrm/errors.py dlrm/
COPY dlrm/distributed/__init__.py dlrm/distributed/versions.py dlrm/distributed/
RUN scripts/install.sh --accelerator "$ACCELERATOR"
ENV PATH="/dlrm/.venv/bin:$PATH"

COPY . .
# No entrypoint: torchx gives the whole command.
CMD ["python", "dlrm_main.py", "doctor"]
