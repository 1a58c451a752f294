"""The only package that imports ray: connection, training on Ray Train, searches on Ray Tune,
events.

It imports none of its own modules: otherwise every start of the `events` actor would import torch.
"""

from orchestrator.account import complete_environment

# Called here and not in the worker: Ray looks for a home folder when the modules below import it.
complete_environment()
