"""Reads RapidPro's listings page by page."""
