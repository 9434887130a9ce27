#!/bin/sh
# Builds one binary for amd64 or arm64, from within the build stage of the images. /out is what the image gets: the binary,
# and libraries that the base does not have.
set -eu
case "$1" in
    amd64) triple=x86_64-linux-gnu target=x86_64-unknown-linux-gnu ;;
    arm64) triple=aarch64-linux-gnu target=aarch64-unknown-linux-gnu ;;
    *) echo "no images for $1; only for amd64 and arm64" >&2; exit 64 ;;
esac
variable=$(echo "$target" | tr 'a-z-' 'A-Z_')
export "CARGO_TARGET_${variable}_LINKER=$triple-gcc"
cargo build --locked --release --target "$target" --package "$2" --bin "$2"

bin=/out/usr/local/bin lib=/out/usr/lib/$triple
mkdir -p "$bin" "$lib"
"$triple-strip" -o "$bin/$2" "target/$target/release/$2"
for library in libelf.so.1 libz.so.1 libzstd.so.1; do
    if "$triple-objdump" -p "$bin/$2" "$lib"/*.so.* 2> /dev/null | grep -q "NEEDED *$library\$"; then
        cp --dereference "/usr/lib/$triple/$library" "$lib/"
    fi
done
