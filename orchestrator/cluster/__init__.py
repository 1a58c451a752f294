"""The only package that imports ray: connection, training on Ray Train, searches on Ray Tune, events.

Imports nothing itself: the actor behind `events` would pay for torch with every start.
"""
