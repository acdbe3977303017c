"""Packages of the distribution: those in robustprune/, and the recipes, which stand in recipes/."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["robustprune*"]), "robustprune.recipes"],
    package_dir={"robustprune.recipes": "recipes"},
)
