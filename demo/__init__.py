"""What `make demo`, the tests and the benchmarks run against: a CouchDB stand-in and a RapidPro simulator."""
