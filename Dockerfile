# The binaries of RIK in one image: what runs is chosen by the command, as in compose.yaml.

FROM docker.io/library/rust:1-slim-bookworm AS build
WORKDIR /rik
COPY . .
RUN cargo build --release --locked

FROM docker.io/library/debian:bookworm-slim
# iptables publishes the ports of pods; certificates are for registries.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates iptables \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build \
    /rik/target/release/controller \
    /rik/target/release/scheduler \
    /rik/target/release/riklet \
    /rik/target/release/rikctl \
    /usr/local/bin/
