# docker build -t deepsep .                                                       without a graphics card
# docker build -t deepsep --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128 .      for NVIDIA cards
# docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/music" deepsep separate song.mp3 -o stems/
# docker run --rm -p 127.0.0.1:8765:8765 --user "$(id -u):$(id -g)" -v "$PWD:/music" deepsep       the page, in deepsep/
FROM python:3.12-slim

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

# Debian keeps one version of ffmpeg for each of its releases, and only that
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ffmpeg \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 deepsep \
    && install --directory --mode 1777 /music

WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY deepsep ./deepsep
# what versions there may be is said in pyproject.toml
# hadolint ignore=DL3013
RUN pip install --no-cache-dir torch --index-url "$TORCH_INDEX" \
    && pip install --no-cache-dir ".[app,tags,plot]" \
    && rm -rf /src

# --user may be anybody, who has no home here, and writes to /music even where nothing is mounted
ENV HOME=/tmp \
    HF_HOME=/tmp/huggingface
USER 1000
WORKDIR /music
EXPOSE 8765
ENTRYPOINT ["deepsep"]
CMD ["app", "--host", "0.0.0.0", "--port", "8765", "--no-browser", "--folder", "/music/deepsep"]
