# The body of the run_on_start script: starts agentd and returns. Settings are exported above it.
set -eu
command -v "$AGENTD" >/dev/null || {
  echo "agentd: $AGENTD is not in this image; install it there, see docs/operations.md" >&2
  exit 1
}
logs="${AGENTD_STATE_DIR:-${XDG_STATE_HOME:-$HOME/.local/state}/agentd}"
mkdir -p "$logs"
log="$logs/agentd.log"
[ ! -f "$log" ] || mv "$log" "$log.1"
# A session of its own, or the Coder agent's SIGHUP to this script's process group ends it; all three descriptors
# elsewhere, or the script counts as running until they close, and they are closed by force after 10 s.
setsid "$AGENTD" run >"$log" 2>&1 </dev/null &
# It answers within half a second; ten are for a machine that is busy starting.
tries=100
until "$AGENTD" status --oneline 2>/dev/null; do
  tries=$((tries - 1))
  if [ "$tries" -eq 0 ] || ! kill -0 $! 2>/dev/null; then
    echo "agentd did not start; the end of $log:" >&2
    tail -n 5 "$log" >&2
    exit 1
  fi
  sleep 0.1
done
