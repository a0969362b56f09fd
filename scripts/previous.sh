#!/usr/bin/env bash
# The program as an earlier commit has it, into target/previous/nats-ring: tests/rolling_upgrade.rs runs it beside today's.
#   scripts/previous.sh [COMMIT]     default: what tests/previous-version names, if there is such a file, else HEAD^1
# Built from `git archive`, so neither uncommitted changes nor the checked-out tree matter; nothing outside target/ is written.
# Without the history it says what is missing; with NATS_RING_REQUIRE_PREVIOUS=1 that is a failure.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

into=$PWD/${CARGO_TARGET_DIR:-target}/previous
case ${CARGO_TARGET_DIR:-} in /*) into=$CARGO_TARGET_DIR/previous ;; esac

say() { printf 'scripts/previous.sh: %s\n' "$*"; }

# Nothing can be built: loud, and fatal only where it is required.
without() {
    say "**** $1: tests/rolling_upgrade.rs cannot be run ****" >&2
    [ "${NATS_RING_REQUIRE_PREVIOUS:-0}" != 1 ] || { say "NATS_RING_REQUIRE_PREVIOUS=1 asks for it" >&2; exit 1; }
    exit 0
}

wanted=HEAD^1 # of a merge, the first parent: what was there before
[ ! -s tests/previous-version ] || wanted=$(head -n 1 tests/previous-version)
wanted=${1:-$wanted}

[ "$(git rev-parse --show-prefix 2>/dev/null || echo none)" = "" ] ||
    without "this folder is no clone of the repository, so there is no earlier commit (a source archive?)"
if ! commit=$(git rev-parse --verify --quiet "$wanted^{commit}"); then
    [ "$(git rev-parse --is-shallow-repository)" = true ] &&
        without "commit $wanted is not in this shallow clone; 'git fetch --unshallow' brings the history"
    without "there is no commit $wanted"
fi

if [ -x "$into/nats-ring" ] && [ "$(cat "$into/commit" 2>/dev/null || true)" = "$commit" ]; then
    say "$wanted ($commit) is built already"
    exit 0
fi

begin=$(date +%s)
rm -rf "$into/nats-ring" "$into/commit" "$into/source"
mkdir -p "$into/source"
# -m: files are as old as this build. With the commit's own times cargo would take them for what it built before.
git archive --format=tar "$commit" | tar -x -m -C "$into/source"
(
    cd "$into/source"
    # Its dependencies stay from one commit to the next; debugging it is not what it is for.
    CARGO_TARGET_DIR=$into/target CARGO_PROFILE_DEV_DEBUG=none CARGO_INCREMENTAL=0 \
        cargo build --locked --bin nats-ring
)
cp "$into/target/debug/nats-ring" "$into/nats-ring"
rm -rf "$into/source"
printf '%s\n' "$commit" >"$into/commit"
say "$wanted ($commit) built in $(($(date +%s) - begin)) s"
