# An image with symbolond and symbolon, built from source. Dockerfile.prebuilt makes one from programs that are already built.
ARG BUILDER_IMAGE=rust:1.95-bookworm
ARG BASE_IMAGE=debian:bookworm-slim

FROM ${BUILDER_IMAGE} AS build
WORKDIR /src
# What the build needs beside the Rust toolchain, in a layer of its own.
COPY .cargo .cargo
COPY scripts/setup.sh scripts/setup.sh
RUN mkdir -p protocol rpc node client sim tests && scripts/setup.sh && rm -rf /var/lib/apt/lists/*
COPY Cargo.toml Cargo.lock ./
COPY protocol protocol
COPY rpc rpc
COPY node node
COPY client client
COPY sim sim
COPY tests tests
RUN cargo build --release --locked --workspace
# Mount points with the owner that the programs run as: a fresh named volume takes the owner of its place in the image.
RUN mkdir -p /image/data/admin /image/data/node1 /image/data/node2 /image/data/node3 /image/data/node4 /image/data/node5

FROM ${BASE_IMAGE}
COPY --from=build /src/target/release/symbolond /src/target/release/symbolon /usr/local/bin/
COPY --from=build --chown=10001:10001 /image/data /data
USER 10001:10001
WORKDIR /data
ENTRYPOINT ["/usr/local/bin/symbolond"]
