"""The second coroutine: stores what RapidPro's webhook brings."""
