"""What runs a model, behind one narrow waist. Loaded only inside worker processes; imports only the nouns; start at base.py."""
