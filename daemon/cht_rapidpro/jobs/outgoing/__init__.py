"""The first coroutine: follows CouchDB's `_changes` feed and sends pending messages through RapidPro."""
