"""What the daemon tells of itself: logs, metrics, the state of its dependencies, its liveness."""
