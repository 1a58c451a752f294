"""What the doctor checks: facts about machines, stores and data, and the verdicts on them.

Imports no Ray, reads nothing and writes nothing. `orchestrator.cluster` collects the facts.
"""
