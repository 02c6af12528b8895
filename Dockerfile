# The image of the manifests in configs/cluster/, for CPUs:
#   docker build -t gam-kg:0.1.0 .
# and with a torch for NVIDIA GPUs:
#   docker build -t gam-kg:0.1.0-gpu --build-arg TORCH_INDEX=https://pypi.org/simple .
FROM python:3.11-slim
# Of the same version of torch, the local one of this index (+cpu) goes before that of PyPI, which brings CUDA.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

# KubeRay's probes call wget.
RUN apt-get update && apt-get install -y --no-install-recommends wget && rm -rf /var/lib/apt/lists/*
# The user of the manifests; what it writes is on the volumes.
RUN useradd --create-home --uid 1000 gam-kg
WORKDIR /gam-kg

COPY constraints.txt ./
RUN pip install --no-cache-dir -c constraints.txt --extra-index-url "$TORCH_INDEX" torch
COPY . ./
RUN pip install --no-cache-dir -c constraints.txt '.[cluster,demo,report]'

ENV RAY_USAGE_STATS_ENABLED=0
USER 1000
CMD ["gam-kg", "--help"]
