"""Writes documents back: every edit is decided on the latest revision, and no other edit is lost."""
