#!/usr/bin/env bash
# What is to be known of a GPU, in a few minutes and without a network; run.py says how.
#
#   bash benchmarks/gpu/run.sh --seconds 600 --out .gpu [--data DIR] [--part tests|steps|train] [--max-steps N]
set -euo pipefail
cd "$(dirname "$0")/../.."
exec "${PYTHON:-python3}" benchmarks/gpu/run.py "$@"
