"""What the clients of CouchDB and RapidPro share."""
