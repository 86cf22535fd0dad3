"""The SMS gateway between the Community Health Toolkit (CHT) and RapidPro."""
