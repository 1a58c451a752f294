"""Reads, identifies, fits, loads and saves weights of any known layout."""
