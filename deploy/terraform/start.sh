# Body of the run_on_start script: starts agentd and returns. The lines before it export the settings.
set -eu
command -v "$AGENTD" >/dev/null || {
  echo "agentd: $AGENTD is not in this image; install it (see docs/operations.md)" >&2
  exit 1
}
logs="${AGENTD_STATE_DIR:-${XDG_STATE_HOME:-$HOME/.local/state}/agentd}"
mkdir -p "$logs"
log="$logs/agentd.log"
[ ! -f "$log" ] || mv "$log" "$log.1"
# setsid: otherwise the Coder agent's SIGHUP to the process group of this script ends agentd. Redirect all
# three descriptors: otherwise the script counts as running, and the Coder agent closes them after 10 s.
setsid "$AGENTD" run >"$log" 2>&1 </dev/null &
# agentd answers within 0.5 s; wait up to 10 s on a busy machine.
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
