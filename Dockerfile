# One image for tracker and peer: `docker run IMAGE tracker …` or `docker run IMAGE peer serve /share …`.
# BASE may be any image with `useradd`, and Python 3.11 or newer as `python3`. Nothing is installed into it unless
# TRANSPORT=grpc. Then pip installs that extra; its settings (PIP_INDEX_URL and the like) are build arguments.
ARG BASE=python:3.11-slim
FROM ${BASE}
ARG TRANSPORT=tcp

RUN groupadd --gid 10001 enjambre \
 && useradd --uid 10001 --gid 10001 --home-dir /state --no-create-home --shell /usr/sbin/nologin enjambre \
 && install -d -o 10001 -g 10001 -m 0750 /state /share

ARG PIP_INDEX_URL PIP_NO_INDEX PIP_FIND_LINKS
COPY pyproject.toml /opt/enjambre/
RUN if [ "$TRANSPORT" != tcp ]; then \
      cd /opt/enjambre \
      && python3 -c 'import sys, tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"][sys.argv[1]], sep="\n")' \
           "$TRANSPORT" > /tmp/extra.txt \
      && python3 -m pip install --no-cache-dir --break-system-packages --root-user-action=ignore -r /tmp/extra.txt \
      && rm /tmp/extra.txt; \
    fi

COPY p2p/ /opt/enjambre/p2p/
COPY transports/ /opt/enjambre/transports/
COPY protos/ /opt/enjambre/protos/
COPY bin/ /opt/enjambre/bin/
COPY deploy/entrypoint.sh deploy/healthcheck.py /opt/enjambre/deploy/
# Byte code is compiled here, because the running container has a read-only file system.
RUN python3 -m compileall -q /opt/enjambre

ENV HOME=/state P2P_STATE=/state P2P_TRANSPORT=${TRANSPORT}
USER 10001:10001
WORKDIR /share
VOLUME ["/state", "/share"]
EXPOSE 6969 6970 6971
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 CMD ["python3", "-I", "-S", "/opt/enjambre/deploy/healthcheck.py"]
ENTRYPOINT ["/bin/sh", "/opt/enjambre/deploy/entrypoint.sh"]
CMD ["peer", "serve", "/share"]
