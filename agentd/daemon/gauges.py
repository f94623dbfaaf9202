"""What an alert needs to know of a daemon beside the counters of its rooms. Read at each scrape, kept nowhere."""

from agentd.daemon.last_stop import LastStop, RunState
from agentd.metrics import Registry
from agentd.snapshots.spool import Spool
from agentd.stability.tracker import AgentStatus, Tracker
from agentd.state_dir import StateDir

_ANSWERS = {AgentStatus.RUNNING, AgentStatus.SETTLING, AgentStatus.STABLE}


def register(
    metrics: Registry,
    *,
    started_at: float,
    tracker: Tracker,
    state: StateDir,
    spool: Spool,
    last_stop: LastStop,
) -> None:
    """`started_at` is in Unix seconds."""
    metrics.gauge("agentd_start_time_seconds", "When this daemon started, Unix seconds.").set(started_at)
    metrics.gauge("agentd_agent_reachable", "1 while the agent answers.").read_from(
        lambda: float(tracker.state in _ANSWERS)
    )
    metrics.gauge("agentd_agent_idle", "1 while the agent is stable.").read_from(
        lambda: float(tracker.state is AgentStatus.STABLE)
    )
    metrics.gauge("agentd_state_writable", "1 while the state directory takes writes.").read_from(
        lambda: float(state.writable())
    )
    metrics.gauge("agentd_snapshot_bytes", "Size of the newest snapshot, 0 without one.").read_from(
        lambda: float(len(newest.payload)) if (newest := spool.newest()) else 0.0
    )
    before = last_stop.previous
    metrics.gauge(
        "agentd_last_run_cut_off", "1 when the run before this one was killed before it had stopped in order."
    ).set(float(before is not None and before.state is not RunState.STOPPED))
