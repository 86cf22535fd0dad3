"""Everything that asks or writes CouchDB."""
