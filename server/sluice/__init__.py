"""An inference server for models whose inputs differ in length; the map of its parts is server/README.md."""

__version__ = "0.1.0"
