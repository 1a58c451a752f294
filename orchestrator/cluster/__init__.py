"""The only package that imports ray: connection, training on Ray Train, searches on Ray Tune, events."""

from orchestrator.cluster.connection import Cluster, connected
from orchestrator.cluster.events import EventChannel, StageEvent
from orchestrator.cluster.stage import StageRun

__all__ = ["Cluster", "EventChannel", "StageEvent", "StageRun", "connected"]
