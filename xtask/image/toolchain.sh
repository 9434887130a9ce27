#!/bin/sh
# What the build stage of the images needs beside Rust, for amd64 or arm64 whatever the builder is.
set -eu
case "$1" in
    amd64) target=x86_64-unknown-linux-gnu compiler=gcc-x86-64-linux-gnu ;;
    arm64) target=aarch64-unknown-linux-gnu compiler=gcc-aarch64-linux-gnu ;;
    *) echo "no images for $1; only for amd64 and arm64" >&2; exit 64 ;;
esac
if [ "$(dpkg --print-architecture)" = "$1" ]; then
    compiler=gcc
fi
dpkg --add-architecture "$1"
apt-get update
# The C library is the target's; libelf and zlib are the target's and the builder's, whose build scripts load what clang
# compiled for the kernel.
DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
    "$compiler" clang make pkg-config "libc6-dev:$1" libelf-dev "libelf-dev:$1" zlib1g-dev "zlib1g-dev:$1"
rm -rf /var/lib/apt/lists/*
# A toolchain without rustup has its own target only.
if command -v rustup > /dev/null; then
    rustup target add "$target"
fi
