"""The listeners of the daemon: the webhook and the admin listener with the operator's page."""
