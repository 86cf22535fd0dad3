"""The only code that does I/O; each module translates foreign errors once, at its edge."""
