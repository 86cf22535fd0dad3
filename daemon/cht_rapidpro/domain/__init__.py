"""Pure: values in, values out. No I/O, no clock, no asyncio, no logging (checked by import-linter)."""
