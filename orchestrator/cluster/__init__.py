"""The only package that imports ray: connection, training on Ray Train, searches on Ray Tune,
events.

Imports no module of its own: the actor behind `events` would pay for torch with every start.
"""

from orchestrator.account import complete_environment

# Here, and not in the worker: the modules below import Ray, which looks for a home folder at
# import.
complete_environment()
