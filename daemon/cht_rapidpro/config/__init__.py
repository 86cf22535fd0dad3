"""The configuration file: its schema, how it is read, and the secrets that it names."""
