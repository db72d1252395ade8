#!/bin/sh
# Generates internal/gen from thrift/pando.thrift, or says with --check whether internal/gen is what the compiler makes.
#
#     ./generate.sh [--check]
#
# It needs the Thrift compiler 0.17 (Debian 12: thrift-compiler) and gofmt.
set -eu
cd "$(dirname "$0")"

made=$(mktemp -d)
trap 'rm -rf "$made"' EXIT
thrift --gen go:skip_remote,package=gen -out "$made" ../../thrift/pando.thrift
gofmt -w "$made/gen"
# Protects the package from being seen as unused, which nothing here needs.
rm "$made/gen/GoUnusedProtection__.go"

if [ "${1:-}" = --check ]; then
  diff -r "$made/gen" internal/gen >&2 || {
    echo "clients/go/internal/gen is not what the compiler makes of thrift/pando.thrift: run clients/go/generate.sh" >&2
    exit 1
  }
else
  rm -rf internal/gen
  mv "$made/gen" internal/gen
fi
