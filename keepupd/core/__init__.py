"""Decisions, as values in and values out: no clock, no network, no database, no log in this folder."""
