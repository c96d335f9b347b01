"""Panels: what an evaluation shows beside its metrics."""

from tbtrainer.panels.panel import Kept, KeptOfAllRanks, Panel, PanelBatch, PanelEvaluation

__all__ = ["Kept", "KeptOfAllRanks", "Panel", "PanelBatch", "PanelEvaluation"]
