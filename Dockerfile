# The image of agentd, for a sidecar or as the base of a workspace image.
#
#   docker build -t agentd .
#   docker run --read-only --volume agentd-state:/var/lib/agentd --env-file agent.env agentd
#
# It runs as uid 65532 or any other uid, with or without an entry in /etc/passwd, on a read-only root. It
# writes only below /var/lib/agentd. As process 1 it handles its signals and reaps orphaned processes; tini is
# not needed, but works.

# For another registry, or a digest for reproducible builds: --build-arg BASE=...@sha256:...
ARG BASE=docker.io/library/python:3.13-slim

FROM ${BASE} AS build
WORKDIR /src
# Build tools are in one environment, the shipped packages in another. The image has no pip, compiler or
# source tree.
RUN python3 -m venv /tools && python3 -m venv --without-pip /opt/agentd
COPY packaging/requirements.txt packaging/
# Versions and hashes are pinned. Wheels only, because there is no compiler.
RUN /tools/bin/pip --python /opt/agentd/bin/python3 install --no-cache-dir --disable-pip-version-check --no-compile \
      --only-binary=:all: --require-hashes --requirement packaging/requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY systemd systemd
COPY agentd agentd
RUN /tools/bin/pip --python /opt/agentd/bin/python3 install --no-cache-dir --disable-pip-version-check --no-compile \
      --no-deps . \
# Type stubs and C sources are not needed at run time.
 && find /opt/agentd \( -name '*.pyi' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.c' -o -name '*.h' \) -delete \
# Without compiled modules a start takes six times as long, and Python cannot write them on a read-only root.
# Unchecked, because modules in an image do not change and the time of a copied file is arbitrary.
 && /opt/agentd/bin/python3 -m compileall -q --invalidation-mode unchecked-hash /opt/agentd/lib \
# A new volume inherits this mode. It is 1777, like /tmp, because the container may run as any uid; agentd
# creates a directory with mode 0700 in it. COPY keeps modes only below the path that it names, so copy the
# tree from /out.
 && install -d -m 0755 /out/opt /out/var/lib /out/etc/agentd/hooks/on-claim.d \
 && install -d -m 1777 /out/var/lib/agentd \
 && mv /opt/agentd /out/opt/

FROM ${BASE}
LABEL org.opencontainers.image.title="agentd" \
      org.opencontainers.image.description="Agent-side sidecar for Coder workspaces" \
      org.opencontainers.image.licenses="MIT"
COPY --from=build /out /
# The state directory is set here and not in CMD, so that `docker exec … agentd status` uses the same one.
ENV PATH=/opt/agentd/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    AGENTD_STATE_DIR=/var/lib/agentd/state
USER 65532:65532
WORKDIR /
VOLUME ["/var/lib/agentd"]
STOPSIGNAL SIGTERM
# Uses the unix socket, so it shows whether the event loop runs, independent of coderd.
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s --retries=3 CMD ["agentd", "status", "--oneline"]
ENTRYPOINT ["agentd"]
CMD ["run"]
