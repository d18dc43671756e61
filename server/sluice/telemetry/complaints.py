"""What goes wrong again and again is said once, and once more when it is over."""

import logging


class Complaint:
    """One kind of trouble; `text` is what is wrong now."""

    def __init__(self, log: logging.Logger, level: int = logging.WARNING) -> None:
        self._log = log
        self._level = level
        self._sort = ""
        self.text = ""

    def raised(self, text: str, *, sort: str = "") -> None:
        """Something is wrong. `sort` is the part of it by which it is recognised, where the text has numbers in it."""
        if (sort or text) != self._sort:
            self._log.log(self._level, "%s", text)
        self._sort = sort or text
        self.text = text

    def over(self, text: str) -> None:
        """It went well."""
        if self.text:
            self._log.info("%s", text)
        self.text = self._sort = ""
