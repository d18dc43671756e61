"""Models of other formats made into ONNX, offline and without torch. Imports only the nouns; start at importer.py."""
