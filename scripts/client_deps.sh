#!/usr/bin/env bash
# The NATS clients that the programs of docs/clients.md use, into target/clients: tests/client_snippets.rs runs them there.
# A language that this machine lacks is skipped, loudly; with NATS_RING_REQUIRE_CLIENTS=1 that is a failure.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PYTHON_CLIENT=nats-py==2.16.0
GO_CLIENT=github.com/nats-io/nats.go@v1.55.0
JAVASCRIPT_CLIENT=@nats-io/transport-node@3.4.0
STEP_LIMIT_SECONDS=600 # no download may take longer

into=$PWD/${CARGO_TARGET_DIR:-target}/clients
case ${CARGO_TARGET_DIR:-} in /*) into=$CARGO_TARGET_DIR/clients ;; esac
mkdir -p "$into"

say() { printf 'scripts/client_deps.sh: %s\n' "$*"; }
have() { command -v "$1" >/dev/null 2>&1; }

# Runs a command with the step limit, its output kept for the message in case it fails.
quietly() {
    printf '$ %s\n' "$*" >>"$into/log"
    if have timeout; then timeout "$STEP_LIMIT_SECONDS" "$@" >>"$into/log" 2>&1; else "$@" >>"$into/log" 2>&1; fi
}

python() {
    { have uv && quietly uv pip install --target "$1" "$PYTHON_CLIENT"; } ||
        quietly python3 -m pip install --disable-pip-version-check --target "$1" "$PYTHON_CLIENT"
}

# A module of its own, so that programs in folders below it find the client. The toolchain that is there has to do.
go_module() {
    (
        cd "$1"
        export GOTOOLCHAIN=local
        quietly go mod init clients.local && quietly go get "$GO_CLIENT" &&
            # Compiled once here, so that the first program does not wait for it.
            quietly go build "${GO_CLIENT%@*}"
    )
}

javascript() {
    printf '{"private": true}\n' >"$1/package.json"
    quietly npm install --no-audit --no-fund --no-save --prefix "$1" "$JAVASCRIPT_CLIENT"
}

missing=()
# install FOLDER CLIENT HOW PROGRAM...: once per version; a folder is there as a whole or not at all.
install() {
    local folder=$1 client=$2 how=$3 program
    shift 3
    for program in "$@"; do
        if ! have "$program"; then
            say "**** there is no $program here: the $folder programs of docs/clients.md cannot be run ****"
            missing+=("$folder")
            return
        fi
    done
    if [ "$(cat "$into/$folder/.client" 2>/dev/null || true)" = "$client" ]; then
        say "$folder: $client is already there"
        return
    fi
    rm -rf "${into:?}/$folder" "$into/.$folder.$$"
    mkdir -p "$into/.$folder.$$"
    if "$how" "$into/.$folder.$$"; then
        printf '%s\n' "$client" >"$into/.$folder.$$/.client"
        mv "$into/.$folder.$$" "$into/$folder"
        say "$folder: $client installed"
    else
        rm -rf "$into/.$folder.$$"
        tail -n 20 "$into/log" | sed 's/^/    /' >&2
        say "**** $folder: $client cannot be had (the last words are above): its programs cannot be run ****"
        missing+=("$folder")
    fi
}

: >"$into/log"
install python "$PYTHON_CLIENT" python python3
install go "$GO_CLIENT" go_module go
install javascript "$JAVASCRIPT_CLIENT" javascript node npm

if [ ${#missing[@]} -gt 0 ] && [ "${NATS_RING_REQUIRE_CLIENTS:-0}" = 1 ]; then
    say "missing: ${missing[*]}; NATS_RING_REQUIRE_CLIENTS=1 asks for all" >&2
    exit 1
fi
