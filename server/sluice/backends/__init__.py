"""What runs a model, behind one narrow waist; loaded only inside worker processes.

May import the nouns; start at base.py.
"""
