"""Incoming messages on disk while CouchDB takes none."""
