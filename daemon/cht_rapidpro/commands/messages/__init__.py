"""`cht-rapidpro messages …`: see, explain and order about single messages, while the daemon runs or not."""
