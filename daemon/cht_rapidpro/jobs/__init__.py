"""One class per long-running coroutine: collaborators in `__init__`, `async def run`."""
