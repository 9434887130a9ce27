#!/bin/sh
# Builds one binary for amd64 or arm64 into /out, from within the build stage of the images.
set -eu
case "$1" in
    amd64) target=x86_64-unknown-linux-gnu linker=x86_64-linux-gnu-gcc ;;
    arm64) target=aarch64-unknown-linux-gnu linker=aarch64-linux-gnu-gcc ;;
    *) echo "no images for $1; only for amd64 and arm64" >&2; exit 64 ;;
esac
variable=$(echo "$target" | tr 'a-z-' 'A-Z_')
export "CARGO_TARGET_${variable}_LINKER=$linker"
cargo build --locked --release --target "$target" --package "$2" --bin "$2"
mkdir -p /out
cp "target/$target/release/$2" "/out/$2"
