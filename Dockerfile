# docker build -t mammovae .
# docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/work" mammovae demo        writes ./runs/demo/report.html
#
# On a CPU. PyPI's torch for x86-64 holds CUDA as well, several GB; where you know an index with a CPU build of the version in
# constraints.txt, name it: --build-arg PIP_EXTRA_INDEX_URL=ADDRESS.
FROM debian:bookworm-slim AS base
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates git make python3 python3-venv \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --create-home --uid 1000 mammovae \
 && install --directory --owner mammovae /work

FROM base AS build
ARG PIP_EXTRA_INDEX_URL
COPY . /source
RUN python3 -m venv /opt/mammovae \
 && /opt/mammovae/bin/pip install --no-cache-dir --constraint /source/constraints.txt "/source[samples]"

FROM base
COPY --from=build /opt/mammovae /opt/mammovae
# What libraries keep between calls goes where any user may write.
ENV PATH=/opt/mammovae/bin:$PATH HOME=/tmp
USER mammovae
WORKDIR /work
ENTRYPOINT ["mammovae"]
CMD ["--help"]
