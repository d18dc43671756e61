"""Models of other formats made into ONNX, offline. Imports the nouns and `store`; start at kinds.py."""
