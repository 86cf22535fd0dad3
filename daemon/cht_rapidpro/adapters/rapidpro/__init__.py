"""Everything that asks RapidPro."""
