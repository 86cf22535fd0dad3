"""What may change while the daemon runs: CHT's app settings, credentials, the configuration file."""
