"""What asyncio leaves to its users: ending tasks, the loop's clock, waits with a limit, signals."""
