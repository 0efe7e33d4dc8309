# The daemon's image: one process, not root, its data on a volume.
FROM python:3.11-slim AS build
WORKDIR /src
COPY pyproject.toml README.md ./
COPY objstore ./objstore
RUN pip install --no-cache-dir --prefix=/install .

FROM python:3.11-slim
COPY --from=build /install /usr/local
RUN useradd --system --uid 10001 --home-dir /data objstore \
    && mkdir -p /data && chown objstore /data
USER objstore
VOLUME /data
# S3 and admin; rpc (TCP) and gossip (UDP).
EXPOSE 9000 7000/tcp 7000/udp
ENV OBJSTORE_NODE_DATA=/data \
    OBJSTORE_S3_ADDRESS=0.0.0.0:9000 \
    OBJSTORE_CLUSTER_ADDRESS=0.0.0.0:7000
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s \
    CMD ["python", "-m", "objstore.cli.probe"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["objstore"]
CMD ["serve"]
