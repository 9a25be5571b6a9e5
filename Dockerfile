# One image for server and workers (and, with JupyterLab in it, for notebooks: --target notebook).
#   docker build -t flautim-lab:0.1.0 .            or: buildah build -t flautim-lab:0.1.0 .
# TORCH_INDEX is where torch's build comes from: pytorch.org tells the address of each, for the CPU
# and for every CUDA. Without it pip takes its own choice, which on Linux brings CUDA and gigabytes:
#   docker build --build-arg TORCH_INDEX=ADDRESS -t flautim-lab:0.1.0 .
ARG PYTHON=python:3.11-slim

FROM ${PYTHON} AS build
ARG TORCH_INDEX=
WORKDIR /source
RUN python -m venv /opt/flautim-lab
ENV PATH=/opt/flautim-lab/bin:$PATH
COPY constraints.txt pyproject.toml README.md LICENSE ./
# First what changes seldom: the dependencies, with an empty package in place of ours.
RUN mkdir flautim_lab && touch flautim_lab/__init__.py \
    && if [ -n "$TORCH_INDEX" ]; then \
        pip install --no-cache-dir --constraint constraints.txt --extra-index-url "$TORCH_INDEX" torch; \
    else pip install --no-cache-dir --constraint constraints.txt torch; fi \
    # scikit-learn is what many a dataset's class imports.
    && pip install --no-cache-dir --constraint constraints.txt . scikit-learn \
    # What only compiles or tests other packages is not needed to run. The bytecode stays: without it
    # every start of a pod would compile torch anew, on a read-only file system.
    && find /opt/flautim-lab -depth \( -path '*/torch/include' -o -path '*/torch/test' \) -exec rm -rf {} +
COPY flautim_lab flautim_lab
RUN pip install --no-cache-dir --no-deps --force-reinstall .

FROM build AS build-notebook
RUN pip install --no-cache-dir --constraint constraints.txt '.[lab,cluster]'

FROM ${PYTHON} AS base
ENV PATH=/opt/flautim-lab/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    FLWR_TELEMETRY_ENABLED=0 MPLCONFIGDIR=/tmp/matplotlib
RUN apt-get update && apt-get install --yes --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --create-home flautim
USER 1000
WORKDIR /home/flautim
ENTRYPOINT ["tini", "--"]

FROM base AS notebook
COPY --from=build-notebook /opt/flautim-lab /opt/flautim-lab
CMD ["jupyterhub-singleuser"]

FROM base AS run
COPY --from=build /opt/flautim-lab /opt/flautim-lab
CMD ["flautim-lab", "doctor"]
