# robustprune in a container, from a clone:
#   docker build -t robustprune .
#   docker run --rm -v "$PWD:/work" --user "$(id -u):$(id -g)" robustprune run quickstart
# With --gpus all it uses GPUs: torch, as package indexes have it, brings CUDA along. A smaller image, for CPUs, takes
# torch's CPU build; pytorch.org's install selector says its address:
#   docker build -t robustprune --build-arg TORCH="--index-url ADDRESS torch torchvision" .
# BASE is any image with Python 3.11 to 3.14 and pip. One that has the torch of constraints.txt keeps it.
ARG BASE=python:3.12-slim
FROM ${BASE}

ENV PIP_NO_CACHE_DIR=1 PIP_BREAK_SYSTEM_PACKAGES=1 PIP_ROOT_USER_ACTION=ignore PIP_CONSTRAINT=/src/constraints.txt
WORKDIR /src
COPY constraints.txt ./

# by itself, so that a change of the source does not install it anew; PIP_CONSTRAINT pins all versions
ARG TORCH="torch torchvision"
# hadolint ignore=DL3013,SC2086
RUN python -m pip install ${TORCH}

COPY pyproject.toml setup.py README.md LICENSE ./
COPY robustprune robustprune
COPY recipes recipes
# hadolint ignore=DL3013
RUN python -m pip install ".[onnx]" && robustprune setup

# whoever runs it, also a user without a name, writes caches to /tmp and runs to /work
ENV HOME=/tmp USER=robustprune
USER 1000:1000
WORKDIR /work
ENTRYPOINT ["robustprune"]
CMD ["--help"]
