#!/bin/sh
# What the build stage of the images needs beside Rust, for amd64 or arm64 whatever the builder is.
set -eu
case "$1" in
    amd64) target=x86_64-unknown-linux-gnu compiler=gcc-x86-64-linux-gnu libc=libc6-dev-amd64-cross ;;
    arm64) target=aarch64-unknown-linux-gnu compiler=gcc-aarch64-linux-gnu libc=libc6-dev-arm64-cross ;;
    *) echo "no images for $1; only for amd64 and arm64" >&2; exit 64 ;;
esac
packages="gcc libc6-dev make pkg-config"
if [ "$(dpkg --print-architecture)" != "$1" ]; then
    packages="$packages $compiler $libc"
fi
apt-get update
# shellcheck disable=SC2086
DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $packages
rm -rf /var/lib/apt/lists/*
# A toolchain without rustup has its own target only.
if command -v rustup > /dev/null; then
    rustup target add "$target"
fi
