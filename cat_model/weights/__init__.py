"""Weights of any known layout: read, identified, fitted, loaded and saved."""
