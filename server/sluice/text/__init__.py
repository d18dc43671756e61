"""Texts to tokens and answers to words: what turns a text into entries for the engine, and outputs into answers.

May import whatever is below `frontends`. Start at `tokenizing.py`.
"""
