"""Reads run directories back: those of tbtrainer, `Trainer`, Lightning, Keras and others.

Neither PyTorch nor transformers is imported.
"""

from tbtrainer.reading.histograms import HistogramValue
from tbtrainer.reading.hparams import HParams
from tbtrainer.reading.index import ScannedFile
from tbtrainer.reading.records import Record, ScalarChunk, TableChunk, TagInfo
from tbtrainer.reading.run import Run, read_run
from tbtrainer.reading.run_files import NotARun, find_runs
from tbtrainer.reading.sessions import Session
from tbtrainer.reading.stored_image import StoredImage
from tbtrainer.reading.values import ImageValue, PrCurveValue

__all__ = [
    "HParams",
    "HistogramValue",
    "ImageValue",
    "NotARun",
    "PrCurveValue",
    "Record",
    "Run",
    "ScalarChunk",
    "ScannedFile",
    "Session",
    "StoredImage",
    "TableChunk",
    "TagInfo",
    "find_runs",
    "read_run",
]
