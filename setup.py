"""Lets old tools install the package; all metadata is in setup.cfg."""

from setuptools import setup

setup()
