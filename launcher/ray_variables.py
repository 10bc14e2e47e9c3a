"""What Ray is told by environment variables; its processes inherit them from whoever starts it."""

RAY_VARIABLES = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Without it, a Ray actor that asked for no GPU sees all of them.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    # It would tell ranks of preemptions, and ours do not ask; a process, and seconds of a CPU at every start of ranks.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # Ray ends idle workers after a second while ranks hold the CPUs, and a new one takes seconds to import what we
    # need: a third of a refresh, where an epoch is short. Where it is longer than this, that no longer matters.
    "RAY_idle_worker_killing_time_threshold_ms": "600000",
}
