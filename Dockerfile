# `tinystories serve` on a CPU; docs/serving.md shows how to build and run the image.
FROM python:3.13-slim

# Native decoding compiles C code at first use. Debian keeps only one version of a package, so no version is pinned.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*

# The CPU builds of torch, which are much smaller. pip prefers their versions (2.13.0+cpu) to those of the package index.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN --mount=type=bind,target=/source,rw \
    pip install --no-cache-dir --constraint /source/constraints.txt --extra-index-url "$TORCH_INDEX" '/source[serve]'

# The cache folder must exist, so that a volume that is mounted there belongs to the user.
RUN useradd --create-home --uid 1000 tinystories \
    && install --directory --owner 1000 --group 1000 /home/tinystories/.cache
USER 1000
WORKDIR /home/tinystories

# The run folder is mounted here; a model id on the Hub, or `builtin`, as an argument of `docker run` replaces it.
ENV CHECKPOINT_PATH=/model
EXPOSE 7779
HEALTHCHECK --start-period=60s --interval=30s --timeout=5s CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:' + os.environ.get('PORT', '7779') + '/health')"]
ENTRYPOINT ["tinystories", "serve", "--host", "0.0.0.0"]
