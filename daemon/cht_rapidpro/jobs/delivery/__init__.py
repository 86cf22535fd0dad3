"""The third coroutine: polls RapidPro for the states of sent messages."""
