"""Incoming SMS as CHT records: what a text and the form definitions of CHT's app settings make of each other."""
