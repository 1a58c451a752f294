"""What `python -m benchmarks.data_loading` is made of: images, contestants, settings and the layout
of results."""
