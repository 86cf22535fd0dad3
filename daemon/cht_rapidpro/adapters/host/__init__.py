"""The machine: systemd and the state directory."""
