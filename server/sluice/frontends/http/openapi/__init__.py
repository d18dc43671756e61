"""The HTTP routes described as OpenAPI 3.1.

`operations.py` says what each takes and gives, `document.py` makes the document of it, `page.py` a page for people.
"""
