# The image of agentd, as a sidecar or as the base of a workspace image's last stage.
#
#   docker build -t agentd .
#   docker run --read-only --volume agentd-state:/var/lib/agentd --env-file agent.env agentd
#
# It runs as uid 65532 or any other uid, with or without an entry in /etc/passwd, on a read-only root; what it writes is
# below /var/lib/agentd. As process 1 it handles its signals and waits for orphans itself; tini in front does no harm.

# Another mirror, or a digest where builds must be repeatable to the byte: --build-arg BASE=...@sha256:...
ARG BASE=docker.io/library/python:3.13-slim

FROM ${BASE} AS build
WORKDIR /src
# The tools in one environment, what is shipped in another: no pip, no compiler, no source tree in the image.
RUN python3 -m venv /tools && python3 -m venv --without-pip /opt/agentd
COPY packaging/requirements.txt packaging/
# Versions and hashes are pinned; wheels only, since there is no compiler here to fall back on.
RUN /tools/bin/pip --python /opt/agentd/bin/python3 install --no-cache-dir --disable-pip-version-check --no-compile \
      --only-binary=:all: --require-hashes --requirement packaging/requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY systemd systemd
COPY agentd agentd
RUN /tools/bin/pip --python /opt/agentd/bin/python3 install --no-cache-dir --disable-pip-version-check --no-compile \
      --no-deps . \
# Types for a checker and C sources are of no use at run time.
 && find /opt/agentd \( -name '*.pyi' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.c' -o -name '*.h' \) -delete \
# Without compiled modules a start takes six times as long, and a read-only root never gets them. Unchecked: nobody
# edits a module in an image, and a copied file's time says nothing.
 && /opt/agentd/bin/python3 -m compileall -q --invalidation-mode unchecked-hash /opt/agentd/lib \
# A new volume takes this mode over. World-writable and sticky, like /tmp, since any uid may be the one to run; agentd
# makes a directory of its own below, mode 0700. Copied as a tree, because COPY keeps modes only below what it names.
 && install -d -m 0755 /out/opt /out/var/lib /out/etc/agentd/hooks/on-claim.d \
 && install -d -m 1777 /out/var/lib/agentd \
 && mv /opt/agentd /out/opt/

FROM ${BASE}
LABEL org.opencontainers.image.title="agentd" \
      org.opencontainers.image.description="Agent-side sidecar for Coder workspaces" \
      org.opencontainers.image.licenses="MIT"
COPY --from=build /out /
# Where the state is stands here and not in the command, so that `docker exec … agentd status` finds the daemon too.
ENV PATH=/opt/agentd/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    AGENTD_STATE_DIR=/var/lib/agentd/state
USER 65532:65532
WORKDIR /
VOLUME ["/var/lib/agentd"]
STOPSIGNAL SIGTERM
# Through the unix socket: the event loop answers, whatever coderd does.
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s --retries=3 CMD ["agentd", "status", "--oneline"]
ENTRYPOINT ["agentd"]
CMD ["run"]
